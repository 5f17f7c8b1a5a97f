"""CUDA 上的正确性：真的起 `nanogpt.train`，看它打印、写下与退出的是什么。

`gpu_parts.py` 调用 `run_all`；每一项检查是（名字, 是否成立, 一句看到了什么）。
互不相干的运行同时起（这里不计时），显存不足的那一项单独做。
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jobs import DATASET, Arena, flags
from processes import Finished, run

Check = dict[str, Any]  # name、ok、said
ITERS, SAVED_AFTER = 60, 30
MODEL = {"n_layer": 4, "n_head": 4, "n_embd": 256, "block_size": 256, "batch_size": 32, "dropout": 0.0}
DRY_MODEL = {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 32, "batch_size": 8, "dropout": 0.0}
# 编译与不编译的舍入不同：bf16 下六十步之内，损失应当还在一起
COMPILE_TOLERANCE, RESUME_TOLERANCE = 0.05, 0.02


def train(arena: Arena, out_dir: str, device: str, extra: dict[str, Any], is_dry: bool, on_line: Any = None,
          launcher: list[str] | None = None) -> Finished:
    """一次短的训练；每 20 步评估并保存，所以检查点的路也走到。"""
    keys = {"dataset": DATASET, "out_dir": out_dir, "device": device, "dtype": "bfloat16", "compile": False,
            "max_iters": ITERS, "lr_decay_iters": 100, "warmup_iters": 5, "learning_rate": 1e-3, "eval_interval": 20,
            "eval_iters": 2, "log_interval": 1, "gradient_accumulation_steps": 1, **(DRY_MODEL if is_dry else MODEL)}
    command = [sys.executable, "-u", *(launcher or []), "-m", "nanogpt.train", *flags({**keys, **extra})]
    return run(command, arena.cwd("ours"), 120, on_line)


def events(arena: Arena, out_dir: str, kind: str) -> list[dict[str, Any]]:
    path = arena.cwd("ours") / out_dir / "events.jsonl"
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def losses(arena: Arena, out_dir: str) -> dict[int, float | None]:
    return {event["iter"]: event["loss"] for event in events(arena, out_dir, "iter")}


def signal_at(iteration: int) -> Callable[[str, subprocess.Popen[str]], bool]:
    """见到那一步的行就发 SIGTERM，然后读到它自己结束。"""
    def on_line(line: str, process: subprocess.Popen[str]) -> bool:
        if line.startswith(f"iter {iteration}:"):
            process.send_signal(signal.SIGTERM)
        return False
    return on_line


def run_all(add: Callable[[Check], None], left_s: Callable[[], float], is_dry: bool) -> None:
    """全部检查；`add` 收下每一项的结果。"""
    device = "cpu" if is_dry else "cuda"
    with Arena(None) as arena:
        arena.add_char_data()
        wave: dict[str, tuple[dict[str, Any], Any, list[str] | None]] = {
            "bf16": ({}, None, None), "stopped": ({}, signal_at(SAVED_AFTER), None)}
        if not is_dry:
            one_rank = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
            wave |= {"fp16": ({"dtype": "float16"}, None, None), "fp32": ({"dtype": "float32"}, None, None),
                     "compiled": ({"compile": True}, None, None),
                     "nccl": ({"backend": "nccl"}, None, one_rank)}
        # 空跑的机器多半只有两个核：同时起几个 torch 反而更慢
        with ThreadPoolExecutor(1 if is_dry else len(wave)) as pool:
            futures = {name: pool.submit(train, arena, name, device, extra, is_dry, on_line, launcher)
                       for name, (extra, on_line, launcher) in wave.items()}
            done = {name: future.result() for name, future in futures.items()}
        for name in wave:
            if name != "stopped":
                add(falls(arena, name, done[name]))
        add(stops(arena, done["stopped"]))
        if not is_dry:
            add(close(arena, "compile on and off agree", "bf16", "compiled", COMPILE_TOLERANCE))
            add(close(arena, "one nccl rank agrees with none", "bf16", "nccl", RESUME_TOLERANCE))
            add(mfu_known(arena))
            add(graph_writes_the_same(arena))
        add(resumes(arena, device, is_dry))
        if not is_dry and left_s() > 25:
            add(out_of_memory(arena))


def falls(arena: Arena, name: str, finished: Finished) -> Check:
    """正常结束，每个损失都有限，且确实下降。"""
    found = losses(arena, name)
    values = [loss for loss in found.values() if loss is not None]
    if finished.returncode or len(values) < 20:
        return {"name": f"trains: {name}", "ok": False, "said": f"exit {finished.returncode}; {finished.tail()}"}
    first, last = sum(values[:3]) / 3, sum(values[-5:]) / 5
    ok = len(values) == len(found) == ITERS + 1 and last < first - 0.3
    return {"name": f"trains: {name}", "ok": ok, "said": f"loss {first:.3f} -> {last:.3f}, "
            f"{len(found) - len(values)} not finite of {len(found)}"}


def stops(arena: Arena, finished: Finished) -> Check:
    """SIGTERM：存下检查点，`end` 事件是 `stopped`，退出码 0。"""
    ends = events(arena, "stopped", "end")
    has_checkpoint = (arena.cwd("ours") / "stopped" / "ckpt.pt").is_file()
    status = ends[-1]["status"] if ends else None
    return {"name": "stops on SIGTERM", "ok": finished.returncode == 0 and status == "stopped" and has_checkpoint,
            "said": f"exit {finished.returncode}, status {status} at iter {ends[-1]['iter'] if ends else None}, "
                    f"checkpoint {'saved' if has_checkpoint else 'missing'}"}


def close(arena: Arena, title: str, one: str, other: str, tolerance: float) -> Check:
    """两次运行逐步的损失之差不超过 `tolerance`。"""
    a, b = losses(arena, one), losses(arena, other)
    pairs = [(a[i], b[i]) for i in sorted(set(a) & set(b))]
    differences = [abs(x - y) for x, y in pairs if x is not None and y is not None]
    if len(differences) < ITERS // 3:
        return {"name": title, "ok": False, "said": f"only {len(differences)} losses to compare"}
    equal = sum(difference == 0 for difference in differences)
    return {"name": title, "ok": max(differences) <= tolerance, "largest_difference": max(differences),
            "equal": equal, "compared": len(differences),
            "said": f"{equal} of {len(differences)} losses bit-equal, largest difference {max(differences):.2e}, "
                    f"allowed {tolerance}"}


def resumes(arena: Arena, device: str, is_dry: bool) -> Check:
    """接着 SIGTERM 停下的地方跑完，逐步与没有停过的那次相比。"""
    title = "a resume equals the uninterrupted run"
    finished = train(arena, "stopped", device, {"init_from": "resume"}, is_dry)
    if finished.returncode:
        return {"name": title, "ok": False, "said": f"exit {finished.returncode}; {finished.tail()}"}
    check = close(arena, title, "bf16", "stopped", 0.0 if is_dry else RESUME_TOLERANCE)
    starts = events(arena, "stopped", "start")
    check["said"] += f"; resumed from iter {starts[-1]['resumed_from_iter']}"
    return {**check, "ok": check["ok"] and len(losses(arena, "stopped")) == ITERS + 1}


def mfu_known(arena: Arena) -> Check:
    start, iters = events(arena, "bf16", "start"), events(arena, "bf16", "iter")
    mfu = iters[-1]["mfu"] if iters else None
    return {"name": "MFU is known on this GPU", "ok": mfu is not None,
            "said": f"{mfu}, peak {start[-1]['peak_flops'] if start else None} on "
                    f"{start[-1]['device_name'] if start else None}"}


def graph_writes_the_same(arena: Arena) -> Check:
    """采样：录成 CUDA 图与逐个发核，贪心写出的文字相同；越过上下文的一段也在内。"""
    keys = {"out_dir": "bf16", "device": "cuda", "dtype": "float32", "temperature": 0, "num_samples": 2,
            "max_new_tokens": 300, "window": "half"}
    plain, graph = (run(arena.command("ours", "sample", flags({**keys, "cuda_graph": uses_graph})), arena.cwd("ours"),
                        120) for uses_graph in (False, True))
    said = f"exit {plain.returncode} and {graph.returncode}; {len(graph.text)} characters"
    ok = plain.returncode == graph.returncode == 0 and plain.text == graph.text and len(graph.text) > 300
    return {"name": "a CUDA graph writes the same text", "ok": ok, "said": said if ok else f"{said}; {graph.tail()}"}


def out_of_memory(arena: Arena) -> Check:
    """远远太大的一批：退出码 4，至多三行，没有调用栈。"""
    finished = train(arena, "oom", "cuda", {"batch_size": 65536, "n_layer": 8, "n_head": 8, "n_embd": 1024}, False)
    at = next((i for i, (_, line) in enumerate(finished.lines) if line.startswith("error:")), None)
    # 之后的行不都是我们的：torch 在退出时也可能说话
    said = [line for _, line in finished.lines[at:] if line.startswith(("error:", "  "))] if at is not None else []
    ok = finished.returncode == 4 and len(said) == 3 and "Traceback" not in finished.text
    return {"name": "out of memory is explained", "ok": ok,
            "said": f"exit {finished.returncode}: " + (" | ".join(said) or finished.tail())}
