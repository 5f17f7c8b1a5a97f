"""训练中的样本与图对得上：三种横轴、真的监视界面。约 3 秒。"""

from pathlib import Path
from typing import Any

from pilot import drive, see, until, write_run

from nanogpt.events import EventWriter
from workbench.sample_walk import at_cursor, sample_rows, walked, x_of
from workbench.screens.monitor import MonitorScreen
from workbench.watched_run import WatchedRun


def test_samples_walk_in_step_with_the_chart(tmp_path: Path) -> None:
    """光标到哪，就是不晚于它的那一组；前后走到头为止。三种横轴都对得上。"""
    out_dir = write_run(tmp_path / "alpha", 20, status=None)
    writer = EventWriter(out_dir / "events.jsonl")
    for number in (0, 10, 19):
        for prompt in ("def ", "[/b]\x1b"):
            writer.emit("sample", iter=number, prompt=prompt, text=f"at {number}\nend")
    writer.close()
    run = WatchedRun(out_dir)
    run.refresh()
    assert at_cursor(run, "iter", None) == 19 and at_cursor(run, "iter", 18.9) == 10
    assert walked(run, "iter", None, -1) == 19 and walked(run, "iter", 10.0, -1) == 0
    assert walked(run, "iter", 0.0, -1) == 0 and walked(run, "iter", 19.0, 1) == 19
    for axis in ("iter", "tokens", "time"):
        assert at_cursor(run, axis, x_of(run, axis, 10)) in (10, 19)
    assert at_cursor(run, "tokens", 64.0 * 10) == 10
    rows = [text for text, _style in sample_rows(run, 10)]
    assert rows == ["sample at iter 10 (2 of 3)", "def at 10", "end", "", "[/b]\\x1bat 10", "end"]


def test_samples_walk_in_the_monitor(tmp_path: Path) -> None:
    """`<` 与 `>` 走过样本，光标跟着；光标移动，样本也跟着。"""
    out_dir = write_run(tmp_path / "runs" / "alpha", 60)
    writer = EventWriter(out_dir / "events.jsonl")
    for number in (0, 30, 59):
        writer.emit("sample", iter=number, prompt="def ", text=f"sampled_{number}(")
    writer.close()

    async def scenario(app: Any, pilot: Any) -> None:
        await until(pilot, lambda: app.screen.chosen_runs())
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen) and app.screen.chart.draw_count)
        await pilot.press("<")
        await see(pilot, "sample at iter 59 (3 of 3)", "def sampled_59(", "@59")
        await pilot.press("<")
        await see(pilot, "def sampled_30(", "@30")
        assert app.screen.chart.cursor == 30
        await pilot.press("<", "<")
        await see(pilot, "def sampled_0(", "(1 of 3)")
        await pilot.press(">")
        await see(pilot, "def sampled_30(")
        await pilot.press(*["L"] * 6)
        await see(pilot, "def sampled_59(")

    drive(tmp_path, scenario, (120, 40))
