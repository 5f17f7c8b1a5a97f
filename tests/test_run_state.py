"""运行状态：事件折叠成数列，坏事件不伤好事件。一秒之内。"""

import math
import random
from typing import Any

import numpy as np
import pytest

from workbench.run_state import ITER_FIELDS, RunState


def start(resumed: int | None = None, when: float = 100.0, **config: Any) -> dict[str, Any]:
    return {"seq": 0, "time": when, "event": "start", "config": {"max_iters": 100, **config},
            "resumed_from_iter": resumed, "params": 10, "tokens_per_iter": 64, "world_size": 1,
            "device_name": "cpu", "peak_flops": None}


def step(iteration: int, loss: float | None = 1.0, when: float = 100.0, **fields: Any) -> dict[str, Any]:
    return {"seq": 1, "time": when, "event": "iter", "iter": iteration, "loss": loss, "lr": 1e-3, "grad_norm": 0.5,
            "iter_ms": 20.0, "tokens_per_second": 3200.0, "mfu": None, "memory_mib": 5, **fields}


def evaluated(iteration: int, val: float | None, best: float | None = None) -> dict[str, Any]:
    return {"seq": 1, "time": 100.0, "event": "eval", "iter": iteration, "train_loss": val, "val_loss": val,
            "best_val_loss": best}


def ended(status: str, iteration: int) -> dict[str, Any]:
    return {"seq": 9, "time": 200.0, "event": "end", "status": status, "iter": iteration}


def state_of(*events: dict[str, Any]) -> RunState:
    state = RunState()
    for event in events:
        state.apply_event(event)
    return state


def test_columns_progress_and_eta() -> None:
    state = state_of(start(), *(step(i, loss=5 - i / 10) for i in range(41)), evaluated(40, 2.0, 1.9))
    assert state.status == "running" and state.version == 43 and state.ignored_events == 0
    assert state.column("iter").tolist() == list(range(41)) and state.latest("loss") == 1.0
    assert state.column("memory_mib")[3] == 5 and np.isnan(state.column("mfu")).all()
    assert state.progress == 0.4 and state.eta_seconds == pytest.approx(60 * 0.02)
    assert state.best_val_loss == 1.9 and state.latest("val_loss") == 2.0
    state.apply_event(ended("finished", 100))
    assert state.status == "finished" and state.eta_seconds is None and state.progress == 1.0


def test_empty_state_can_be_read() -> None:
    state = RunState()
    assert len(state.column("loss")) == len(state.eval_column("val_loss")) == len(state.elapsed_seconds()) == 0
    assert state.progress is None and state.eta_seconds is None and state.age_seconds(5.0) is None
    assert math.isnan(state.best_val_loss) and math.isnan(state.latest("loss"))


def test_resume_drops_what_will_be_computed_again() -> None:
    """中断的一段算到 30，检查点在 20：20 起的点重来；20 那次评估发生在存盘之前，留着。"""
    first = [start(), *(step(i) for i in range(30)), evaluated(0, 4.0), evaluated(20, 3.0), evaluated(25, 2.0, 2.0)]
    state = state_of(*first, start(resumed=20), *(step(i, loss=9.0) for i in range(20, 24)))
    assert state.column("iter").tolist() == list(range(24))
    assert state.column("loss")[19:].tolist() == [1.0, 9.0, 9.0, 9.0, 9.0]
    assert state.eval_column("iter").tolist() == [0, 20] and state.best_val_loss == 3.0
    assert state.sessions == 2 and state.resumed_from_iter == 20
    state.apply_event(evaluated(20, 3.5))
    assert state.eval_column("val_loss").tolist() == [4.0, 3.5]


def test_fresh_start_in_the_same_log_drops_everything() -> None:
    state = state_of(start(), step(0), step(1), evaluated(0, 4.0), start())
    assert state.iter_count == state.eval_count == 0 and state.last_iter is None


def test_eval_only_leaves_the_training_alone() -> None:
    state = state_of(start(), *(step(i) for i in range(10)), evaluated(5, 3.0), ended("stopped", 10),
                     start(resumed=5, eval_only=True, max_iters=7), evaluated(5, 1.0, 1.0))
    assert state.status == "running" and state.iter_count == 10 and state.eval_column("val_loss").tolist() == [3.0]
    state.apply_event(ended("finished", 5))
    assert state.status == "stopped" and state.max_iters == 100 and state.last_iter == 10
    assert state.eval_only_results[-1]["val_loss"] == 1.0
    alone = state_of(start(eval_only=True), evaluated(0, 1.0), ended("finished", 0))
    assert alone.status == "finished" and alone.config["eval_only"] is True and alone.eval_count == 0


def test_null_loss_is_a_gap() -> None:
    state = state_of(start(), step(0), step(1, loss=None), step(2, loss=math.inf), step(3), ended("diverged", 3))
    assert np.isfinite(state.column("loss")).tolist() == [True, False, False, True]
    assert state.status == "diverged" and state.best_val_loss != state.best_val_loss


WRONG = [(field, value) for field in ("iter", "time", *ITER_FIELDS) for value in ("1", [1], {}, True, 10**400)
         if (field, value) != ("time", True)]  # `parse_line` 已拒绝布尔的时间


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_wrong_type_is_ignored_and_counted(field: str, value: object) -> None:
    """坏事件不留下半行：各列始终一样长。"""
    state = state_of(start(), step(0), {**step(1), field: value}, step(2))
    assert state.ignored_events == 1
    assert {len(state.column(name)) for name in ("iter", "time", *ITER_FIELDS)} == {2}
    assert state.column("iter").tolist() == [0, 2]


def test_negative_or_missing_iter_is_ignored() -> None:
    bare = {"seq": 1, "time": 1.0, "event": "iter"}
    state = state_of(step(-1), bare, {**bare, "iter": 2**60}, {**bare, "iter": 3}, {"event": "unheard of"})
    assert state.ignored_events == 3 and state.column("iter").tolist() == [3] and math.isnan(state.latest("loss"))


def test_clock_steps_keep_rates_and_ages_sane() -> None:
    """时钟前后乱跳：间隔不为负，年龄不为负，负的速率当作缺失。"""
    state = state_of(start(when=1000.0), step(0, when=1001.0), step(1, when=1e12), step(2, when=5.0),
                     step(3, when=6.0, iter_ms=-40.0, tokens_per_second=-7.0))
    elapsed = state.elapsed_seconds()
    assert np.isfinite(elapsed).all() and (np.diff(elapsed) >= 0).all()
    assert math.isnan(state.latest("tokens_per_second")) and np.nanmin(state.column("iter_ms")) > 0
    assert state.eta_seconds is not None and state.eta_seconds >= 0
    assert state.age_seconds(0.0) == 0.0 and state.age_seconds(16.0) == 10.0


def test_random_events_never_crash() -> None:
    """字段随机地缺失或换成别的类型，两万个事件；状态始终可读。"""
    chance = random.Random(7)
    odd = [None, True, "x", "\ud800", [], {}, {"a": [1]}, -1, 0, 1.5, math.inf, 10**400, 2**60]
    names = ["start", "iter", "eval", "checkpoint", "sample", "rank", "warning", "error", "end", "other"]
    templates = [start(), step(3), evaluated(3, 1.0), ended("stopped", 3)]
    state, count = RunState(), 20_000
    for _ in range(count):
        event = {**chance.choice(templates), "event": chance.choice(names)}
        for name in list(event):
            if name != "event" and chance.random() < 0.15:
                event[name] = chance.choice(odd)
        if type(event["time"]) not in (int, float):
            event["time"] = 1.0
        state.apply_event(event)
    assert state.version > 1000 and state.ignored_events > 1000
    assert len(state.column("iter")) == len(state.column("loss")) and state.progress is not None
    assert state.eta_seconds is None or state.eta_seconds >= 0


def test_records_are_bounded() -> None:
    warning = {"seq": 1, "time": 1.0, "event": "warning", "code": "x", "message": "m" * 100_000, "hint": None}
    state = state_of(*(warning for _ in range(2000)))
    assert len(state.warnings) <= 500 and len(state.warnings[-1]["message"]) <= 4000
