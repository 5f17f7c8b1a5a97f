"""CPU 上的全部比较，一条命令：依次起各个基准，各写一个 JSON，最后合成一张表。

    python benchmarks/all.py --nanogpt ../nanoGPT --out cpu-results
    python benchmarks/all.py --nanogpt ../nanoGPT --out cpu-results --only j1 j1-compile

要一台安静的机器：开头先看负荷。`--minutes` 用完就不再起下一个；已经有的 JSON 不重做（`--again` 才重做），所以断了可以
接着来。`--table` 只由已有的 JSON 重写表。
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import ROOT, environ
from report import add_nanogpt_option, check_nanogpt, machine


@dataclass(frozen=True)
class Step:
    """一个基准；`goal` 是表里要达到的数，`minutes` 是安静的两核上大约要多久。"""

    script: str
    arguments: tuple[str, ...]
    title: str
    goal: str
    minutes: float


STEPS = {
    "j1": Step("train.py", ("--job=J1", "--rounds=4"), "J1 training step, same mathematics", "1.00", 2),
    "j1-compile": Step("train.py", ("--job=J1", "--rounds=4", "--ours=--compile=True"),
                       "J1 training step, same mathematics, compiled", "1.10", 3),
    # 上一步已经填了编译缓存；评估用的图在这里补上，不计时
    "j1-warm": Step("train.py", ("--job=J1", "--whole", "--rounds=1", "--steps=60", "--ours=--compile=True"),
                    "J1, 60 iterations, fills the compile cache", "", 1.5),
    "j1-whole-compile": Step("train.py", ("--job=J1", "--whole", "--rounds=2", "--ours=--compile=True"),
                             "J1 whole job of 2,000 iterations, warm compile cache", "1.15", 6),
    "j1-whole": Step("train.py", ("--job=J1", "--whole", "--rounds=2"), "J1 whole job of 2,000 iterations", "1.05", 6),
    "j3": Step("train.py", ("--job=J3", "--rounds=1", "--steps=4"), "J3 training step, fp32", "", 2),
    "j3-bf16": Step("train.py", ("--job=J3", "--rounds=2", "--steps=4", "--ours=--dtype=bfloat16"),
                    "J3 training step, bf16 autocast", "1.40", 3),
    "j2-bf16": Step("train.py", ("--job=J2", "--rounds=2", "--steps=4", "--ours=--dtype=bfloat16"),
                    "J2 training step, bf16 autocast", "1.40", 4),
    "sample-j3": Step("sample.py", ("--job=J3", "--rounds=3", "--tokens=200"), "J3 sampling, 200 tokens", "", 5),
    "sample-j1": Step("sample.py", ("--job=J1", "--rounds=3"), "J1 sampling", "", 1),
    "time-to-loss": Step("time_to_loss.py", (), "time to nanoGPT's J1 loss, modern recipe", "5", 12),
}
SAMPLE_GOALS = {"fp32, batch 1": "3.50", "bf16, batch 1": "5.50", "fp32, 8 samples": "12.00"}
J3_MEMORY_GOAL = "0.90"
Row = tuple[str, str, str, str, str]


def rows_of(name: str, found: dict[str, Any]) -> list[Row]:
    """一个 JSON 在表里的各行：任务、量的是什么、比值、要达到的、各轮。"""
    step = STEPS[name]
    if found["benchmark"] == "time_to_loss":
        return [row for seed in found["seeds"] for row in loss_rows(step, seed, found["goal_loss"])]
    if found["benchmark"] == "sample":
        rows = [(f"{step.title}, {variant}", "tokens per second", f"{one['median_ratio']:.2f}",
                 SAMPLE_GOALS.get(variant, "") if found["job"] == "J3" else "", spread(one["ratios"]))
                for variant, one in found["variants"].items()]
        first = found["variants"]["fp32, batch 1"]
        if "share_of_bandwidth" in first:
            rows.append((f"{step.title}, fp32, batch 1", "of the measured read bandwidth",
                         f"{first['share_of_bandwidth']:.0%}", "40%",
                         f"{found['limits']['read_bytes_per_second'] / 1e9:.1f} GB/s"))
        return rows
    if not found["ratios"]:
        return [(step.title, "", "failed", step.goal, "")]
    what = "wall clock, start to exit" if found["whole"] else "wall clock per step"
    rows = [(step.title, what, f"{found['median_ratio']:.3f}", step.goal, spread(found["ratios"]))]
    memory = found["ours"]["peak_rss_mib"] / found["nanogpt"]["peak_rss_mib"]
    if name in ("j1", "j3"):
        rows.append((f"{step.title}: peak memory", "resident, ours / nanoGPT, lower is better", f"{memory:.2f}",
                     J3_MEMORY_GOAL if name == "j3" else "", ""))
    if "share_of_peak" in found["ours"]:
        peak = found["limits"]["float32_flops"] / 1e9
        rows.append((f"{step.title}: distance to the limit", "of the measured fp32 matmul peak, ours and nanoGPT",
                     f"{found['ours']['share_of_peak']:.0%}, {found['nanogpt']['share_of_peak']:.0%}", "",
                     f"{peak:,.0f} GFLOP/s"))
    return rows


def loss_rows(step: Step, seed: dict[str, Any], goal_loss: float) -> list[Row]:
    ours, theirs, longer = seed["ours"], seed["nanogpt"], seed["ours_in_nanogpts_time"]
    return [(f"{step.title}, seed {seed['seed']}", "times sooner", f"{seed['ratio']:.2f}", step.goal,
             f"loss {ours['loss']:.3f} after {ours['steps']} steps, nanoGPT's {theirs['loss']:.3f}"),
            (f"the same, in nanoGPT's time, seed {seed['seed']}", "loss, lower is better", f"{longer['loss']:.3f}",
             f"{goal_loss}", f"{longer['steps']} steps")]


def spread(ratios: list[float]) -> str:
    return ", ".join(f"{ratio:.2f}" for ratio in ratios)


def table(out: Path) -> str:
    """Markdown 的表；没有 JSON 的写 not measured。"""
    lines = ["| job | measured | ours / nanoGPT | wanted | rounds |", "|---|---|---|---|---|"]
    for name, step in STEPS.items():
        if name == "j1-warm":
            continue
        path = out / f"{name}.json"
        rows = rows_of(name, json.loads(path.read_text(encoding="utf-8"))) if path.is_file() \
            else [(step.title, "", "not measured", step.goal, "")]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def run_step(name: str, nanogpt: Path, data: Path | None, out: Path) -> bool:
    """起一个基准，输出照样打印；JSON 先写在旁边，成了才改名。"""
    step, part = STEPS[name], out / f"{name}.part"
    has_data = step.script != "sample.py" and "--job=J3" not in step.arguments
    arguments = [*step.arguments, "--nanogpt", str(nanogpt), "--out", str(part),
                 *(["--data", str(data)] if data is not None and has_data else [])]
    part.unlink(missing_ok=True)
    print(f"== {name}: {step.title}", flush=True)
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / step.script), *arguments], env=environ())
    if not part.is_file():
        return False
    part.replace(out / f"{name}.json")
    return True


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Every comparison with nanoGPT that a CPU can do, and the table.")
    add_nanogpt_option(parser)
    parser.add_argument("--out", type=Path, default=Path("cpu-results"), help="folder of the JSON files and the table")
    parser.add_argument("--only", nargs="+", choices=STEPS, metavar="NAME", help=f"of {', '.join(STEPS)}")
    parser.add_argument("--minutes", type=float, default=45.0, help="start nothing that would not fit into these")
    parser.add_argument("--data", type=Path, help="a prepared shakespeare_char folder")
    parser.add_argument("--again", action="store_true", help="measure anew what is already in the folder")
    parser.add_argument("--table", action="store_true", help="only write the table anew")
    args = parser.parse_args()
    args.nanogpt = None if args.table else check_nanogpt(parser, args.nanogpt)
    args.data = args.data.resolve() if args.data else None
    args.out = args.out.resolve()
    return args


def main() -> int:
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    began, failed = time.monotonic(), 0
    load = os.getloadavg()[0]
    if not args.table and load > 0.5:
        print(f"the load average is {load:.1f}: on a machine that is not quiet these figures mean little", flush=True)
    for name in [] if args.table else args.only or STEPS:
        if (args.out / f"{name}.json").is_file() and not args.again:
            continue
        if (time.monotonic() - began) / 60 + STEPS[name].minutes > args.minutes:
            print(f"== {name}: not run, about {STEPS[name].minutes:g} minutes do not fit any more", flush=True)
            continue
        is_done = run_step(name, args.nanogpt, args.data, args.out)
        failed += not is_done
        minutes = (time.monotonic() - began) / 60
        print(f"== {name}: {'done' if is_done else 'FAILED'} after {minutes:.1f} min", flush=True)
    host = machine()
    text = (f"{host['time']}, {host['cpu']}, {host['cores']} cores, torch {host['torch']}, Python {host['python']}, "
            f"threads set: {host['threads_set'] or 'no'}\n\n{table(args.out)}")
    (args.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
