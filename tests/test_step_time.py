"""一步的时间花在哪里：快路与慢路折叠得一样，监视界面按 `p` 显示，没有时说怎样打开。约 3 s。"""

import json
from pathlib import Path
from typing import Any

import pytest
from pilot import drive, see, until, write_run

from nanogpt.events import EventWriter
from workbench.iter_event import IterEvent, parse_events
from workbench.run_state import KEPT_STEPS, STEP_PARTS, RunState
from workbench.screens.monitor import MonitorScreen
from workbench.step_time import step_rows
from workbench.terminal import cells
from workbench.watched_run import WatchedRun

PARTS = dict(zip(STEP_PARTS, (1.0, 4.0, 8.0, 2.0, 0.5), strict=True))


def timed(number: int, **changes: Any) -> bytes:
    fields = {"seq": number, "time": 1.0, "event": "iter", "iter": number, "loss": 1.0, "iter_ms": 16.0, **PARTS}
    return json.dumps({**fields, **changes}).encode()


def state_of(*lines: bytes) -> RunState:
    state = RunState()
    state.apply_events(parse_events(lines))
    return state


def test_medians_of_the_last_ones() -> None:
    """中位数不受一次卡顿影响；太旧的不算，缺了一项的不算；不认识的字段走慢路，结果一样。"""
    old = [timed(i, forward_ms=900.0) for i in range(30)]
    new = [timed(i, forward_ms=400.0 if i == 60 else 4.0) for i in range(30, 30 + KEPT_STEPS)]
    fast, slow = state_of(*old, *new), state_of(*(line[:-1] + b', "more": 1}' for line in (*old, *new)))
    assert list(map(type, parse_events([new[0], new[0][:-1] + b', "more": 1}']))) == [IterEvent, dict]
    assert fast.step_parts() == slow.step_parts() == {"iter_ms": 16.0, **PARTS}
    assert len(fast.steps) == KEPT_STEPS and fast.iter_count == slow.iter_count == 30 + KEPT_STEPS
    for lacking in ({"data_ms": None}, {"logging_ms": -1.0}):
        assert state_of(timed(0, **lacking)).step_parts() is None
    fast.apply_event({"seq": 999, "time": 2.0, "event": "start", "config": {}, "resumed_from_iter": None})
    assert fast.step_parts() is None


def write_timed(out_dir: Path) -> Path:
    write_run(out_dir, 3, status=None)
    writer = EventWriter(out_dir / "events.jsonl")
    for i in range(3, 6):
        writer.emit("iter", iter=i, loss=3.0, lr=1e-3, grad_norm=1.0, iter_ms=16.0, tokens_per_second=1.0, mfu=None,
                    memory_mib=1.0, **PARTS)
    writer.emit("end", status="finished", iter=6)
    writer.close()
    return out_dir


@pytest.mark.parametrize("width", [14, 30, 60, 120])
def test_rows_fit_and_add_up(tmp_path: Path, width: int) -> None:
    """五部分与其余加起来是整步；窄了先缩横条。几个运行各有名字，没有记的说怎样打开。"""
    runs = [WatchedRun(write_timed(tmp_path / "alpha")), WatchedRun(write_run(tmp_path / "beta", 3))]
    for run in runs:
        run.refresh()
    rows = [text for text, _style in step_rows(runs, width)]
    parts = rows[2:8]
    assert [float(row.split(" ms")[0].split()[-1]) for row in parts] == [1.0, 4.0, 8.0, 2.0, 0.5, 0.5]
    assert [row.split(" ms")[1].split()[0] for row in parts] == ["6%", "25%", "50%", "12%", "3%", "3%"]
    if width >= 30:
        assert all(cells(row) <= width for row in parts)
        bars = [row.count("━") for row in parts]
        assert bars[2] == max(bars) > 0 and bars[2] == pytest.approx(2 * bars[1], abs=1)
    assert rows[0] == "alpha" and rows[9] == "beta" and "log_timing=True" in "".join(rows[10:])


def test_shown_in_the_monitor(tmp_path: Path) -> None:
    write_timed(tmp_path / "runs" / "alpha")

    async def scenario(app: Any, pilot: Any) -> None:
        await until(pilot, lambda: app.screen.chosen_runs())
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen) and app.screen.chart.draw_count)
        await see(pilot, "step time")
        await pilot.press("T")
        await see(pilot, "a step: 16.00 ms", "backward", "8.00 ms  50%")
        await pilot.press("T")
        await see(pilot, "hello from the log")

    drive(tmp_path, scenario)


def test_a_run_without_it_says_how(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "alpha", 5)

    async def scenario(app: Any, pilot: Any) -> None:
        await until(pilot, lambda: app.screen.chosen_runs())
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen) and app.screen.chart.draw_count)
        assert "step time" not in app.screen.tabs
        await pilot.press("T")
        await see(pilot, "does not log where", "log_timing=True")

    drive(tmp_path, scenario)
