"""每秒采样多少 token：`nanogpt.sample` 与 nanoGPT 没有改动的 `sample.py`，轮流，同一个检查点与种子。

    python benchmarks/sample.py --nanogpt ../nanoGPT                 # J1 的模型，先训练一会儿
    python benchmarks/sample.py --nanogpt ../nanoGPT --job J3        # 124M，随机的权重

每一轮每边各跑两次，一次 S 个样本，一次 2S 个；两次之差除掉了导入、载入与编译。另从长的那一次里，
由第一个到最后一个样本到达的时刻得到第二个数（`streamed`）：采样很快时它受起动的抖动小得多。
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import DATASET, JOBS, Arena, find_char_data, flags, write_wide_meta
from processes import ROOT, Finished, run
from report import add_nanogpt_option, check_nanogpt, machine, median, print_table, turns, write_json

SEPARATOR = "---------------"


@dataclass(frozen=True)
class SampleJob:
    """`samples` 个样本、每个 `tokens` 个 token 是短的一次，长的一次样本数加倍。"""

    title: str
    keys: dict[str, Any]
    samples: int
    tokens: int
    shape: dict[str, int] | None  # None：先训练 J1 的模型


_GPT2_SHAPE = {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024}
_CPU = {"device": "cpu", "dtype": "float32", "compile": False}
SAMPLE_JOBS = {
    "J1": SampleJob("4 layers, 128, block 64, batch 1", _CPU, 6, 500, None),
    "J3": SampleJob("GPT-2 124M, batch 1", _CPU, 1, 100, _GPT2_SHAPE),
    "GPU": SampleJob("GPT-2 124M, batch 1, bf16", {"device": "cuda", "dtype": "bfloat16", "compile": False},
                     3, 500, _GPT2_SHAPE),
    "DRY": SampleJob("a toy, batch 1", _CPU, 2, 600, {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 64}),
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


def measure(arena: Arena, side: str, job: SampleJob, samples: int, tokens: int, extra: list[str],
            timeout_s: float = 3600.0) -> dict[str, Any]:
    """一边的每秒 token 数，与长的那一次写出的样本。"""
    keys = {**job.keys, "out_dir": "out", "max_new_tokens": tokens, "seed": 1337}
    wall: list[float] = []
    for count in (samples, 2 * samples):
        command = arena.command(side, "sample", [*flags({**keys, "num_samples": count}), *extra])
        finished = run(command, arena.cwd(side), timeout_s)
        if finished.returncode:
            return {"side": side, "error": finished.tail(), "returncode": finished.returncode}
        wall.append(finished.wall_s)
    if wall[1] <= wall[0]:
        return {"side": side, "error": f"noise: {wall} s for once and twice the tokens; raise --samples"}
    arrived = [at for at, line in finished.lines if line == SEPARATOR]
    streamed = (len(arrived) - 1) * tokens / (arrived[-1] - arrived[0]) if len(arrived) > 1 else None
    return {"side": side, "tokens_per_second": samples * tokens / (wall[1] - wall[0]), "wall_s": wall,
            "streamed_tokens_per_second": streamed,
            "peak_rss_mib": finished.peak_rss_mib, "texts": texts(finished)}


def texts(finished: Finished) -> list[str]:
    """打印出的样本。第一个之前可能还有几行别的话，所以比较时只看它的结尾。"""
    return [text.removeprefix("\n") for text in finished.text.split(SEPARATOR)[:-1]]


def same_text(ours: list[str], nanogpt: list[str]) -> bool:
    if not ours or len(ours) != len(nanogpt):
        return False
    return ours[1:] == nanogpt[1:] and (nanogpt[0].endswith(ours[0]) or ours[0].endswith(nanogpt[0]))


def measure_rounds(arena: Arena, job: SampleJob, rounds: int, samples: int, tokens: int,
                   extra: list[str]) -> dict[str, Any]:
    """轮流量 `rounds` 轮；每一轮都核对两边写出的字。"""
    done: list[dict[str, Any]] = []
    for i, order in enumerate(turns(rounds), 1):
        found: dict[str, Any] = {}
        for side in order:
            found[side] = measure(arena, side, job, samples, tokens, extra if side == "ours" else [])
            speed = found[side].get("tokens_per_second")
            print(f"round {i} {side}: " + (f"{speed:.1f} tokens/s" if speed else f"failed\n{found[side]['error']}"),
                  flush=True)
        if all("texts" in found[side] for side in found):
            found["same_text"] = same_text(found["ours"].pop("texts"), found["nanogpt"].pop("texts"))
        done.append(found)
    both = [r for r in done if "same_text" in r]
    ratios = [r["ours"]["tokens_per_second"] / r["nanogpt"]["tokens_per_second"] for r in both]
    streamed = [r["ours"]["streamed_tokens_per_second"] / r["nanogpt"]["streamed_tokens_per_second"] for r in both]
    keys = ("tokens_per_second", "streamed_tokens_per_second", "peak_rss_mib")
    sides = {side: {key: median([r[side][key] for r in both]) for key in keys} for side in ("ours", "nanogpt")}
    return {"rounds": done, "ratios": ratios, "median_ratio": median(ratios), **sides,
            "streamed_ratios": streamed, "median_streamed_ratio": median(streamed),
            "same_text": bool(both) and all(r["same_text"] for r in both)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time sampling against nanoGPT, in turns.")
    add_nanogpt_option(parser)
    parser.add_argument("--job", choices=SAMPLE_JOBS, default="J1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, help="samples in the shorter of the two runs")
    parser.add_argument("--tokens", type=int, help="tokens in each sample")
    parser.add_argument("--ours", action="append", default=[], metavar="=--KEY=VALUE", help="a flag for our side only")
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
        result = measure_rounds(arena, job, args.rounds, args.samples or job.samples, args.tokens or job.tokens,
                                args.ours)
    if result["ratios"]:
        print_table(f"{args.job}, medians of {len(result['ratios'])} rounds",
                    ["", "tokens/s", "streamed tokens/s", "RSS MiB"],
                    [[side, f"{result[side]['tokens_per_second']:.1f}",
                      f"{result[side]['streamed_tokens_per_second']:.1f}", f"{result[side]['peak_rss_mib']:.0f}"]
                     for side in ("ours", "nanogpt")])
        spread = ", ".join(f"{ratio:.3f}" for ratio in result["ratios"])
        print(f"speed, ours / nanoGPT: {result['median_ratio']:.3f} (rounds: {spread}), "
              f"streamed {result['median_streamed_ratio']:.3f}; "
              f"same text: {'yes' if result['same_text'] else 'NO'}")
    write_json(args.out, {"benchmark": "sample", "job": args.job, "title": job.title, "checkpoint": origin,
                          "ours_flags": args.ours, "argv": sys.argv, "machine": machine(), **result})
    return 0 if len(result["ratios"]) == args.rounds else 1


if __name__ == "__main__":
    sys.exit(main())
