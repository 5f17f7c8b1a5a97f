"""达到 nanoGPT 的验证损失要多久：`train_shakespeare_char_modern` 与 nanoGPT 的 CPU 快速上手（J1）。

    python benchmarks/time_to_loss.py --nanogpt ../nanoGPT --out results.json

每个种子三次训练：nanoGPT 的 2,000 步；我们的 `--steps` 步，损失要不高于它；我们在它用掉的时间里走得完的步数。
时间由 `iter N:` 行到达的时刻得来，不含起动与评估；损失在同样的 200 批固定窗口上算。nanoGPT 的种子写死在 `train.py` 里，
所以它的副本里换掉那一个数。
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from jobs import DATASET, JOBS, Arena, find_char_data, flags
from processes import ROOT, run
from report import add_nanogpt_option, check_nanogpt, machine, print_table, write_json
from train import cpu_seconds, iterations

JOB = JOBS["J1"]
PRESET = "train_shakespeare_char_modern"
BATCHES = 200
# 我们的快几倍、nanoGPT 的时间里的损失，都是要做到的
GOAL_RATIO, GOAL_LOSS = 5.0, 1.66
_SEED = "torch.manual_seed(1337 + seed_offset)"
_LOSS = re.compile(r"loss ([\d.]+) parameters (\d+) iter (\d+)")


def train(arena: Arena, side: str, seed: int, steps: int, name: str) -> dict[str, Any]:
    """训练 `steps` 步并存下检查点；返回这些步的秒数与固定窗口上的损失。"""
    common = {"dataset": DATASET, "out_dir": name, "max_iters": steps, "lr_decay_iters": steps, "log_interval": 1,
              "eval_interval": steps, "eval_iters": 1, "always_save_checkpoint": True}
    if side == "ours":
        arguments = [PRESET, *flags({**common, "device": "cpu", "dtype": "float32", "compile": False, "seed": seed})]
    else:
        script = arena.cwd(side) / "train.py"
        text = re.sub(re.escape(_SEED).replace("1337", r"\d+"), _SEED.replace("1337", str(seed)),
                      script.read_text(encoding="utf-8"))
        script.write_text(text, encoding="utf-8")
        if f"manual_seed({seed} " not in text:
            raise SystemExit("this nanoGPT sets its seed otherwise")
        arguments = flags({**JOB.keys, **common})
    cpu_s: dict[int, float | None] = {}

    def note(line: str, process: Any) -> bool:
        if line.startswith(("iter 0:", f"iter {steps - 1}:")):
            cpu_s[int(line.split()[1][:-1])] = cpu_seconds(process.pid)
        return False

    finished = run(arena.command(side, "train", arguments), arena.cwd(side), on_line=note)
    at = iterations(finished)
    if finished.returncode or steps - 1 not in at:
        raise SystemExit(f"{side} failed:\n{finished.tail()}")
    # 第 0 步的行到达时它已经做完：量到的是其后的 steps - 1 步
    scale = steps / (steps - 1)
    before, after = cpu_s.get(0), cpu_s.get(steps - 1)
    return {"steps": steps, "seconds": (at[steps - 1][0] - at[0][0]) * scale,
            "cpu_seconds": (after - before) * scale if before is not None and after is not None else None,
            **validation_loss(arena, arena.cwd(side) / name / "ckpt.pt")}


def validation_loss(arena: Arena, checkpoint: Path) -> dict[str, Any]:
    shape = (str(JOB.keys["batch_size"]), str(JOB.keys["block_size"]))
    finished = run([sys.executable, str(ROOT / "benchmarks" / "fixed_windows.py"), str(checkpoint),
                    str(arena.path / "data" / DATASET / "val.bin"), str(BATCHES), *shape], arena.path)
    match = _LOSS.search(finished.text)
    if match is None:
        raise SystemExit(f"cannot evaluate {checkpoint}:\n{finished.tail()}")
    return {"loss": float(match[1]), "params": int(match[2]), "saved_iter": int(match[3])}


def measure_seed(arena: Arena, seed: int, nanogpt_steps: int, steps: int) -> dict[str, Any]:
    """一个种子的三次训练，与各项要求做到了没有。"""
    theirs = train(arena, "nanogpt", seed, nanogpt_steps, f"out-{seed}")
    say(seed, "nanoGPT", theirs)
    ours = train(arena, "ours", seed, steps, f"out-{seed}-short")
    say(seed, "ours, short", ours)
    # 留百分之五：步的快慢会变
    in_its_time = max(int(theirs["seconds"] / ours["seconds"] * steps * 0.95), steps)
    longer = train(arena, "ours", seed, in_its_time, f"out-{seed}-long")
    say(seed, "ours, in nanoGPT's time", longer)
    has_cpu = theirs["cpu_seconds"] and ours["cpu_seconds"]
    return {"seed": seed, "nanogpt": theirs, "ours": ours, "ours_in_nanogpts_time": longer,
            "ratio": theirs["seconds"] / ours["seconds"],
            "cpu_ratio": theirs["cpu_seconds"] / ours["cpu_seconds"] if has_cpu else None,
            "reached": ours["loss"] <= theirs["loss"],
            "params_ratio": ours["params"] / theirs["params"]}


def say(seed: int, who: str, found: dict[str, Any]) -> None:
    print(f"seed {seed}, {who}: {found['steps']} steps in {found['seconds']:.1f} s, loss {found['loss']:.4f}",
          flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time to nanoGPT's validation loss on its CPU quick start.")
    add_nanogpt_option(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1337, 1338, 1339])
    parser.add_argument("--steps", type=int, default=280, help="steps of ours that are to reach nanoGPT's loss")
    parser.add_argument("--nanogpt-steps", type=int, default=JOB.whole_iters, help="steps of nanoGPT's job")
    parser.add_argument("--data", type=Path, help="a prepared shakespeare_char folder")
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    args = parser.parse_args()
    args.nanogpt = check_nanogpt(parser, args.nanogpt)
    args.data = args.data or find_char_data(args.nanogpt)
    if args.data is None:
        parser.error("prepare shakespeare_char first, or give a folder with --data")
    if min(args.steps, args.nanogpt_steps) < 2:
        parser.error("--steps and --nanogpt-steps must be at least 2")
    return args


def main() -> int:
    args = parse()
    with Arena(args.nanogpt) as arena:
        arena.add_char_data(args.data)
        rows = [measure_seed(arena, seed, args.nanogpt_steps, args.steps) for seed in args.seeds]
    print_table(f"time to nanoGPT's J1 loss after {args.nanogpt_steps} steps, start-up and evaluation left out",
                ["seed", "nanoGPT s", "loss", f"ours s, {args.steps} steps", "loss", "times faster", "CPU time",
                 "ours in nanoGPT's time", "loss"], [cells(row) for row in rows])
    ok = all(row["reached"] and row["ratio"] >= GOAL_RATIO and row["ours_in_nanogpts_time"]["loss"] <= GOAL_LOSS
             and 0.9 <= row["params_ratio"] <= 1.1 for row in rows)
    print(f"at most one fifth of the time for each seed, and at most {GOAL_LOSS} in nanoGPT's time: "
          f"{'yes' if ok else 'NO'}; parameters {rows[0]['params_ratio']:.3f} of nanoGPT's")
    write_json(args.out, {"benchmark": "time_to_loss", "preset": PRESET, "data": str(args.data), "batches": BATCHES,
                          "goal_ratio": GOAL_RATIO, "goal_loss": GOAL_LOSS, "ok": ok, "argv": sys.argv,
                          "machine": machine(), "seeds": rows})
    return 0


def cells(row: dict[str, Any]) -> list[str]:
    theirs, ours, longer = row["nanogpt"], row["ours"], row["ours_in_nanogpts_time"]
    cpu = f"{row['cpu_ratio']:.2f}" if row["cpu_ratio"] else "-"
    return [str(row["seed"]), f"{theirs['seconds']:.1f}", f"{theirs['loss']:.4f}", f"{ours['seconds']:.1f}",
            f"{ours['loss']:.4f}", f"{row['ratio']:.2f}", cpu, f"{longer['steps']} steps, {longer['seconds']:.1f} s",
            f"{longer['loss']:.4f}"]


if __name__ == "__main__":
    sys.exit(main())
