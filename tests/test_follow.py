"""跟读器：慢写者、截断、替换、删除、超长行、坏行。全程几秒。"""

import os
import random
import resource
from pathlib import Path

import pytest
from conftest import IS_SLOW

from nanogpt.events import MAX_LINE_BYTES, EventWriter, encode_event
from workbench.follow import Follower
from workbench.iter_event import Event, IterEvent
from workbench.run_state import RunState


def line(seq: int, **fields: object) -> bytes:
    return encode_event({"seq": seq, "time": 1.0 + seq, "event": "iter", "iter": seq, **fields})


def seqs_of(events: list[Event]) -> list[int]:
    return [event.seq if isinstance(event, IterEvent) else event["seq"] for event in events]


def drain(follower: Follower, max_bytes: int = 256 * 1024) -> list[int]:
    seqs = []
    while True:
        seqs += seqs_of(follower.poll(max_bytes))
        if not follower.is_behind:
            return seqs


def test_byte_by_byte_writer_loses_nothing(tmp_path: Path) -> None:
    """每写一个字节就读一次：半行留着，换行一到就给出，顺序与内容不变。"""
    path = tmp_path / "events.jsonl"
    data = b"".join(line(seq, message="汉字 \u2028 \x1b") for seq in range(8))
    follower, seqs, given = Follower(path), [], 0
    assert follower.poll() == [] and follower.is_missing
    with open(path, "wb", buffering=0) as file:
        for index in range(len(data)):
            file.write(data[index:index + 1])
            seqs += seqs_of(follower.poll())
            given = data[:index + 1].count(b"\n")
            assert len(seqs) == given
    assert seqs == list(range(8)) and follower.bad_lines == 0 and not follower.is_missing


def test_small_chunks_equal_one_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(line(seq, text="字" * (seq % 50)) for seq in range(500)))
    assert drain(Follower(path), max_bytes=37) == drain(Follower(path)) == list(range(500))


@pytest.mark.parametrize("longer", [False, True])
def test_truncation_starts_over(tmp_path: Path, longer: bool) -> None:
    """截断后即使写得比原来还长，也认得出来。"""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(line(seq) for seq in range(20)) + b'{"half')
    follower = Follower(path)
    assert drain(follower) == list(range(20))
    with open(path, "r+b") as file:
        file.truncate(0)
        file.write(b"".join(line(seq + 100) for seq in range(60 if longer else 3)))
    assert drain(follower) == list(range(100, 160 if longer else 103))
    assert follower.resets == 1 and follower.bad_lines == 0


def test_rotation_reads_the_rest_of_the_old_file_first(tmp_path: Path) -> None:
    """改名换新：旧文件里没读的先读完，再从新文件的开头读。"""
    path = tmp_path / "events.jsonl"
    path.write_bytes(line(0))
    follower = Follower(path)
    assert drain(follower) == [0]
    with open(path, "ab") as file:
        file.write(line(1))
    path.rename(tmp_path / "old")
    path.write_bytes(line(7))
    assert seqs_of(follower.poll()) == [1] and follower.resets == 0 and follower.is_behind
    assert drain(follower) == [7] and follower.resets == 1


def test_deletion_and_return(tmp_path: Path) -> None:
    """文件连同目录被删：说出来，不崩；再出现就从头读。"""
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "events.jsonl"
    path.write_bytes(line(0))
    follower = Follower(path)
    assert drain(follower) == [0]
    path.unlink()
    folder.rmdir()
    assert follower.poll() == [] and follower.is_missing and follower.resets == 0
    folder.mkdir()
    path.write_bytes(line(5))
    assert drain(follower) == [5] and follower.resets == 1 and not follower.is_missing


def test_a_pipe_or_a_folder_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        follower = Follower(path)
        assert follower.poll() == [] and follower.is_missing


def test_50_mb_line_in_bounded_memory(tmp_path: Path) -> None:
    """50 MB 的一行被丢掉并记一次，前后的都在；峰值内存增长不到 16 MB。"""
    path = tmp_path / "events.jsonl"
    with open(path, "wb") as file:
        file.write(line(0))
        for _ in range(50):
            file.write(b"x" * (1 << 20))
        file.write(b"\n" + line(1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    follower = Follower(path)
    assert drain(follower) == [0, 1] and follower.bad_lines == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024


def test_line_just_over_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    fits = line(1, text="x" * (MAX_LINE_BYTES - 100))
    path.write_bytes(line(0) + fits + b"y" * (MAX_LINE_BYTES + 1) + b"\n" + line(2))
    follower = Follower(path)
    assert drain(follower) == [0, 1, 2] and follower.bad_lines == 1


def bad_line(chance: random.Random) -> bytes:
    """一行坏的：或不是 JSON，或类型不对，或字节被改过；不含换行。"""
    good = line(1, loss=2.5, message="ok")[:-1]
    kind = chance.randrange(9)
    flipped = bytearray(good)
    flipped[chance.randrange(len(good))] = chance.choice([0, 0xff, 0x80, 0x22, 0x7b])
    return [
        bytes(chance.randrange(256) for _ in range(chance.randrange(1, 60))).replace(b"\n", b""),
        b"\xff\xfe" + good, b"\x00" + good, b"[" * 100_000 if chance.random() < 0.02 else b"[" * 2000,
        b'{"seq":' + b"9" * chance.choice([30, 5000]) + b',"time":1,"event":"iter","iter":' + b"9" * 400 + b"}",
        b'{"seq":3,"time":1e999,"event":"iter","iter":"\\ud800","loss":[]}',
        b'{"seq":true,"time":null,"event":{}}', "\u2028".encode() + good[:10], bytes(flipped),
    ][kind]


def test_seeded_fuzz_keeps_every_valid_neighbour(tmp_path: Path) -> None:
    """每个坏行夹在好行之间：好行一个不少，坏的不崩。"""
    chance = random.Random(1337)
    path = tmp_path / "events.jsonl"
    for _ in range(3000 if IS_SLOW else 600):
        good, parts = 0, []
        for _ in range(chance.randrange(1, 6)):
            if chance.random() < 0.5:
                parts.append(line(10**6 + good, iter=good, loss=1.0))
                good += 1
            else:
                parts.append(bad_line(chance) + b"\n")
        path.write_bytes(b"".join(parts))
        follower, state = Follower(path), RunState()
        events = follower.poll()
        state.apply_events(events)
        assert [seq for seq in seqs_of(events) if seq in range(10**6, 10**6 + 9)] == \
            list(range(10**6, 10**6 + good))
        assert len(events) + follower.bad_lines == len(parts)
        follower.close()


def test_reads_what_the_writer_appends_after_a_torn_line(tmp_path: Path) -> None:
    """前一个写者死在半行上，后一个接着写：坏一行，其余都在，序号不断。"""
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path)
    writer.emit("iter", iter=0)
    writer.close()
    with open(path, "ab") as file:
        file.write(b'{"seq":1,"ti')
    follower = Follower(path)
    assert drain(follower) == [0]
    writer = EventWriter(path)
    writer.emit("iter", iter=1)
    writer.close()
    assert drain(follower) == [1] and follower.bad_lines == 1
