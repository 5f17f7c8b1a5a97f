"""轮询全部运行的那一个线程；每次看完给应用发一条 `RunsUpdated`。

第一次轮询才导入 numpy，所以不耽误第一帧。`WorkbenchApp` 启动与结束它。
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from workbench.messages import RunsUpdated

# 读一个大日志时不等下一拍，但消息至多这么密
MESSAGE_SECONDS = 0.5


class Poller(threading.Thread):
    """`period_seconds` 一次；`post` 可以在任何线程里调用。守护线程：退出应用时不等它。"""

    def __init__(self, workspace: Path, post: Callable[[RunsUpdated], object], period_seconds: float):
        super().__init__(name="poller", daemon=True)
        self._post, self.period_seconds = post, period_seconds
        self._workspace = workspace
        self._wake, self._is_over = threading.Event(), False
        self.store: object | None = None

    def run(self) -> None:
        from workbench.run_store import RunStore

        self.store = store = RunStore(self._workspace)
        is_list_changed, last_post = True, 0.0
        changed: set[Path] = set()
        while not self._is_over:
            has_news, now_changed = store.poll()
            is_list_changed, changed = is_list_changed or has_news, changed | now_changed
            if store.is_loaded or time.monotonic() - last_post >= MESSAGE_SECONDS:
                self._post(RunsUpdated(is_list_changed, changed))
                is_list_changed, changed, last_post = False, set(), time.monotonic()
            if store.is_loaded:
                self._wake.wait(self.period_seconds)
                self._wake.clear()

    def wake(self) -> None:
        """马上再看一遍：刚启动或删掉了一个运行。"""
        self._wake.set()

    def stop(self) -> None:
        self._is_over = True
        self._wake.set()
