"""全部运行的现状：一个轮询者读所有日志，界面只取结果。

应用在工作线程里调用 `poll`，得到有变化的运行；列表与监视界面从 `runs` 取数。
"""

import time
from pathlib import Path

from workbench.discover import find_runs
from workbench.watched_run import WatchedRun

# 每次轮询每个运行至多读这么多，免得一个大日志挡住别的；剩下的下次接着读
CHUNK_BYTES = 4 << 20
SCAN_SECONDS, IDLE_SECONDS = 2.0, 5.0


class RunStore:
    """`workspace` 里的全部运行。只有一个线程调用 `poll`。"""

    def __init__(self, workspace: Path):
        self.workspace = workspace
        self.runs: dict[Path, WatchedRun] = {}
        self.is_loaded = False
        self._last_scan = self._last_idle = -1e9

    def poll(self, now: float | None = None) -> tuple[bool, set[Path]]:
        """（列表本身变了没有, 内容有变化的运行目录）。结束了的运行看得疏一些。"""
        now = time.monotonic() if now is None else now
        is_list_changed = False
        if now - self._last_scan >= SCAN_SECONDS:
            self._last_scan = now
            is_list_changed = self._scan()
        is_idle_due = now - self._last_idle >= IDLE_SECONDS
        if is_idle_due:
            self._last_idle = now
        changed = {folder for folder, run in list(self.runs.items())
                   if (is_idle_due or not run.has_ended or run.follower.is_behind) and run.refresh(CHUNK_BYTES)}
        self.is_loaded = not any(run.follower.is_behind for run in self.runs.values())
        return is_list_changed, changed

    def ensure(self, folder: Path) -> WatchedRun:
        """`folder` 的运行；还没扫描到就先登记。界面线程也可以调用。"""
        for known, run in list(self.runs.items()):
            if known == folder or known.resolve() == folder.resolve():
                return run
        return self.runs.setdefault(folder, WatchedRun(folder))

    def _scan(self) -> bool:
        found = find_runs(self.workspace)
        gone, new = set(self.runs) - set(found), [folder for folder in found if folder not in self.runs]
        for folder in gone:
            self.forget(folder)
        for folder in new:
            self.runs.setdefault(folder, WatchedRun(folder))
        return bool(gone or new)

    def forget(self, folder: Path) -> None:
        """刚删掉的目录：不等下一次扫描。"""
        if (run := self.runs.pop(folder, None)) is not None:
            run.follower.close()
