"""训练的每一步要多久：`nanogpt.train` 与 nanoGPT 没有改动的 `train.py`，在同一次运行里轮流。

    python benchmarks/train.py --nanogpt ../nanoGPT --job J1 --rounds 5 --out results.json
    python benchmarks/train.py --nanogpt ../nanoGPT --whole

计时用同一只外部的钟：`iter N:` 那一行到达管道的时刻。比值是 nanoGPT 的时间除以我们的，大于 1 即更快。
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from jobs import DATASET, JOBS, Arena, TrainJob, find_char_data, flags
from limits import measure_limits
from processes import Finished, cpu_seconds, run
from report import add_nanogpt_option, check_nanogpt, machine, median, print_table, turns, write_json

_ITER = re.compile(r"iter (\d+): loss ([-+.\w]+), time")
_STEP = re.compile(r"step (\d+): train loss ([-+.\w]+), val loss ([-+.\w]+)")


def iterations(finished: Finished) -> dict[int, tuple[float, float]]:
    """每个 `iter N:` 行的（到达时刻, 损失）。"""
    found = ((at, _ITER.match(line)) for at, line in finished.lines)
    return {int(match[1]): (at, float(match[2])) for at, match in found if match}


def validation_losses(finished: Finished) -> list[float]:
    found = (_STEP.match(line) for _, line in finished.lines)
    return [float(match[3]) for match in found if match]


def measure_steps(arena: Arena, side: str, job: TrainJob, steps: int, extra: list[str],
                  timeout_s: float = 3600.0) -> dict[str, Any]:
    """一次运行里 `steps` 步的平均与中位毫秒数。最后一行一到就杀掉：保存与退出不算在步里。"""
    last = job.warmup + steps
    keys = {**job.keys, "dataset": DATASET, "out_dir": _fresh_out_dir(arena, side), "max_iters": last,
            "lr_decay_iters": max(job.keys.get("lr_decay_iters", 0), last, 1000),
            "eval_interval": 1_000_000, "eval_iters": 1}

    cpu_s: dict[int, float | None] = {}

    def is_last(line: str, process: subprocess.Popen[str]) -> bool:
        match = _ITER.match(line)
        if match is not None and int(match[1]) in (job.warmup, last):
            cpu_s[int(match[1])] = cpu_seconds(process.pid)
        return last in cpu_s

    finished = run(arena.command(side, "train", [*flags(keys), *extra]), arena.cwd(side), timeout_s, is_last)
    at = iterations(finished)
    if last not in at:
        return {"side": side, "error": finished.tail(), "timed_out": finished.timed_out,
                "out_of_memory": "out of memory" in finished.text.lower(), "returncode": finished.returncode,
                "wall_s": finished.wall_s}
    each = [(at[i + 1][0] - at[i][0]) * 1e3 for i in range(job.warmup, last)]
    before, after = cpu_s.get(job.warmup), cpu_s.get(last)
    return {"side": side, "step_ms": (at[last][0] - at[job.warmup][0]) * 1e3 / steps, "median_step_ms": median(each),
            "cpu_step_ms": (after - before) * 1e3 / steps if before is not None and after is not None else None,
            "first_line_s": min(at.values())[0], "peak_rss_mib": finished.peak_rss_mib, "wall_s": finished.wall_s,
            "first_loss": at[0][1], "last_loss": at[last][1], "losses": [at[i][1] for i in sorted(at)]}


def measure_whole(arena: Arena, side: str, job: TrainJob, iters: int, extra: list[str],
                  timeout_s: float = 3600.0) -> dict[str, Any]:
    """从起动到退出的秒数，连同评估与保存，像用户那样跑完整个任务。"""
    keys = {**job.keys, "dataset": DATASET, "out_dir": _fresh_out_dir(arena, side), "max_iters": iters,
            "lr_decay_iters": max(iters, 101), "eval_interval": 250, "eval_iters": 20}
    finished = run(arena.command(side, "train", [*flags(keys), *extra]), arena.cwd(side), timeout_s)
    if finished.returncode:
        return {"side": side, "error": finished.tail(), "returncode": finished.returncode}
    losses = validation_losses(finished)
    return {"side": side, "wall_s": finished.wall_s, "peak_rss_mib": finished.peak_rss_mib,
            "val_loss": losses[-1] if losses else None}


def _fresh_out_dir(arena: Arena, side: str) -> str:
    count = sum(1 for path in arena.cwd(side).iterdir() if path.name.startswith("out-"))
    name = f"out-{count}"
    (arena.cwd(side) / name).mkdir()
    return name


def start_event(arena: Arena) -> dict[str, Any] | None:
    """我们这一边任何一次运行的 `start` 事件：设备的峰值与参数个数。"""
    for path in sorted(arena.cwd("ours").glob("out-*/events.jsonl")):
        first = path.read_text(encoding="utf-8").splitlines()[:1]
        if first:
            event: dict[str, Any] = json.loads(first[0])
            return event
    return None


def flops_per_token(params: int, keys: dict[str, Any]) -> int:
    """6N + 12·L·C·T（PaLM 论文附录 B），N 不计位置嵌入；两边用同一个公式。"""
    return int(6 * params + 12 * keys["n_layer"] * keys["n_embd"] * keys["block_size"])


def add_limits(result: dict[str, Any], arena: Arena, job: TrainJob) -> None:
    """两边每步的浮点运算各达到量到的矩阵乘法峰值的几成。"""
    limits, start = measure_limits(str(job.keys["device"])), start_event(arena)
    result["limits"] = limits
    if not limits or start is None or result["measured"] != "step_ms" or not result["ratios"]:
        return
    keys = job.keys
    flops = flops_per_token(start["params"], keys) * keys["batch_size"] * keys["block_size"]
    for side in ("ours", "nanogpt"):
        # nanoGPT 在 CPU 上总是 float32；我们的也按 float32 的峰值算，才可比
        result[side]["share_of_peak"] = flops / (result[side]["step_ms"] / 1e3) / limits["float32_flops"]


def summary(rounds: list[dict[str, Any]], key: str) -> dict[str, Any]:
    """各轮的比值与它们的中位数；`key` 是要比的量，越小越好。失败的轮不算。"""
    both = [r for r in rounds if all(key in r[side] for side in ("ours", "nanogpt"))]
    ratios = [r["nanogpt"][key] / r["ours"][key] for r in both]
    result: dict[str, Any] = {"measured": key, "ratios": ratios, "median_ratio": median(ratios)}
    if key == "step_ms":
        result["median_cpu_ratio"] = median([r["nanogpt"]["cpu_step_ms"] / r["ours"]["cpu_step_ms"] for r in both
                                             if r["nanogpt"]["cpu_step_ms"] and r["ours"]["cpu_step_ms"]])
    for side in ("ours", "nanogpt"):
        result[side] = {name: median([r[side][name] for r in both]) for name in (key, "peak_rss_mib")}
    return result


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time training steps against nanoGPT, in turns.")
    add_nanogpt_option(parser)
    parser.add_argument("--job", choices=JOBS, default="J1")
    parser.add_argument("--rounds", type=int, default=3, help="each runs both sides once, in alternating order")
    parser.add_argument("--steps", type=int, help="steps that are timed; with --whole, iterations of the job")
    parser.add_argument("--whole", action="store_true", help="wall time of the whole job, start to exit")
    parser.add_argument("--data", type=Path, help="a dataset folder that both sides read")
    parser.add_argument("--ours", action="append", default=[], metavar="=--KEY=VALUE", help="a flag for our side only")
    parser.add_argument("--both", action="append", default=[], metavar="=--KEY=VALUE", help="a flag for both sides")
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    args = parser.parse_args()
    args.nanogpt = check_nanogpt(parser, args.nanogpt)
    if args.rounds < 1 or (args.steps is not None and args.steps < 1):
        parser.error("--rounds and --steps must be at least 1")
    return args


def main() -> int:
    args = parse()
    job = JOBS[args.job]
    key, measure = ("wall_s", measure_whole) if args.whole else ("step_ms", measure_steps)
    steps = args.steps or (job.whole_iters if args.whole else job.steps)
    rounds: list[dict[str, Any]] = []
    with Arena(args.nanogpt) as arena:
        data = arena.add_char_data(args.data or find_char_data(args.nanogpt)) if job.is_char \
            else arena.add_gpt2_data(args.data)
        print(f"{args.job}: {job.title}\ndata: {data}")
        for i, order in enumerate(turns(args.rounds), 1):
            found = {}
            for side in order:
                extra = args.both + (args.ours if side == "ours" else [])
                found[side] = measure(arena, side, job, steps, extra)
                shown = f"{found[side][key]:.2f}" if key in found[side] else f"failed\n{found[side]['error']}"
                print(f"round {i} {side}: {key} {shown}", flush=True)
            rounds.append(found)
        result = summary(rounds, key)
        add_limits(result, arena, job)
    print_result(args, result)
    write_json(args.out, {"benchmark": "train", "job": args.job, "title": job.title, "data": data, "steps": steps,
                          "whole": args.whole, "ours_flags": args.ours, "both_flags": args.both,
                          "argv": sys.argv, "machine": machine(), "rounds": rounds, **result})
    return 0 if len(result["ratios"]) == args.rounds else 1


def print_result(args: argparse.Namespace, result: dict[str, Any]) -> None:
    """一张表：两边的中位数与逐轮之比的中位数。"""
    if not result["ratios"]:
        print("no round was complete")
        return
    key = result["measured"]
    unit = "wall s" if args.whole else "ms per step"
    rows = [[side, f"{result[side][key]:.2f}", f"{result[side]['peak_rss_mib']:.0f}",
             f"{result[side]['share_of_peak']:.0%}" if "share_of_peak" in result[side] else "-"]
            for side in ("ours", "nanogpt")]
    memory = result["ours"]["peak_rss_mib"] / result["nanogpt"]["peak_rss_mib"]
    spread = ", ".join(f"{ratio:.3f}" for ratio in result["ratios"])
    print_table(f"{args.job}, medians of {len(result['ratios'])} rounds",
                ["", unit, "peak RSS MiB", "of the matmul peak"], rows)
    print(f"speed, ours / nanoGPT: {result['median_ratio']:.3f} (rounds: {spread}); memory: {memory:.2f}")
    if result["limits"]:
        print(f"matmul peak measured: {result['limits']['float32_flops'] / 1e9:,.0f} GFLOP/s in float32, "
              f"{result['limits']['bfloat16_flops'] / 1e9:,.0f} in bfloat16")
    if result.get("median_cpu_ratio") is not None:
        print(f"CPU time per step, nanoGPT / ours: {result['median_cpu_ratio']:.3f} (comparable with one thread only)")


if __name__ == "__main__":
    sys.exit(main())
