"""终端上的进度条：步数、损失、剩余时间。输出被重定向时什么也不做。

`nanogpt.train` 使用。`rich` 不是训练的必需品，没有装就没有进度条。
"""

import contextlib
import sys
import time
from typing import Any

# 每秒至多画这么多次：训练一步可能只要几毫秒
_DRAWS_PER_SECOND = 4


class ProgressBar:
    """从第 `start` 步到第 `total` 步的进度条。"""

    def __init__(self, start: int, total: int):
        self._bar: Any = None
        self._last_draw = 0.0
        if not (sys.stdout.isatty() and sys.stderr.isatty()):
            return
        with contextlib.suppress(ImportError):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                                 TimeRemainingColumn(), auto_refresh=False, transient=True,
                                 # 长行照样一行：折断的命令粘贴不了
                                 console=Console(soft_wrap=True))
            self._task = self._bar.add_task("", total=total, completed=start)
            self._bar.start()

    def update(self, done: int, loss: float) -> None:
        now = time.monotonic()
        if self._bar is not None and now - self._last_draw > 1 / _DRAWS_PER_SECOND:
            self._last_draw = now
            try:
                self._bar.update(self._task, completed=done, description=f"loss {loss:.4f}", refresh=True)
            except OSError:
                # 终端没了，训练照旧
                self._bar = None

    def close(self) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.stop()
