"""日志流的写与读。约两秒。"""

import json
import math
import os
import random
import resource
import signal
from pathlib import Path

import pytest

from nanogpt.events import MAX_LINE_BYTES, EventWriter, encode_event, parse_line, read_events


def seqs(path: Path) -> list[int]:
    return [event["seq"] for event in read_events(path)]


def test_writes_and_goes_on(tmp_path: Path) -> None:
    """每行一个对象，`seq` 自 0 起无缺号，重新打开后接着数；文件 0600。"""
    path = tmp_path / "events.jsonl"
    old = os.umask(0)
    try:
        for start in (0, 3):
            writer = EventWriter(path)
            for i in range(3):
                assert writer.emit("iter", iter=start + i, loss=1.5)
            writer.close()
    finally:
        os.umask(old)
    assert seqs(path) == list(range(6)) and path.stat().st_mode & 0o777 == 0o600
    first = json.loads(path.read_bytes().split(b"\n")[0])
    assert list(first) == ["seq", "time", "event", "iter", "loss"] and first["event"] == "iter"


def test_not_finite_is_null_and_text_survives() -> None:
    line = encode_event({"seq": 0, "time": 1.0, "event": "x", "a": math.nan, "b": [math.inf, {"c": -math.inf}],
                         "text": "行\u2028内\n\x1b[31m\0🎉", "lone": "a\udcffb"})
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    fields = parse_line(line)
    assert fields is not None and fields["a"] is None and fields["b"] == [None, {"c": None}]
    assert fields["text"] == "行\u2028内\n\x1b[31m\0🎉" and fields["lone"] == "a?b"


GOOD = b'{"seq":1,"time":2.5,"event":"iter"}\n'
BAD_LINES = [b"", b"\n", b"{", b"[]", b"1", b"null", b'"x"', b'{"seq":1,"time":1}', b'{"seq":-1,"time":1,"event":"a"}',
             b'{"seq":true,"time":1,"event":"a"}', b'{"seq":1.0,"time":1,"event":"a"}',
             b'{"seq":1,"time":"1","event":"a"}',
             b'{"seq":1,"time":1,"event":5}', b'{"seq":1,"time":NaN,"event":"a"}',
             b'{"seq":1,"time":1,"event":"a","x":Infinity}',
             b'{"seq":1,"time":1,"event":"\xff"}', b"[" * 100000, b'{"a":' * 100000, b"\0" * 50,
             b'{"seq":' + b"9" * 5000 + b',"time":1,"event":"a"}',
             GOOD[:-1] + b" " * MAX_LINE_BYTES + b"\n", GOOD + GOOD]


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_bad_lines_are_skipped(line: bytes, tmp_path: Path) -> None:
    """坏行是 None，它前后的好行都在。"""
    assert parse_line(line) is None
    path = tmp_path / "events.jsonl"
    path.write_bytes(GOOD + line.replace(b"\n", b" ") + b"\n" + GOOD)
    assert [event["event"] for event in read_events(path)] == ["iter", "iter"]


def test_torn_last_line(tmp_path: Path) -> None:
    """死在写到一半：读者不认那半行，下一个写者另起一行、接着数。每个断点都试。"""
    whole = encode_event({"seq": 0, "time": 1.0, "event": "a"}) + encode_event({"seq": 1, "time": 1.0, "event": "b"})
    first = whole.index(b"\n") + 1
    for cut in range(len(whole) + 1):
        path = tmp_path / "events.jsonl"
        path.write_bytes(whole[:cut])
        assert seqs(path) == list(range((cut >= first) + (cut == len(whole))))
        # 只缺换行的那一行，补上换行就完整了：它的号不能再用
        complete = (cut >= first - 1) + (cut >= len(whole) - 1)
        writer = EventWriter(path)
        writer.emit("next")
        writer.close()
        assert seqs(path) == list(range(complete + 1)), cut


def test_last_seq_behind_much_rubbish(tmp_path: Path) -> None:
    """最后一个好行在末尾几百 KB 坏行之前也找得到。"""
    path = tmp_path / "events.jsonl"
    path.write_bytes(GOOD + b"x" * 700_000 + b"\n" + b"bad\n" * 1000)
    writer = EventWriter(path)
    writer.emit("next")
    writer.close()
    assert seqs(path) == [1, 2]


def test_full_disk_loses_nothing(tmp_path: Path) -> None:
    """写不进去时先留着，腾出空间后补上：不缺号、不断行。用 `RLIMIT_FSIZE` 当满的磁盘。"""
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
        assert not all([writer.emit("iter", iter=i) for i in range(20)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert writer.emit("end")
    writer.close()
    assert seqs(path) == list(range(21)) and path.read_bytes().count(b"\n") == 21


def test_random_bytes_never_raise(tmp_path: Path) -> None:
    rng = random.Random(11)
    path = tmp_path / "events.jsonl"
    for _number in range(300):
        data = bytearray(GOOD * 5)
        for _change in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        found = seqs(path)
        assert len(found) <= 5
        writer = EventWriter(path)
        writer.emit("next")
        writer.close()
        assert seqs(path)[:-1] == found
