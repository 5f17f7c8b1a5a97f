"""跟读一个正在增长的 `events.jsonl`：每次 `poll` 给出新写完的事件。

训练器（`nanogpt.events.EventWriter`）写，`RunState`、`plot` 与应用读。读者从不改动文件，
写者慢、死、重启，文件被截断、换掉或删掉，都只反映在这里的属性上，不抛异常。
"""

import os
import stat
from pathlib import Path

from nanogpt.events import MAX_LINE_BYTES
from workbench.iter_event import Event, parse_events

# 文件开头的指纹：原地截断后又写得比原来还长时，大小看不出来，开头看得出来。
HEAD_BYTES = 64


class Follower:
    """一个文件的读者。

    `resets`：从头读起的次数。一次 `poll` 返回的事件全属于同一份文件，所以调用者只要在
    `poll` 前后比较它，变了就先丢掉旧状态。`bad_lines`：这一份文件里跳过的坏行。
    `is_behind`：这次没读到文件末尾，可以马上再 `poll`。`problem`：读不到时的原因，否则为空。
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.resets = 0
        self.bad_lines = 0
        self.is_behind = False
        self.problem = ""
        self.offset = 0
        self.device_inode: tuple[int, int] | None = None
        self._fd = -1
        self._carry = bytearray()
        self._is_discarding = False
        self._head = b""

    @property
    def is_missing(self) -> bool:
        """路径上现在没有可读的文件（还没建、被删或被移走）。"""
        return bool(self.problem)

    def poll(self, max_bytes: int = 256 * 1024) -> list[Event]:
        """至多再读 `max_bytes` 字节，返回其中写完了的合法事件；没有新内容时约花 7 微秒。"""
        self.is_behind = False
        try:
            data = self._read(max_bytes)
        except OSError as error:
            self.problem = error.strerror or type(error).__name__
            self._close_file()
            return []
        return self._parse(data) if data else []

    @property
    def size(self) -> int:
        """正在读的文件此刻有多少字节；没有打开、问不到则 0。"""
        try:
            return os.fstat(self._fd).st_size
        except OSError:
            return 0

    def peek(self, start: int, length: int) -> bytes:
        """某一处的字节，不动读到哪里；读不到则空。"""
        try:
            return os.pread(self._fd, length, start)
        except OSError:
            return b""

    def close(self) -> None:
        self._close_file()

    def _read(self, max_bytes: int) -> bytes:
        try:
            found = os.stat(self.path)
            self.problem = ""
        except OSError as error:
            # 目录被删时旧的描述符还读得到剩下的字节：先读完，不丢记录。
            self.problem = error.strerror or type(error).__name__
            found = None
        if self._fd < 0:
            if found is None:
                return b""
            self._open()
        elif found is not None and (found.st_dev, found.st_ino) != self.device_inode:
            # 轮转时旧文件末尾可能还有没读的：读空了再换。
            if rest := self._next_chunk(max_bytes):
                self.is_behind = True
                return rest
            self._open()
        elif found is not None and found.st_size == self.offset:
            return b""
        elif self._was_rewritten():
            self._restart()
        return self._next_chunk(max_bytes)

    def _next_chunk(self, max_bytes: int) -> bytes:
        data = os.pread(self._fd, max_bytes, self.offset)
        self.is_behind = len(data) == max_bytes
        self.offset += len(data)
        if len(self._head) < HEAD_BYTES:
            self._head = os.pread(self._fd, min(HEAD_BYTES, self.offset), 0)
        return data

    def _was_rewritten(self) -> bool:
        if os.fstat(self._fd).st_size < self.offset:
            return True
        return os.pread(self._fd, len(self._head), 0) != self._head

    def _open(self) -> None:
        # 旧描述符开着，inode 号就不会被新文件重用；`O_NONBLOCK` 免得被一个同名管道卡住。
        fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        opened = os.fstat(fd)
        if not stat.S_ISREG(opened.st_mode):
            os.close(fd)
            raise OSError(0, "not a regular file")
        was_open = self.device_inode is not None
        self._close_file()
        self._fd, self.device_inode = fd, (opened.st_dev, opened.st_ino)
        if was_open:
            self._restart()

    def _restart(self) -> None:
        self.resets += 1
        self.offset = self.bad_lines = 0
        self._carry.clear()
        self._is_discarding = False
        self._head = b""

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _parse(self, data: bytes) -> list[Event]:
        if self._is_discarding:
            cut = data.find(b"\n")
            if cut < 0:
                return []
            data, self._is_discarding = data[cut + 1:], False
        lines = data.split(b"\n")
        if len(lines) == 1:
            self._carry += data
            self._drop_long_carry()
            return []
        if self._carry:
            lines[0] = bytes(self._carry) + lines[0]
        self._carry = bytearray(lines.pop())
        self._drop_long_carry()
        events = parse_events(lines)
        self.bad_lines += len(lines) - len(events)
        return events

    def _drop_long_carry(self) -> None:
        # 过长的行不等它结束就扔掉，内存至多一行的上限加一块。
        if len(self._carry) > MAX_LINE_BYTES:
            self._carry.clear()
            self._is_discarding = True
            self.bad_lines += 1
