"""一个被看着的运行目录：事件折叠成的状态，加上训练器是死是活。

`plot`、快速上手与应用都用它。目录是唯一的事实：谁启动的、何时启动的都不要紧。
"""

import os
import subprocess
import threading
import time
from pathlib import Path

from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from nanogpt.rundir import CONSOLE, EVENTS, holder
from nanogpt.text import visible
from workbench.follow import Follower
from workbench.run_state import END_STATUSES, RunState
from workbench.sketch import sketch

STATUS_WORDS = {"starting": N_("starting"), "running": N_("running"), "stalled": N_("stalled"),
                "finished": N_("finished"), "stopped": N_("stopped"), "diverged": N_("diverged"),
                "failed": N_("failed"), "interrupted": N_("interrupted")}
# 多久没有新事件算停滞：至少这么久，且至少是平常一步的这么多倍
STALL_SECONDS, STALL_STEPS = 60.0, 30.0
STARTING_SECONDS = 20.0
YIELD_SECONDS = 0.0005
# 还有这么多没读的，先看草图
SKETCH_BYTES = 16 << 20


class WatchedRun:
    """一个运行目录与读它的人。`path` 也可以直接是 `events.jsonl`；日志可以还没有。"""

    def __init__(self, path: str | Path):
        given = Path(path)
        is_log = given.name == EVENTS or given.is_file()
        self.out_dir = given.parent if is_log else given
        self.log = given if is_log else given / EVENTS
        self.name = visible(self.out_dir.resolve().name, keep="")
        self.follower = Follower(self.log)
        self._whole = RunState()
        self._sketch: RunState | None = None
        self.status = self.state.status
        # 读者线程折叠事件时持有；界面取几列数时也要，否则一列长一列短
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self._launched_at: tuple[RunState, int] | None = None

    @property
    def state(self) -> RunState:
        """读到的状态；很长的日志读完之前是草图，一步不落的要等 `follower.is_behind` 为假。"""
        return self._whole if self._sketch is None else self._sketch

    def launched(self, process: subprocess.Popen[bytes]) -> None:
        """应用刚为这个目录启动了一个训练器：在它写出第一个事件之前，死活以进程为准。"""
        self.process, self._launched_at = process, (self._whole, self._whole.version)
        self.status = "starting"

    def refresh(self, max_bytes: int | None = None) -> bool:
        """读到文件末尾（或至多约 `max_bytes`，边读边让着界面）并判断死活；返回是否有变化。"""
        before = self._seen()
        self._read(max_bytes)
        self.status = self.state.status
        if self._is_silent_since_launch():
            self.status = self._status_of_silent()
        elif not self.has_ended:
            if holder(self.out_dir) is None:
                # 训练器先写 `end` 再放锁、先拿锁再写 `start`：再看一遍，才不会把刚结束或刚开始的说成中断。
                self._read(max_bytes)
                is_dead = self.state.status not in END_STATUSES and holder(self.out_dir) is None
                self.status = "interrupted" if is_dead else self.state.status
            elif self._is_stalled():
                self.status = "stalled"
        return before != self._seen()

    def _is_silent_since_launch(self) -> bool:
        """还没有本次的事件：应用启动的看进程，别人启动的看有没有任何事件。"""
        if self.process is not None:
            # 顺带收尸；退出码留给解释结局的人
            self.process.poll()
        if self._launched_at is not None:
            return self._launched_at == (self._whole, self._whole.version)
        return self._whole.version == 0

    def _status_of_silent(self) -> str:
        if holder(self.out_dir) is not None:
            return "starting"
        if self.process is not None:
            # 没写下一个事件就结束：多半是坏输入，`console.log` 里有说法
            return "starting" if self.process.poll() is None else "failed"
        if not (self.out_dir / CONSOLE).exists():
            return "interrupted"
        return "starting" if self._is_young() else "failed"

    def _is_young(self) -> bool:
        """刚由别的应用启动的训练器要几秒才拿到锁。"""
        try:
            return time.time() - (self.out_dir / CONSOLE).stat().st_mtime < STARTING_SECONDS
        except OSError:
            return False

    @property
    def is_silent_failure(self) -> bool:
        """没写下一个事件就失败了。"""
        return self.status == "failed" and self.state.status != "failed"

    def _read(self, max_bytes: int | None) -> None:
        total = 0
        while True:
            resets, start = self.follower.resets, self.follower.offset
            events = self.follower.poll()
            with self.lock:
                if self.follower.resets != resets:
                    self._whole, self._sketch = RunState(), None
                self._whole.apply_events(events)
                if not self.follower.is_behind:
                    self._sketch = None
            if max_bytes is not None and self.follower.is_behind and self._sketch is None \
                    and self.follower.size - self.follower.offset > SKETCH_BYTES:
                found = sketch(self.follower)
                with self.lock:
                    self._sketch = found
            total += abs(self.follower.offset - start)
            if not self.follower.is_behind or (max_bytes is not None and total >= max_bytes):
                return
            if max_bytes is not None:
                # 旁边有界面：每一块之后把解释器让出来，一百万个事件共多花约 0.6 秒，按键不必等
                time.sleep(YIELD_SECONDS)

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
