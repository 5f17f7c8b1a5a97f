"""现代配方里每一样值多少：从 `train_shakespeare_char_modern` 里各拿掉一样，或往 nanoGPT 的配方里各加一样。

    python benchmarks/ablation.py --data data/shakespeare_char --out ablation.json
    python benchmarks/ablation.py --data data/shakespeare_char --only modern "no rotary" --seeds 1337 --most 0

只数步数，不看钟：同一台机器上忙不忙都得到同样的数。每个长度从头训练一次，学习率的曲线恰好走完；损失在
`time_to_loss.py` 的那 200 批固定窗口上算。达到目标的步数由相邻的两个长度按步数的对数内插。
"""

import argparse
import contextlib
import io
import itertools
import math
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from fixed_windows import fixed_window_loss
from jobs import DATASET, JOBS, flags
from report import machine, print_table, write_json

from nanogpt.distributed import Ranks
from nanogpt.preflight import preflight
from nanogpt.stopping import StopSignals
from nanogpt.train import train
from nanogpt.training import build

MODERN, CLASSIC = "train_shakespeare_char_modern", "train_shakespeare_char_cpu"
ADAMW = {"optimizer": "adamw", "beta1": 0.9, "beta2": 0.99}
MUON = {"optimizer": "muon", "muon_momentum": 0.9, "muon_lr": 0.02}
# 名字：（预设, 改动）
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "modern": (MODERN, {}),
    "no Muon: AdamW 2e-3": (MODERN, {**ADAMW, "learning_rate": 2e-3}),
    "no Muon: AdamW 5e-3": (MODERN, {**ADAMW, "learning_rate": 5e-3}),
    "no Muon: AdamW 1e-2": (MODERN, {**ADAMW, "learning_rate": 1e-2}),
    "no rotary": (MODERN, {"rotary": False}),
    "no untied head": (MODERN, {"untied_head": False}),
    "no qk_norm": (MODERN, {"qk_norm": False}),
    "no squared_relu": (MODERN, {"squared_relu": False}),
    "no weightless_norm": (MODERN, {"weightless_norm": False}),
    "no zero_init": (MODERN, {"zero_init": False}),
    "4 heads": (MODERN, {"n_head": 4}),
    "1 head": (MODERN, {"n_head": 1}),
    "cosine": (MODERN, {"lr_schedule": "cosine"}),
    "AdamW part 1e-2": (MODERN, {"learning_rate": 1e-2}),
    "AdamW part 3e-3": (MODERN, {"learning_rate": 3e-3}),
    "Muon 0.01": (MODERN, {"muon_lr": 0.01}),
    "Muon 0.03": (MODERN, {"muon_lr": 0.03}),
    "Muon 0.05": (MODERN, {"muon_lr": 0.05}),
    "Muon momentum 0.95": (MODERN, {"muon_momentum": 0.95}),
    "beta1 0.9": (MODERN, {"beta1": 0.9}),
    "beta2 0.99": (MODERN, {"beta2": 0.99}),
    "warm-up 10": (MODERN, {"warmup_iters": 10}),
    "warm-up 50": (MODERN, {"warmup_iters": 50}),
    "batch 6": (MODERN, {"batch_size": 6}),
    "batch 24": (MODERN, {"batch_size": 24}),
    "no clipping": (MODERN, {"grad_clip": 0.0}),
    "weight decay 0.1": (MODERN, {"weight_decay": 0.1}),
    "shuffle": (MODERN, {"sampling": "shuffle"}),
    "bf16 autocast": (MODERN, {"dtype": "bfloat16"}),
    "classic": (CLASSIC, {}),
    "classic, AdamW 5e-3": (CLASSIC, {"learning_rate": 5e-3}),
    "classic + Muon": (CLASSIC, MUON),
    "classic + rotary": (CLASSIC, {"rotary": True}),
    "classic + untied head": (CLASSIC, {"untied_head": True}),
    "classic + squared_relu": (CLASSIC, {"squared_relu": True}),
    "classic + qk_norm": (CLASSIC, {"qk_norm": True}),
    "classic + Muon, rotary": (CLASSIC, {**MUON, "rotary": True}),
    "classic + Muon, rotary, 2 heads": (CLASSIC, {**MUON, "rotary": True, "n_head": 2}),
}
BATCHES, FIRST, LENGTHS = 200, 200, (50, 100, 200, 400, 800, 1600, 3200)


def train_once(val_bin: Path, preset: str, changes: dict[str, Any], seed: int, steps: int) -> float:
    """训练 `steps` 步，返回固定窗口上的损失。走的是 `nanogpt.train` 自己的循环。"""
    with tempfile.TemporaryDirectory(prefix="out-", dir=".") as folder, contextlib.redirect_stdout(io.StringIO()):
        keys = {"dataset": DATASET, "out_dir": folder, "device": "cpu", "dtype": "float32", "compile": False,
                "max_iters": steps, "lr_decay_iters": steps, "eval_interval": 10 * steps, "eval_iters": 1,
                "log_interval": 50, "always_save_checkpoint": False, "seed": seed, **changes}
        job = preflight([preset, *flags(keys)])
        t = build(job, Ranks(), StopSignals())
        train(t)
        if job.run is not None:
            job.run.close()
    shape = JOBS["J1"].keys
    return fixed_window_loss(t.raw_model, val_bin, BATCHES, shape["batch_size"], shape["block_size"])


def measure(val_bin: Path, name: str, seed: int, target: float, first: int, most: int) -> dict[str, Any]:
    """`first` 步的损失，与达到 `target` 的步数；`most` 步还达不到则 None，`most` 为 0 就不找。"""
    preset, changes = VARIANTS[name]
    losses: dict[int, float] = {}

    def at(steps: int) -> float:
        if steps not in losses:
            losses[steps] = train_once(val_bin, preset, changes, seed, steps)
        return losses[steps]

    if most == 0:
        return {"seed": seed, "losses": {first: at(first)}, "loss": at(first), "steps_to_target": None}
    place = LENGTHS.index(first)
    # 先往短处找到达不到的，再往长处找到达得到的
    while place > 0 and at(LENGTHS[place]) <= target:
        place -= 1
    while place + 1 < len(LENGTHS) and LENGTHS[place + 1] <= most and at(LENGTHS[place]) > target:
        place += 1
    return {"seed": seed, "losses": losses, "loss": at(first), "steps_to_target": steps_to(losses, target)}


def steps_to(losses: dict[int, float], target: float) -> float | None:
    """在达不到与达得到的两个长度之间，按步数的对数内插。"""
    ordered = sorted(losses.items())
    for (short, high), (long, low) in itertools.pairwise(ordered):
        if low <= target < high:
            share = (high - target) / (high - low)
            return math.exp(math.log(short) + share * (math.log(long) - math.log(short)))
    return None


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What each ingredient of the modern recipe brings, in steps.")
    parser.add_argument("--data", type=Path, required=True, help="a prepared shakespeare_char folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1337, 1338, 1339])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME", help="only these variants")
    parser.add_argument("--target", type=float, default=1.903, help="loss to reach: nanoGPT's after 2,000 steps")
    parser.add_argument("--steps", type=int, default=FIRST, help="length whose loss is compared")
    parser.add_argument("--most", type=int, default=LENGTHS[-1], help="longest training that is tried; 0: --steps only")
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    args = parser.parse_args()
    if not (args.data / "val.bin").is_file():
        parser.error(f"{args.data} has no val.bin; prepare shakespeare_char first")
    if args.most and args.steps not in LENGTHS:
        parser.error(f"with --most, --steps is one of {LENGTHS}")
    return args


def main() -> int:
    args = parse()
    data, out = args.data.resolve(), args.out.resolve() if args.out else None
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="nanogpt-ablation-") as folder:
        (Path(folder) / "data").mkdir()
        (Path(folder) / "data" / DATASET).symlink_to(data)
        os.chdir(folder)
        for name in args.only or VARIANTS:
            results[name] = []
            for seed in args.seeds:
                results[name].append(measure(data / "val.bin", name, seed, args.target, args.steps, args.most))
            print(" | ".join(cells(name, results[name])), flush=True)
            write_json(out, {"benchmark": "ablation", "target": args.target, "steps": args.steps, "data": str(data),
                             "argv": sys.argv, "machine": machine(), "variants": results})
        os.chdir("/")
    print_table(f"loss after {args.steps} steps, and steps to {args.target}; seeds {args.seeds}",
                ["variant", "loss", "each seed", "steps to the loss", "each seed"],
                [cells(name, rows) for name, rows in results.items()])
    return 0


def cells(name: str, rows: list[dict[str, Any]]) -> list[str]:
    reached = [row["steps_to_target"] for row in rows]
    mean = f"{statistics.mean(reached):.0f}" if None not in reached else "-"
    return [name, f"{statistics.mean(row['loss'] for row in rows):.4f}",
            " ".join(f"{row['loss']:.4f}" for row in rows), mean,
            " ".join(f"{steps:.0f}" if steps else "-" for steps in reached)]


if __name__ == "__main__":
    sys.exit(main())
