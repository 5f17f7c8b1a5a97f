"""采样服务的进程：`python -m nanogpt.sample --serve`。一行一个 JSON，写进它的 stdin，由线程从 stdout 读来。

`Engine` 启动它、取走事件、杀掉它。协议见 `docs/serve.md`。进程自成会话；应用被杀时 stdin 关闭，它随即退出。
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import Any

from nanogpt.errors import BadInput
from nanogpt.i18n import _, language
from nanogpt.text import visible
from workbench.launch import command_line, python

# 还没有被取走的行至多占这么多字节；再多就让进程等着
PENDING_BYTES = 16 << 20
# 一行至多这么长；再长的不是这个协议
LINE_BYTES = 64 << 20
# 崩溃时看 stderr 的末尾
ERROR_BYTES = 4096


class Server:
    """一开始就启动进程；启动不了时抛出 `BadInput`。`take` 与 `send` 由界面线程调用，都不等待。"""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="nanogpt-serve-")
        self._errors = Path(self._folder.name, "stderr")
        command = python("-m", "nanogpt.sample", "--serve")
        try:
            with open(self._errors, "wb") as errors:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
                    env={**os.environ, "NANOGPT_LANG": language(), "PYTHONUNBUFFERED": "1"})
        except (OSError, ValueError) as error:
            self._folder.cleanup()
            raise BadInput("cannot_start", _("cannot start the command: {why}").format(why=error),
                           command_line(command), _("check this Python installation")) from error
        self.bad_lines = 0
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._room = threading.Condition()
        self._has_ended = False
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        # 守护线程：进程一死管道就关闭，它们随即结束，不拖住应用的退出
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._write, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    # ---- 线程 ----

    def _read(self) -> None:
        """按字节 `\\n` 切成行：整行才解码，所以从没有半个 UTF-8 字符。"""
        assert self._process.stdout is not None
        rest: list[bytes] = []
        size = 0
        with self._process.stdout as stream:
            while chunk := os.read(stream.fileno(), 1 << 16):
                *whole, last = chunk.split(b"\n")
                for part in whole:
                    self._put(b"".join([*rest, part]))
                    rest, size = [], 0
                rest.append(last)
                size += len(last)
                if size > LINE_BYTES:
                    break
        with self._room:
            self._has_ended = True

    def _put(self, line: bytes) -> None:
        with self._room:
            self._room.wait_for(lambda: self._bytes < PENDING_BYTES or self._has_ended)
            self._lines.append(line)
            self._bytes += len(line)

    def _write(self) -> None:
        assert self._process.stdin is not None
        # 进程死了：`take` 会看到 stdout 也关了
        with contextlib.suppress(OSError), self._process.stdin as stream:
            while (line := self._requests.get()) is not None:
                stream.write(line)
                stream.flush()

    # ---- 界面线程 ----

    def send(self, request: dict[str, Any]) -> None:
        text = json.dumps(request, ensure_ascii=False, allow_nan=False)
        self._requests.put(text.encode("utf-8", "backslashreplace") + b"\n")

    def take(self, most: int = 5000) -> list[dict[str, Any]]:
        """上次以来的事件，至多 `most` 个；不是 JSON 对象的行跳过，记入 `bad_lines`。"""
        with self._room:
            lines = [self._lines.popleft() for _number in range(min(most, len(self._lines)))]
            self._bytes -= sum(map(len, lines))
            self._room.notify_all()
        found = []
        for line in lines:
            try:
                event = json.loads(line.decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                event = None
            if isinstance(event, dict):
                found.append(event)
            else:
                self.bad_lines += 1
        return found

    @property
    def is_gone(self) -> bool:
        """stdout 关了而且读完了：不会再有事件。"""
        with self._room:
            return self._has_ended and not self._lines

    def why_gone(self) -> str:
        """一句话：怎样结束的，连同 stderr 的最后一行；已净化。"""
        try:
            code: int | None = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            code = None
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            text = _("killed by {signal}").format(signal=name)
        else:
            text = _("exit code {code}").format(code=code)
        try:
            errors = self._errors.read_bytes()[-ERROR_BYTES:].decode("utf-8", "replace").strip()
        except OSError:
            errors = ""
        return f"{text}; {visible(errors.splitlines()[-1][:300], keep='')}" if errors else text

    def kill(self) -> None:
        """连同整个会话杀掉并收尸，不等它做完什么。"""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
        with self._room:
            self._has_ended = True
            self._lines.clear()
            self._room.notify_all()
        self._requests.put(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._folder.cleanup()
