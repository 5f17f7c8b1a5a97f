"""GPU 上的速度：124M 的训练与采样同 nanoGPT 轮流相比，以及 gpt2-xl 能不能训练。

`gpu_parts.py` 调用。没有给 nanoGPT（`NANOGPT`）时只量我们的一边，比值空着。
"""

import json
import os
import subprocess
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs import DATASET, JOBS, Arena, TrainJob, flags
from processes import ROOT, run
from report import median, turns
from sample import SAMPLE_JOBS, make_checkpoint, measure_rounds
from train import flops_per_token, iterations, measure_steps, start_event

TINY = {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 32, "device": "cpu", "dtype": "float32",
        "compile": False}
# 同样的种子、同样的批：三百步之内两边的损失只该差半精度的舍入
CURVE_STEPS, CURVE_TOLERANCE = 285, 0.02
XL = {"n_layer": 48, "n_head": 25, "n_embd": 1600, "block_size": 1024, "batch_size": 1}


def gpu_job(is_dry: bool, batch_size: int | None = None) -> TrainJob:
    job = JOBS["GPU"]
    if is_dry:
        job = replace(job, keys={**job.keys, **TINY, "batch_size": 2}, warmup=2, steps=4)
    return replace(job, keys={**job.keys, "batch_size": batch_size}) if batch_size else job


def prepare(arena: Arena, is_dry: bool) -> None:
    """GPU 上是 GPT-2 的词表；空跑用字符数据，词表小，步子快。"""
    arena.add_char_data() if is_dry else arena.add_text_as_gpt2()


def sides(nanogpt: Path | None) -> list[str]:
    return ["ours", "nanogpt"] if nanogpt is not None else ["ours"]


def describe(arena: Arena, job: TrainJob, found: dict[str, Any]) -> dict[str, Any]:
    """一次测量换算成每秒 token 数与 MFU；两边按同一个公式与峰值。"""
    if "step_ms" not in found:
        return found
    keys = job.keys
    tokens_per_second = keys["batch_size"] * keys["block_size"] / found["step_ms"] * 1e3
    start = start_event(arena)
    if start is None or start["peak_flops"] is None:
        return {**found, "tokens_per_second": tokens_per_second, "mfu": None}
    mfu = tokens_per_second * flops_per_token(start["params"], keys) / start["peak_flops"]
    return {**found, "tokens_per_second": tokens_per_second, "mfu": mfu}


def gpu_memory_used_mib() -> float | None:
    try:
        found = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
                               capture_output=True, text=True, timeout=20)
        return float(found.stdout.split()[0])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return None


def wait_for_free_memory(limit_s: float = 10.0) -> None:
    """被杀的进程的显存要过一会儿才归还；等到几乎空了再起下一个。"""
    began = time.monotonic()
    while (gpu_memory_used_mib() or 0) > 2000 and time.monotonic() - began < limit_s:
        time.sleep(0.5)


def warm_compile_cache(part: Any, nanogpt: Path | None, is_dry: bool) -> bool:
    """同时起两边、几种微批各一步：只为填编译缓存，结果不用，显存不够也无妨。

    编译是 CPU 上的事，一起做比在计时的各部分里一个个地做快得多。
    """
    if is_dry:
        part.put(said="nothing is compiled in a dry run")
        return True
    batches = [12, *map(int, os.environ.get("BATCHES", "32 64").split()[:2])]
    with Arena(nanogpt) as arena, ThreadPoolExecutor(8) as pool:
        prepare(arena, is_dry=False)
        futures = {}
        for batch_size in batches:
            for side in sides(nanogpt):
                keys = {**gpu_job(False, batch_size).keys, "dataset": DATASET, "out_dir": f"out-{side}-{batch_size}",
                        "max_iters": 0, "eval_iters": 1, "eval_interval": 1_000_000, "lr_decay_iters": 1000}
                futures[f"{side} {batch_size}"] = pool.submit(
                    run, arena.command(side, "train", flags(keys)), arena.cwd(side), max(part.left_s(), 5))
        done = {name: future.result() for name, future in futures.items()}
    for name, finished in done.items():
        print(f"{name}: exit {finished.returncode}, {finished.wall_s:.0f} s"
              + (f": {finished.tail(1)[:200]}" if finished.returncode else ""))
    part.put(runs={name: {"returncode": f.returncode, "wall_s": f.wall_s} for name, f in done.items()})
    return any(finished.returncode == 0 for finished in done.values())


def measure_speed(part: Any, nanogpt: Path | None, is_dry: bool) -> bool:
    """同样的微批（12），两轮，轮流。第一轮走三百步，顺便比较两边的损失曲线。"""
    job, rounds = gpu_job(is_dry), []
    with Arena(nanogpt) as arena:
        prepare(arena, is_dry)
        for i, order in enumerate(turns(1 if is_dry else 2)):
            found, steps = {}, job.steps if is_dry or i else CURVE_STEPS
            for side in [side for side in order if side in sides(nanogpt)]:
                if part.left_s() < 10:
                    break
                found[side] = describe(arena, job, measure_steps(arena, side, job, steps, [], part.left_s()))
                say(side, job, found[side])
                if not is_dry:
                    wait_for_free_memory()
            rounds.append(found)
            part.put(rounds=rounds, batch_size=job.keys["batch_size"])
    ratios = [r["nanogpt"]["step_ms"] / r["ours"]["step_ms"] for r in rounds
              if all("step_ms" in r.get(side, {}) for side in ("ours", "nanogpt"))]
    part.put(ratios=ratios, median_ratio=median(ratios), curve=compare_curves(rounds[0]))
    return bool(ratios) if nanogpt is not None else any("step_ms" in r.get("ours", {}) for r in rounds)


def compare_curves(found: dict[str, Any]) -> dict[str, Any] | None:
    """两边每步损失之差的平均；少了一边则 None。"""
    ours, nanogpt = (found.get(side, {}).get("losses") for side in ("ours", "nanogpt"))
    if not ours or not nanogpt:
        return None
    differences = [abs(a - b) for a, b in zip(ours, nanogpt, strict=True)]
    mean = sum(differences) / len(differences)
    print(f"loss curves over {len(differences)} steps: mean difference {mean:.4f}, largest {max(differences):.4f}, "
          f"last {ours[-1]:.4f} and {nanogpt[-1]:.4f}")
    return {"steps": len(differences), "mean_difference": mean, "largest_difference": max(differences),
            "ok": mean <= CURVE_TOLERANCE}


def recipe_flags() -> list[str]:
    """`train_gpt2_modern` 里决定网络与优化器的键。"""
    keys = ("n_head", "optimizer", "learning_rate", "min_lr", "lr_schedule", "weight_decay", "rotary", "qk_norm",
            "squared_relu", "weightless_norm", "untied_head", "zero_init")
    preset = tomllib.loads((ROOT / "presets" / "train_gpt2_modern.toml").read_text(encoding="utf-8"))
    return flags({key: preset[key] for key in keys})


def measure_modern(part: Any, is_dry: bool) -> bool:
    """我们的现代配方，同样的微批：一步多久，三百步之后的损失。"""
    job = gpu_job(is_dry)
    extra = recipe_flags() + (["--n_head=2"] if is_dry else [])
    with Arena(None) as arena:
        prepare(arena, is_dry)
        steps = job.steps if is_dry else CURVE_STEPS
        found = describe(arena, job, measure_steps(arena, "ours", job, steps, extra, part.left_s()))
    say("ours, modern recipe", job, found)
    part.put(ours=found, batch_size=job.keys["batch_size"])
    return "step_ms" in found


def say(side: str, job: TrainJob, found: dict[str, Any]) -> None:
    if "step_ms" not in found:
        print(f"{side} batch {job.keys['batch_size']}: failed\n{found['error']}", flush=True)
        return
    mfu = f"{found['mfu']:.1%}" if found["mfu"] is not None else "unknown"
    print(f"{side} batch {job.keys['batch_size']}: {found['tokens_per_second']:,.0f} tokens/s, MFU {mfu}, "
          f"first line after {found['first_line_s']:.0f} s", flush=True)


def measure_batches(part: Any, nanogpt: Path | None, is_dry: bool) -> bool:
    """各自最快的微批：一个一个试，两边轮流，直到时间用完；某一边显存不够就不再试它更大的。"""
    candidates = [4] if is_dry else list(map(int, os.environ.get("BATCHES", "32 64").split()))
    found: dict[str, dict[int, dict[str, Any]]] = {side: {} for side in sides(nanogpt)}
    too_large: dict[str, int] = {}
    longest_s = 20.0
    with Arena(nanogpt) as arena:
        prepare(arena, is_dry)
        for i, batch_size in enumerate(candidates):
            for side in reversed(found) if i % 2 else found:
                if batch_size >= too_large.get(side, 1 << 30) or part.left_s() < longest_s * 1.2:
                    continue
                began = time.monotonic()
                job = gpu_job(is_dry, batch_size)
                one = describe(arena, job, measure_steps(arena, side, job, job.steps // 2, [], part.left_s()))
                say(side, job, one)
                found[side][batch_size] = one
                if one.get("out_of_memory"):
                    too_large[side] = min(batch_size, too_large.get(side, batch_size))
                if not is_dry:
                    wait_for_free_memory()
                longest_s = max(longest_s, time.monotonic() - began) if "step_ms" in one else longest_s
                part.put(measured=found, candidates=candidates)
    return all(any("step_ms" in one for one in runs.values()) for runs in found.values())


def measure_sampling(part: Any, nanogpt: Path | None, is_dry: bool) -> bool:
    """124M：一个样本，与八个一批；先逐个发核，再录成 CUDA 图。"""
    names = ["DRY"] if is_dry else ["GPU", "GPU-graph"]
    measured: dict[str, Any] = {}
    with Arena(nanogpt) as arena:
        part.put(checkpoint=make_checkpoint(arena, SAMPLE_JOBS[names[0]], 256 if is_dry else 50304))
        for name in names:
            job = SAMPLE_JOBS[name]
            try:
                measured[name] = {"title": job.title, **measure_rounds(arena, job, 1, job.tokens, nanogpt is not None)}
            except SystemExit as error:
                measured[name] = {"title": job.title, "error": str(error)}
                print(f"{job.title}: {error}", flush=True)
            part.put(measured=measured)
    for found in measured.values():
        for variant, one in found.get("variants", {}).items():
            ratio = f", ours / nanoGPT {one['median_ratio']:.2f}" if one["ratios"] else ""
            print(f"{found['title']}, {variant}: {one['tokens_per_second']:.1f} tokens/s{ratio}", flush=True)
    return all("variants" in found for found in measured.values())


def train_xl(part: Any, is_dry: bool) -> bool:
    """gpt2-xl 的形状从头训练两步，批为 1：80 GB 的一块卡上放得下。"""
    keys = {**JOBS["GPU"].keys, **({**TINY, "batch_size": 1} if is_dry else {**XL, "compile": False}),
            "dataset": DATASET, "out_dir": "out-xl", "max_iters": 2, "eval_iters": 1, "eval_interval": 1_000_000,
            "lr_decay_iters": 1000}
    with Arena(None) as arena:
        prepare(arena, is_dry)
        # 第二步一到就停：存一份 18 GB 的检查点不是这里要看的
        finished = run(arena.command("ours", "train", flags(keys)), arena.cwd("ours"), part.left_s(),
                       lambda line, _: line.startswith("iter 2:"))
        at = iterations(finished)
        path = arena.cwd("ours") / "out-xl" / "events.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    iters = [event for event in map(json.loads, lines) if event["event"] == "iter"]
    if 2 not in at:
        part.put(error=finished.tail())
        print(finished.tail())
        return False
    part.put(losses=[loss for _, loss in at.values()], memory_mib=iters[-1]["memory_mib"] if iters else None,
             params=json.loads(lines[0])["params"])
    print(f"gpt2-xl shape: losses {part.results['losses']}, {part.results['memory_mib']:.0f} MiB")
    return True
