"""在真的伪终端上打开 `nanogpt-workbench`：送键，数它写来的字节，记下每一块到达的时刻。

`benchmarks/app.py` 与 `tests/detach.py` 使用。从外面量：时刻是字节到达终端这一侧的时刻。
"""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import threading
import time
from pathlib import Path

from processes import cpu_seconds, environ

# 各终端里可能带进来、会改变应用行为的变量
_NOT_OURS = ("SSH_CONNECTION", "SSH_TTY", "SSH_CLIENT", "TMUX", "NO_COLOR", "TEXTUAL_FPS", "TEXTUAL_ANIMATIONS",
             "LC_ALL", "NANOGPT_PROFILE", "NANOGPT_ASCII", "NANOGPT_MOUSE")


class AppTerminal:
    """一个开着应用的终端。`began` 是命令发出的时刻（`time.perf_counter`），`chunks` 是（时刻, 字节）。"""

    def __init__(self, workspace: Path, columns: int = 120, rows: int = 34, *arguments: str):
        kept = {name: value for name, value in environ().items() if name not in _NOT_OURS}
        variables = {**kept, "TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"}
        self.chunks: list[tuple[float, bytes]] = []
        self._news = threading.Condition()
        self.is_open, self.began = True, time.perf_counter()
        # 应用是会话的首进程，终端是它的控制终端：终端没了，它收到 SIGHUP
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(workspace)
            os.execve(sys.executable, [sys.executable, "-m", "workbench", *arguments], variables)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._over, self._say_over = os.pipe()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while self.is_open:
            ready, _, _ = select.select([self._fd, self._over], [], [])
            try:
                data = b"" if self._over in ready else os.read(self._fd, 1 << 16)
            except OSError:
                # 另一侧都关了
                data = b""
            with self._news:
                if data:
                    self.chunks.append((time.perf_counter(), data))
                self.is_open = bool(data)
                self._news.notify_all()

    # ---- 看 ----

    def mark(self) -> int:
        """此刻收到了几块；`see` 与 `count_bytes` 从它算起。"""
        return len(self.chunks)

    def text(self, since: int = 0) -> bytes:
        return b"".join(data for _at, data in self.chunks[since:])

    def see(self, text: str, since: int = 0, limit_s: float = 30.0) -> float:
        """等到 `since` 之后的字节里有 `text`；返回它到齐的时刻。"""
        wanted, end = text.encode(), time.perf_counter() + limit_s
        with self._news:
            while wanted not in self.text(since):
                left = end - time.perf_counter()
                if left <= 0 or not self.is_open:
                    raise TimeoutError(f"never saw {text!r}; the last text: {self._last_text()}")
                self._news.wait(left)
            found = b""
            for at, data in self.chunks[since:]:
                found += data
                if wanted in found:
                    return at
        raise AssertionError

    def _last_text(self) -> str:
        text = self.text().decode("utf-8", "replace")
        return re.sub("\x1b(?:\\[[^@-~]*[@-~]|[^\\[])", "", text)[-1500:]

    def quiet_since(self, quiet_s: float, limit_s: float = 60.0) -> float:
        """等到连着 `quiet_s` 秒没有一个字节；返回最后一块到达的时刻。"""
        end = time.perf_counter() + limit_s
        while time.perf_counter() < end:
            last = self.chunks[-1][0] if self.chunks else self.began
            if time.perf_counter() - last >= quiet_s:
                return last
            time.sleep(0.05)
        raise TimeoutError("the terminal never became quiet")

    def count_bytes(self, seconds: float) -> int:
        """这么多秒里写来了多少字节。"""
        before = self.mark()
        time.sleep(seconds)
        return len(self.text(before))

    # ---- 按键、资源、结束 ----

    def type(self, keys: str) -> float:
        """送出键，返回送出的时刻。"""
        now = time.perf_counter()
        os.write(self._fd, keys.encode())
        return now

    def rss_mib(self) -> float | None:
        """应用的常驻内存；没有 `/proc` 则 None。"""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

    def cpu_seconds(self) -> float | None:
        return cpu_seconds(self.pid)

    def kill(self, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def hang_up(self) -> None:
        """终端没了：关掉这一侧，内核给应用送 SIGHUP。读着它的线程先停下，否则它不算关了。"""
        if self._fd >= 0:
            os.write(self._say_over, b".")
            self._reader.join()
            for fd in (self._fd, self._over, self._say_over):
                os.close(fd)
            self._fd = -1

    def wait(self, limit_s: float = 20.0) -> int:
        """收尸；返回退出码，被信号 n 结束的为 -n。"""
        end = time.perf_counter() + limit_s
        while time.perf_counter() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        raise TimeoutError("the app does not end")

    def close(self) -> None:
        """杀掉应用并收走一切。"""
        self.kill()
        self.hang_up()
        self.wait()
