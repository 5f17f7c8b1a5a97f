"""叫停一个训练器：先请它自己存好再走，宽限之后逐级加重。

应用使用。信号只发给锁的持有者，而且 pid、开始时间、开机标识与主机都对得上：pid 可能已是别人的。
"""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from nanogpt.i18n import N_
from nanogpt.rundir import STOP, boot_id, holder, process_start_time

# 停止文件之后过这么多秒升级：SIGTERM（同样会存），再不行就 SIGKILL
TERM_SECONDS, KILL_SECONDS = 30.0, 90.0
ASKED = N_("asked it to save and stop")
TERMINATED = N_("no answer yet: sent SIGTERM")
KILLED = N_("still no answer: killed it; the last checkpoint is whole")
NOT_HERE = N_("it runs on another host; the stop file is its only way")


def request_stop(out_dir: Path) -> None:
    """放下停止文件：训练器在下一步的边界存好并结束。"""
    os.close(os.open(out_dir / STOP, os.O_WRONLY | os.O_CREAT, 0o600))


def is_same_process(found: dict[str, object]) -> bool:
    """锁里记的那个进程此刻仍是它，而且在这台机器上。"""
    pid = found.get("pid")
    return (type(pid) is int and pid > 1 and found.get("host") == socket.gethostname()
            and found.get("boot_id") == boot_id() and found.get("pid_start_time") is not None
            and process_start_time(pid) == found.get("pid_start_time"))


def signal_holder(out_dir: Path, number: int) -> bool:
    """给持锁的训练器发信号；没有持有者、或不能确认是它时什么也不发，返回 False。"""
    found = holder(out_dir)
    if not found or not is_same_process(found):
        return False
    pid = found["pid"]
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


class StopEscalation:
    """一次叫停的进程；每隔一阵调用 `step`，它返回新发生的事（待译）或空。"""

    def __init__(self, out_dir: Path, clock: Callable[[], float] = time.monotonic):
        self.out_dir, self._clock = out_dir, clock
        self._began = clock()
        self._level = 0
        request_stop(out_dir)

    def step(self) -> str:
        waited = self._clock() - self._began
        if self._level == 0 and waited >= TERM_SECONDS:
            self._level = 1
            return TERMINATED if signal_holder(self.out_dir, signal.SIGTERM) else NOT_HERE
        if self._level == 1 and waited >= KILL_SECONDS:
            self._level = 2
            return KILLED if signal_holder(self.out_dir, signal.SIGKILL) else NOT_HERE
        return ""
