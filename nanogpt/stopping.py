"""停下来的请求：SIGINT 与 SIGTERM 只立一面旗，训练循环在步与步之间看它。

`nanogpt.train` 使用。旗子不打断任何事，所以正在写的检查点总能写完。
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from types import FrameType

from nanogpt.i18n import _

# torchrun 收到 Ctrl-C 后会再给每个进程发一次信号；隔得这么近的两次算一次
_SAME_REQUEST_S = 2.0


def die_with_parent(is_on: bool) -> None:
    """父进程（`torchrun`）一死，本进程就被 SIGKILL；只在 Linux 上有效。

    用于开训之前：那时在 C++ 里等着连上别的 rank，看不了旗子，也还没有什么可存。
    """
    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGKILL) if is_on else 0, 0, 0, 0)


class StopSignals:
    """`requested` 为真时该停。第二次 Ctrl-C 放弃未存的步，立刻结束；保存途中除外。"""

    def __init__(self) -> None:
        self.requested = False
        self.is_saving = False
        self._first_time = 0.0

    def install(self) -> None:
        """显式安装：后台的 shell 会让 SIGINT 保持忽略，那时默认的处理也不会生效。"""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)
        # 终端没了，训练照旧：要停有 SIGTERM 与停止文件
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._first_time = True, now
            _say(_("stopping at the next step boundary, with a checkpoint; Ctrl-C again abandons the unsaved steps"))
        elif number == signal.SIGINT and not self.is_saving and now - self._first_time > _SAME_REQUEST_S:
            raise KeyboardInterrupt


def _say(line: str) -> None:
    """在信号处理里说一行。不用 `print`：它可能正被打断在自己的缓冲里，读者也可能已经不在。"""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            fd = sys.stderr.fileno()
            # 终端上光标正停在进度条那一行
            os.write(fd, (("\n" if os.isatty(fd) else "") + f"{line}\n").encode())
