"""一步的时间花在哪里：真的训练里五部分都有，合起来不超过整步；没有打开时一个字段也不多。约 2 s。"""

import time

import pytest
from fault_campaign import events_of

from nanogpt.step_clock import PARTS, StepClock

FIELDS = {f"{part}_ms" for part in PARTS}


def test_parts_of_a_real_run(workspace, fork_train):
    run = fork_train("--out_dir=out", "--log_timing", "--max_iters=12", "--lr_decay_iters=12", "--log_interval=4",
                     "--eval_interval=100")
    assert run.returncode == 0, run.output
    iters = [event for event in events_of(workspace / "out") if event["event"] == "iter"]
    assert len(iters) == 4 and all(event.keys() >= FIELDS for event in iters)
    for event in iters[1:]:
        parts = [event[field] for field in FIELDS]
        assert all(part > 0 for part in parts)
        # 每步的前向在前，记录在后；整步的钟在记录之前读，所以记录的时间算在下一次里
        assert 0.5 * event["iter_ms"] < sum(parts) < event["iter_ms"] + event["logging_ms"] + 0.5


def test_nothing_when_off(workspace, fork_train):
    assert fork_train("--out_dir=out", "--max_iters=2").returncode == 0
    assert not any(event.keys() & FIELDS for event in events_of(workspace / "out"))


def test_means_and_starts_anew() -> None:
    """两步的平均；`start` 之前的时间不算，取走之后从零开始。"""
    clock = StepClock("cpu", True)
    for _step in range(2):
        time.sleep(0.02)
        clock.start()
        time.sleep(0.01)
        clock.lap("forward")
    taken = clock.take()
    assert taken.keys() == FIELDS and 9 < taken["forward_ms"] < 19 and taken["backward_ms"] == 0
    assert set(clock.take().values()) == {0.0}
    off = StepClock("cpu", False)
    off.start()
    off.lap("forward")
    assert off.take() == {}


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_counted_apart(part: str) -> None:
    clock = StepClock("cpu", True)
    clock.start()
    clock.lap(part)
    assert [name for name, ms in clock.take().items() if ms] == [f"{part}_ms"]
