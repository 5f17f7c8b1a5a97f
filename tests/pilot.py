"""驱动真的应用：`drive` 在指定大小的屏上跑一段剧本，`screen_text` 是此刻屏上的文字。

`test_app.py`、`test_monitor.py` 使用；运行目录由真的 `EventWriter` 写成。
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from nanogpt.events import EventWriter
from workbench.app import WorkbenchApp

Scenario = Callable[[WorkbenchApp, Any], Awaitable[None]]
WAIT_S = 60.0


def drive(workspace: Path, scenario: Scenario, size: tuple[int, int] = (80, 24), *, is_read_only: bool = False,
          app_class: type[WorkbenchApp] = WorkbenchApp) -> None:
    """在 `workspace` 里打开应用，等第一次轮询之后照剧本做。"""

    async def body() -> None:
        app = app_class(Path(), is_read_only)
        async with app.run_test(size=size, notifications=True) as pilot:
            await until(pilot, lambda: app.is_loaded and app.store.is_loaded)
            await pilot.pause()
            await scenario(app, pilot)

    before = os.getcwd()
    os.chdir(workspace)
    try:
        asyncio.run(body())
    finally:
        os.chdir(before)


async def until(pilot: Any, is_true: Callable[[], object], limit_s: float = WAIT_S) -> None:
    """等到成立；一直不成立就报出此刻的屏幕。"""
    end = time.monotonic() + limit_s
    while not is_true():
        assert time.monotonic() < end, screen_text(pilot.app)
        await pilot.pause(0.05)


async def see(pilot: Any, *texts: str, limit_s: float = WAIT_S) -> None:
    await until(pilot, lambda: all(text in screen_text(pilot.app) for text in texts), limit_s)


def screen_text(app: Any) -> str:
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())


def write_run(out_dir: Path, iters: int = 20, *, status: str | None = "finished", console: str = "hello from the log\n",
              **config: Any) -> Path:
    """一个真的运行目录：`iters` 步、两次评估、一个检查点文件；`status` 为 None 则没有 `end`。"""
    out_dir.mkdir(parents=True, exist_ok=True)
    writer = EventWriter(out_dir / "events.jsonl")
    writer.emit("start", config={"max_iters": iters, "dataset": "tiny", "learning_rate": 1e-3, **config},
                resumed_from_iter=None, params=1000, tokens_per_iter=64, world_size=1, device_name="cpu",
                peak_flops=None)
    for index in range(iters):
        writer.emit("iter", iter=index, loss=4.0 - index / iters, lr=1e-3, grad_norm=1.0, iter_ms=10.0,
                    tokens_per_second=6400.0, mfu=None, memory_mib=100.0)
        if index in (0, iters - 1):
            writer.emit("eval", iter=index, train_loss=4.0, val_loss=3.9 - index / iters, best_val_loss=3.1)
    writer.emit("checkpoint", iter=iters, path="ckpt.pt", bytes=1 << 20, save_ms=5.0)
    if status is not None:
        writer.emit("end", status=status, iter=iters)
    writer.close()
    (out_dir / "ckpt.pt").write_bytes(b"x")
    (out_dir / "console.log").write_text(console, encoding="utf-8")
    return out_dir
