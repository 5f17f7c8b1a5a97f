"""运行的 JSON 日志流 `events.jsonl`：训练器逐行追加，工作台、`plot` 与测试读取。

一行一个 JSON 对象，UTF-8，只按 `\\n` 分行，数值非有限时写 `null`。每行都有
`seq`（自 0 起无缺号，续训时接着数）、`time`（Unix 秒）、`event`。字段见 `docs/events.md`。
"""

import json
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# 一行的上限。更长的行不会出自本训练器，读者跳过它，以免一行吃光内存。
MAX_LINE_BYTES = 1 << 20


def _finite(value: Any) -> Any:
    """把 NaN 与无穷递归地换成 None:严格 JSON 里没有它们。"""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def encode_event(fields: dict[str, Any]) -> bytes:
    """一个事件的那一行，含结尾的换行。孤立代理写成 `?`，所以总能编码。"""
    line = json.dumps(_finite(fields), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return line.encode("utf-8", "replace") + b"\n"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# 每行都新建一个解码器要多花三分之一的时间，所以共用一个
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def parse_line(line: bytes) -> dict[str, Any] | None:
    """一行（可含换行）对应的事件；不是合法事件时返回 None，从不抛出异常。"""
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        fields = _DECODER.decode(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("event"), str):
        return None
    seq, when = fields.get("seq"), fields.get("time")
    if type(seq) is not int or seq < 0 or type(when) not in (int, float):
        return None
    return fields


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """依次给出文件里的合法事件；坏行与未写完的末行跳过。"""
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n") and (fields := parse_line(line)) is not None:
                yield fields


def _last_seq(path: Path) -> tuple[int, bool]:
    """（最后一个合法事件的 `seq`，没有则 -1；文件是否以半行结尾）。从尾部往前读，不扫全文。"""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        size, tail = 0, b""
        while size < end:
            size = min(end, max(1 << 16, size * 4))
            file.seek(end - size)
            tail = file.read(size)
            # 不从文件开头读起时，第一行可能是半行：丢掉。
            lines = tail.split(b"\n")[0 if size == end else 1:]
            # 末行若只缺换行，补上之后就是一个合法事件，所以它的号也算数
            for line in reversed(lines):
                if (fields := parse_line(line)) is not None:
                    return fields["seq"], not tail.endswith(b"\n")
        return -1, bool(tail) and not tail.endswith(b"\n")


class EventWriter:
    """只追加的写者。写不进去（例如磁盘满）时先留着，下一次一并补上，所以不缺号、也不断行。"""

    def __init__(self, path: Path):
        self.path = path
        self._seq, torn = _last_seq(path) if path.exists() else (-1, False)
        # 前一次若死在写到一半，先补上换行，那半行就成了读者会跳过的一行坏行。
        self._pending = b"\n" if torn else b""
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        # 看着各 rank 的线程也会写警告
        self._lock = threading.Lock()

    def emit(self, event: str, **fields: Any) -> bool:
        """追加一个事件；返回是否已全部交给操作系统。不抛 OSError:日志写不进去不该毁掉训练。"""
        with self._lock:
            self._seq += 1
            self._pending += encode_event({"seq": self._seq, "time": time.time(), "event": event, **fields})
            try:
                while self._pending:
                    self._pending = self._pending[os.write(self._fd, self._pending):]
            except OSError:
                return False
            return True

    def close(self) -> None:
        os.close(self._fd)
