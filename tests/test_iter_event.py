"""快路与仔细的路：对同一行说同样的话，两条路折叠出同样的状态。约 5 s。"""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogpt.events import MAX_LINE_BYTES, encode_event, parse_line
from workbench.follow import Follower
from workbench.iter_event import IterEvent, parse_events
from workbench.run_state import ITER_FIELDS, RunState

FLOATS = [name for name in IterEvent.__struct_fields__ if name not in ("seq", "event", "iter")]


def step(seq: int, **fields: Any) -> dict[str, Any]:
    return {"seq": seq, "time": 1.7e9 + seq, "event": "iter", "iter": seq, "loss": 2.5, "lr": 1e-3, "grad_norm": 0.5,
            "iter_ms": 20.25, "tokens_per_second": 3200.0, "mfu": None, "memory_mib": 812, "data_ms": 0.5,
            "forward_ms": 1.5, "backward_ms": 2, "optimizer_ms": 0.25, "logging_ms": None, **fields}


def as_dict(event: IterEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in IterEvent.__struct_fields__}


def assert_same(line: bytes) -> bool:
    """快路收下的，仔细的路也收下，并且每个字段相等；返回走的是不是快路。"""
    fast, slow = next(iter(parse_events([line])), None), parse_line(line)
    if not isinstance(fast, IterEvent):
        assert repr(fast) == repr(slow), line
        return False
    assert slow is not None, line
    # 数列只存 float64，所以别的数按浮点比；号码要逐个相等
    expected = {**dict.fromkeys(IterEvent.__struct_fields__), **slow}
    floats = {name: float(expected[name]) for name in FLOATS if expected[name] is not None}
    assert as_dict(fast) == {**expected, **floats} and type(slow["iter"]) is type(slow["seq"]) is int, line
    return True


def test_every_iter_line_of_a_real_trainer_takes_the_fast_path(workspace: Path, fork_train: Callable[..., Any]) -> None:
    for extra in ("--log_timing=False", "--log_timing=True"):
        fork_train("--log_interval=1", f"--out_dir=out{extra}", extra)
        lines = (workspace / f"out{extra}" / "events.jsonl").read_bytes().splitlines()
        iters = [line for line in lines if b'"event":"iter"' in line]
        assert len(iters) == 7 and all(map(assert_same, iters)) and not any(map(assert_same, set(lines) - set(iters)))


def test_what_else_takes_the_fast_path() -> None:
    assert assert_same(encode_event(step(3))[:-1])
    assert assert_same(encode_event(step(3, loss=math.nan, mfu=0.41, lr=0))[:-1])
    assert assert_same(b'{"seq":3,"time":1,"event":"iter","iter":3}')
    assert assert_same(b' {"iter" : 3 ,\t"seq":3,"time":1, "event":"it\\u0065r"}\r')


ODD = ["1.0", "-1", "true", "null", '"1"', "[]", "{}", "[" * 5000, "NaN", "Infinity", "-Infinity", "1e999", "-0", "01",
       "+1", ".5", "1.", "1e2", "9" * 30, "9" * 400, "9" * 5000, "9007199254740992", "9007199254740991", "1e308",
       "5e-324", "0.1000000000000000055511151231257827", "18446744073709551616", "123456789012345678901234567890.0"]


@pytest.mark.parametrize("name", IterEvent.__struct_fields__)
def test_odd_values_are_judged_alike(name: str) -> None:
    good = encode_event(step(3))[:-1].decode()
    for odd in ODD:
        fields = dict(part.split(":", 1) for part in good[1:-1].split(","))
        assert f'"{name}"' in fields
        fields[f'"{name}"'] = odd
        assert_same(("{" + ",".join(f"{key}:{value}" for key, value in fields.items()) + "}").encode())


@pytest.mark.parametrize("more", ['"x":1', '"x":"\\q"', '"x":"\\ud800"', '"x":[[[[1]]]]', '"iter":4', '"iter":"4"',
                                  '"event":"eval"', '"event":"iter"', '"\\ud800":1', "", '"x":' + "[" * 100_000])
def test_extra_repeated_and_broken_fields_are_judged_alike(more: str) -> None:
    good = encode_event(step(3))[:-1].decode()
    assert_same(f"{good[:-1]},{more}}}".encode())
    assert_same(f"{{{more},{good[1:]}".encode())


def test_bytes_around_the_object() -> None:
    good = encode_event(step(3))[:-1]
    for line in (b"\xef\xbb\xbf" + good, good + good, good + b"x", good + b"\0", b"\xff" + good, b"", b"\r", good[:-1],
                 "\u2028".encode() + good, b" " * MAX_LINE_BYTES + good, b"\x0b" + good, b"\xc2\xa0" + good):
        assert not assert_same(line), line[:40]


def test_random_mutations_are_judged_alike() -> None:
    """三万行，各改一到三个字节。"""
    chance, good, taken = random.Random(5), encode_event(step(3))[:-1], 0
    bytes_put = b'0123456789.,:-+eE"{}[]\\ \0\xffxNulliter'
    for _ in range(30_000):
        line = bytearray(good)
        for _change in range(chance.randrange(1, 4)):
            where = chance.randrange(len(line))
            line[where:where + chance.randrange(2)] = bytes([chance.choice(bytes_put)])
        taken += assert_same(bytes(line))
    assert taken > 500


def test_both_paths_fold_into_the_same_state(tmp_path: Path) -> None:
    """同一份日志，一次成批，一次逐个；中间有续训、缺口、坏类型、别的事件。"""
    events: list[dict[str, Any]] = [{"seq": 0, "time": 1.0, "event": "start", "config": {"max_iters": 90}}]
    chance = random.Random(3)
    for seq in range(1, 400):
        kind = chance.random()
        if kind < 0.02:
            events.append({"seq": seq, "time": 1.0, "event": "start", "config": {}, "resumed_from_iter": seq // 2})
        elif kind < 0.1:
            events.append({"seq": seq, "time": 1.0, "event": "eval", "iter": seq, "val_loss": 1.0})
        else:
            name = chance.choice(["loss", *ITER_FIELDS])
            odd = {name: chance.choice(["x", None, 1e200, 7])} if kind < 0.5 else {}
            events.append(step(seq, **odd))
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(map(encode_event, events)))
    batched, single = RunState(), RunState()
    batched.apply_events(Follower(path).poll())
    for event in events:
        single.apply_event(event)
    for name in ("iter", "time", *ITER_FIELDS):
        np.testing.assert_array_equal(batched.column(name), single.column(name))
    for name in ("version", "ignored_events", "gap_count", "last_iter", "last_time", "sessions", "status"):
        assert getattr(batched, name) == getattr(single, name), name
    assert single.ignored_events and single.gap_count and single.sessions > 2
