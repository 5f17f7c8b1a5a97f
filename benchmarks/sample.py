"""每秒采样多少 token：我们的采样服务与 nanoGPT 没有改动的 `model.py`，轮流，同一个检查点与种子。

    python benchmarks/sample.py --nanogpt ../nanoGPT                 # J1 的模型，先训练一会儿
    python benchmarks/sample.py --nanogpt ../nanoGPT --job J3        # 124M，随机的权重

两边各是一直开着的进程，模型已经载入；每一轮依次请它们各写一次，由请求到回答用同一只外部的钟。nanoGPT 一次只抽一个样本，
我们的另量 bfloat16 的权重与几个样本一批；同一种子的文本逐字相比。
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs import DATASET, JOBS, Arena, find_char_data, flags, write_wide_meta
from limits import measure_limits
from processes import ROOT, environ, run
from report import add_nanogpt_option, check_nanogpt, machine, median, print_table, turns, write_json


@dataclass(frozen=True)
class Variant:
    """我们的一种写法；`samples` 个样本一批；`graph`：每一步录成 CUDA 图。"""

    name: str
    dtype: str
    samples: int
    graph: bool = False


@dataclass(frozen=True)
class SampleJob:
    """每个样本写 `tokens` 个 token。第一种写法与 nanoGPT 的相同，文本也要相同。"""

    title: str
    device: str
    tokens: int
    variants: tuple[Variant, ...]
    shape: dict[str, int] | None  # None：先训练 J1 的模型


_GPT2_SHAPE = {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024}
_GPU_VARIANTS = (Variant("bf16, batch 1", "bfloat16", 1), Variant("bf16, 8 samples", "bfloat16", 8))
_SINGLE, _BATCH = Variant("fp32, batch 1", "float32", 1), Variant("fp32, 8 samples", "float32", 8)
SAMPLE_JOBS = {
    "J1": SampleJob("4 layers, 128, block 64", "cpu", 500, (_SINGLE, _BATCH), None),
    "J3": SampleJob("GPT-2 124M", "cpu", 200, (_SINGLE, Variant("bf16, batch 1", "bfloat16", 1), _BATCH), _GPT2_SHAPE),
    "GPU": SampleJob("GPT-2 124M, bf16", "cuda", 500, _GPU_VARIANTS, _GPT2_SHAPE),
    "GPU-graph": SampleJob("GPT-2 124M, bf16, CUDA graph", "cuda", 500,
                           tuple(replace(variant, graph=True) for variant in _GPU_VARIANTS), _GPT2_SHAPE),
    "DRY": SampleJob("a toy", "cpu", 50, (_SINGLE, _BATCH),
                     {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 64}),
}


def make_checkpoint(arena: Arena, job: SampleJob, vocab_size: int = 50304) -> str:
    """在两边的 `out/` 里各放同一个 `ckpt.pt`；返回它的来历。"""
    out = arena.path / "out"
    if job.shape is None:
        keys = {**JOBS["J1"].keys, "dataset": DATASET, "out_dir": "../out", "max_iters": 200, "eval_interval": 200,
                "eval_iters": 1}
        finished = run(arena.command("ours", "train", flags(keys)), arena.cwd("ours"))
        origin = "trained for 200 iterations"
    else:
        write_wide_meta(arena.path / "data" / DATASET, vocab_size)
        script = str(ROOT / "benchmarks" / "random_checkpoint.py")
        finished = run([sys.executable, script, str(out), DATASET, str(vocab_size), *flags(job.shape)], arena.path)
        origin = "random weights"
    if finished.returncode:
        raise SystemExit(f"the checkpoint could not be made:\n{finished.tail()}")
    for side in ("ours", "nanogpt"):
        (arena.cwd(side) / "out").symlink_to(out)
    return origin


class Sampler:
    """一边的进程，模型已经载入。`close` 之后有 `peak_rss_mib`。"""

    def __init__(self, arena: Arena, side: str, device: str, dtype: str, graph: bool = False):
        script = str(ROOT / "benchmarks" / "nanogpt_sampler.py")
        argv = ([sys.executable, "-m", "nanogpt.sample", "--serve"] if side == "ours"
                else [sys.executable, script, device, dtype])
        # nanoGPT 的 `model.py` 在它的工作目录里
        env = environ() | ({} if side == "ours" else {"PYTHONPATH": str(arena.cwd(side))})
        self.side, self.peak_rss_mib = side, 0.0
        self.process = subprocess.Popen(argv, cwd=arena.cwd(side), env=env, stdin=subprocess.PIPE, text=True,
                                        stdout=subprocess.PIPE, encoding="utf-8", process_group=0)
        try:
            if side == "ours":
                self._ask(op="load", out_dir="out", device=device, dtype=dtype, cuda_graph=graph)
            else:
                self._line()
        except BaseException:
            self.close()
            raise

    def write(self, tokens: int, samples: int = 1) -> tuple[float, str]:
        """（从请求到回答的秒数, 第一个样本的文本）。"""
        began = time.perf_counter()
        if self.side == "ours":
            done = self._ask(op="generate", prompt="\n", max_new_tokens=tokens, num_samples=samples)
            text = done["samples"][0]["text"]
        else:
            self._send(str(tokens))
            text = json.loads(self._line())
        return time.perf_counter() - began, text

    def _ask(self, **request: Any) -> dict[str, Any]:
        self._send(json.dumps({"id": 1, **request}))
        while True:
            event: dict[str, Any] = json.loads(self._line())
            if event["event"] == "error":
                raise SystemExit(f"{event['message']}\n{event['where']}\n{event['hint']}")
            if event["event"] == "done":
                return event

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the sampling process of {self.side} ended")
        return line

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        _pid, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.peak_rss_mib = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def measure_rounds(arena: Arena, job: SampleJob, rounds: int, tokens: int, has_nanogpt: bool = True) -> dict[str, Any]:
    """轮流量 `rounds` 轮，先各热身一次。比值逐轮相除：我们每一种写法对同一轮的 nanoGPT。"""
    kinds = {(variant.dtype, variant.graph) for variant in job.variants}
    samplers = {kind: Sampler(arena, "ours", job.device, *kind) for kind in kinds}
    theirs = Sampler(arena, "nanogpt", job.device, job.variants[0].dtype) if has_nanogpt else None
    speeds: dict[str, list[float]] = {"nanogpt": [], **{variant.name: [] for variant in job.variants}}
    same: list[bool] = []
    try:
        for sampler in filter(None, (*samplers.values(), theirs)):
            sampler.write(min(tokens, 5))
        for i, order in enumerate(turns(rounds), 1):
            texts: dict[str, str] = {}
            for side in order:
                if side == "ours":
                    for variant in job.variants:
                        sampler = samplers[variant.dtype, variant.graph]
                        seconds, texts[variant.name] = sampler.write(tokens, variant.samples)
                        speeds[variant.name].append(variant.samples * tokens / seconds)
                elif theirs is not None:
                    seconds, texts["nanogpt"] = theirs.write(tokens)
                    speeds["nanogpt"].append(tokens / seconds)
            # bfloat16 的文本本来就不同
            same += [texts[variant.name] == texts["nanogpt"] for variant in job.variants
                     if variant.dtype == "float32" and theirs is not None]
            print(f"round {i}: " + ", ".join(f"{name} {found[-1]:.1f}" for name, found in speeds.items() if found)
                  + " tokens/s", flush=True)
    finally:
        for sampler in filter(None, (*samplers.values(), theirs)):
            sampler.close()
    ratios = {variant.name: [a / b for a, b in zip(speeds[variant.name], speeds["nanogpt"], strict=False)]
              for variant in job.variants}
    first = job.variants[0]
    return {"tokens": tokens, "speeds": speeds, "variants": {
                name: {"ratios": found, "median_ratio": median(found), "tokens_per_second": median(speeds[name])}
                for name, found in ratios.items()},
            "ratios": ratios[first.name], "median_ratio": median(ratios[first.name]),
            "ours": {"tokens_per_second": median(speeds[first.name]),
                     "peak_rss_mib": samplers[first.dtype, first.graph].peak_rss_mib},
            "nanogpt": {"tokens_per_second": median(speeds["nanogpt"]),
                        "peak_rss_mib": theirs.peak_rss_mib if theirs is not None else None},
            "same_text": all(same) if same else None}


def bytes_per_step(shape: dict[str, int], dtype: str, tokens: int, samples: int, vocab_size: int = 50304) -> float:
    """每写一步（一批里各一个 token）至少要读的字节：权重一遍，各样本的键与值各一遍，平均到一半长。"""
    weights = 12 * shape["n_layer"] * shape["n_embd"] ** 2 + vocab_size * shape["n_embd"]
    cache = 2 * shape["n_layer"] * shape["n_embd"] * (tokens / 2) * samples
    return (weights + cache) * (4 if dtype == "float32" else 2)


def add_limits(result: dict[str, Any], job: SampleJob) -> None:
    """每一种写法读权重与缓存用掉量到的内存带宽的几成；上下文会满的模型每步重算，不受带宽所限，不算。"""
    result["limits"] = limits = measure_limits(job.device)
    if not limits or job.shape is None or result["tokens"] > job.shape["block_size"]:
        return
    for variant in job.variants:
        one = result["variants"][variant.name]
        steps_per_second = one["tokens_per_second"] / variant.samples
        read = bytes_per_step(job.shape, variant.dtype, result["tokens"], variant.samples)
        one["share_of_bandwidth"] = steps_per_second * read / limits["read_bytes_per_second"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time sampling against nanoGPT, in turns.")
    add_nanogpt_option(parser)
    parser.add_argument("--job", choices=SAMPLE_JOBS, default="J1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, help="tokens in each sample")
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    args = parser.parse_args()
    args.nanogpt = check_nanogpt(parser, args.nanogpt)
    return args


def main() -> int:
    args = parse()
    job = SAMPLE_JOBS[args.job]
    with Arena(args.nanogpt) as arena:
        if job.shape is None:
            arena.add_char_data(find_char_data(args.nanogpt))
        origin = make_checkpoint(arena, job)
        print(f"{args.job}: {job.title}; {origin}")
        result = measure_rounds(arena, job, args.rounds, args.tokens or job.tokens)
    add_limits(result, job)
    rows = [["nanoGPT, batch 1", f"{result['nanogpt']['tokens_per_second']:.1f}", "1", "", ""]]
    rows += [[name, f"{one['tokens_per_second']:.1f}", f"{one['median_ratio']:.2f}",
              ", ".join(f"{ratio:.2f}" for ratio in one["ratios"]),
              f"{one['share_of_bandwidth']:.0%}" if "share_of_bandwidth" in one else "-"]
             for name, one in result["variants"].items()]
    print_table(f"{args.job}, {result['tokens']} tokens, medians of {args.rounds} rounds",
                ["", "tokens/s", "ours / nanoGPT", "rounds", "of the bandwidth"], rows)
    if result["limits"]:
        print(f"read bandwidth measured: {result['limits']['read_bytes_per_second'] / 1e9:.1f} GB/s")
    print(f"same text: {'yes' if result['same_text'] else 'NO' if result['same_text'] is False else 'not comparable'}")
    write_json(args.out, {"benchmark": "sample", "job": args.job, "title": job.title, "checkpoint": origin,
                          "argv": sys.argv, "machine": machine(), **result})
    return 0 if result["same_text"] is not False else 1


if __name__ == "__main__":
    sys.exit(main())
