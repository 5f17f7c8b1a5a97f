"""一个被看着的运行目录：事件折叠成的状态，加上训练器是死是活。

`plot`、快速上手与应用都用它。目录是唯一的事实：谁启动的、何时启动的都不要紧。
"""

import os
import time
from pathlib import Path

from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from nanogpt.rundir import EVENTS, holder
from nanogpt.text import visible
from workbench.follow import Follower
from workbench.run_state import END_STATUSES, RunState

STATUS_WORDS = {"starting": N_("starting"), "running": N_("running"), "stalled": N_("stalled"),
                "finished": N_("finished"), "stopped": N_("stopped"), "diverged": N_("diverged"),
                "failed": N_("failed"), "interrupted": N_("interrupted")}
# 多久没有新事件算停滞：至少这么久，且至少是平常一步的这么多倍
STALL_SECONDS, STALL_STEPS = 60.0, 30.0


class WatchedRun:
    """一个运行目录与读它的人。`path` 也可以直接是 `events.jsonl`；日志可以还没有。"""

    def __init__(self, path: str | Path):
        given = Path(path)
        is_log = given.name == EVENTS or given.is_file()
        self.out_dir = given.parent if is_log else given
        self.log = given if is_log else given / EVENTS
        self.name = visible(self.out_dir.resolve().name, keep="")
        self.follower = Follower(self.log)
        self.state = RunState()
        self.status = self.state.status

    def refresh(self, max_bytes: int | None = None) -> bool:
        """读到文件末尾（或至多约 `max_bytes`）并判断死活；返回是否有变化。"""
        before = self._seen()
        self._read(max_bytes)
        self.status = self.state.status
        if not self.has_ended:
            if holder(self.out_dir) is None:
                # 训练器先写 `end` 再放锁、先拿锁再写 `start`：再看一遍，才不会把刚结束或刚开始的说成中断。
                self._read(max_bytes)
                is_dead = self.state.status not in END_STATUSES and holder(self.out_dir) is None
                self.status = "interrupted" if is_dead else self.state.status
            elif self._is_stalled():
                self.status = "stalled"
        return before != self._seen()

    def _read(self, max_bytes: int | None) -> None:
        total = 0
        while True:
            resets, start = self.follower.resets, self.follower.offset
            events = self.follower.poll()
            if self.follower.resets != resets:
                self.state = RunState()
            for event in events:
                self.state.apply_event(event)
            total += abs(self.follower.offset - start)
            if not self.follower.is_behind or (max_bytes is not None and total >= max_bytes):
                return

    def _is_stalled(self) -> bool:
        age, step_ms = self.state.age_seconds(time.time()), self.state.latest("iter_ms")
        if age is None or self.state.status != "running":
            return False
        return age > max(STALL_SECONDS, STALL_STEPS * step_ms / 1e3 if step_ms > 0 else 0.0)

    def _seen(self) -> tuple[object, ...]:
        return self.state, self.state.version, self.status, self.follower.bad_lines, self.follower.problem

    @property
    def has_ended(self) -> bool:
        return self.status in (*END_STATUSES, "interrupted")


def open_run(path: str | Path) -> WatchedRun:
    """命令行上指名的运行；那里没有可读的日志则 `BadInput`。"""
    run = WatchedRun(path)
    if not run.log.is_file():
        raise BadInput("run_not_found", _("no run here: {path}").format(path=path), str(run.log),
                       _("name a run directory, one that holds events.jsonl"))
    if not os.access(run.log, os.R_OK):
        raise BadInput("run_unreadable", _("the run's log cannot be read"), str(run.log),
                       _("check the file's permissions"))
    return run
