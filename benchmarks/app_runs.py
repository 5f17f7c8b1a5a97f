"""给应用看的运行目录：一次写好的一大份，与照着节拍增长的一份。`benchmarks/app.py` 使用。

格式与训练器写的相同（`docs/events.md`），数字的位数也相仿；增长的那份由真的 `RunDir` 持有，所以应用看它是活的。
"""

import math
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

from processes import ROOT

sys.path.insert(0, str(ROOT))
from nanogpt.events import EventWriter, encode_event
from nanogpt.rundir import CONSOLE, EVENTS, RunDir

EVAL_INTERVAL = 250
CONSOLE_LINES = 20_000


def _iter_values(index: int, most: int, chance: random.Random) -> dict[str, Any]:
    return {"iter": index, "loss": 1.5 + 3 * math.exp(-4 * index / most) + 0.2 * chance.random(),
            "lr": 1e-3 * math.cos(index / most), "grad_norm": 2 * chance.random(), "iter_ms": 20 + chance.random(),
            "tokens_per_second": 38000 + 100 * chance.random(), "mfu": None, "memory_mib": 812.5}


def start_fields(most: int) -> dict[str, Any]:
    return {"config": {"max_iters": most, "eval_interval": EVAL_INTERVAL, "learning_rate": 1e-3, "dataset": "bench"},
            "resumed_from_iter": None, "params": 10_000_000, "tokens_per_iter": 768, "world_size": 1,
            "device_name": "cpu", "peak_flops": None}


def write_run(out_dir: Path, iters: int, *, most: int = 0, is_ended: bool = True) -> None:
    """`iters` 步的一份日志，每 250 步一次评估；一百万步约 250 MB，写约 8 秒。"""
    out_dir.mkdir(parents=True)
    most, chance, seq = most or iters, random.Random(1337), 0
    began = time.time() - iters * 0.05
    with open(out_dir / EVENTS, "wb", buffering=1 << 20) as file:

        def write(event: str, when: float, **fields: Any) -> None:
            nonlocal seq
            file.write(encode_event({"seq": seq, "time": when, "event": event, **fields}))
            seq += 1

        write("start", began, **start_fields(most))
        for index in range(iters):
            values = _iter_values(index, most, chance)
            if index % EVAL_INTERVAL == 0:
                val_loss = values["loss"] + 0.1
                write("eval", began + index * 0.05, iter=index, train_loss=values["loss"], val_loss=val_loss,
                      best_val_loss=val_loss)
            write("iter", began + index * 0.05, **values)
        if is_ended:
            write("end", began + iters * 0.05, status="finished", iter=iters)
    lines = [_console_line(index, 2.3456, 20.12) for index in range(max(0, iters - CONSOLE_LINES), iters)]
    (out_dir / CONSOLE).write_text("".join(lines), encoding="utf-8")


def _console_line(index: int, loss: float, iter_ms: float) -> str:
    return f"iter {index}: loss {loss:.4f}, time {iter_ms:.2f}ms, mfu n/a\n"


class LiveRun:
    """活着的一份：`rate` 次每秒地写 `iter` 事件与控制台的一行，直到 `close()`。`rate` 可以在中途改；0 是不写。"""

    def __init__(self, out_dir: Path, iters: int, rate: float):
        self.rate, self.count, self._most = rate, iters, 2 * iters
        write_run(out_dir, iters, most=self._most, is_ended=False)
        self._holder = RunDir(str(out_dir))
        self._events = EventWriter(out_dir / EVENTS)
        self._console = out_dir / CONSOLE
        self._chance, self._is_over = random.Random(7), threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        due = time.monotonic()
        while not self._is_over.wait(max(0.0, due - time.monotonic())):
            if self.rate <= 0:
                due = time.monotonic() + 0.1
                continue
            due += 1 / self.rate
            values = _iter_values(self.count, self._most, self._chance)
            self._events.emit("iter", **values)
            with open(self._console, "a", encoding="utf-8") as file:
                file.write(_console_line(self.count, values["loss"], values["iter_ms"]))
            self.count += 1

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()
        self._events.close()
        self._holder.close()
