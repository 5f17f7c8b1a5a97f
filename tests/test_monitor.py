"""监视界面：图、光标、缩放、日志、事件、结局的解释、导出、流量。每个约 1 s。"""

import csv
import fcntl
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pilot import drive, screen_text, see, until, write_run

from nanogpt.events import EventWriter
from workbench.screens.confirm import ConfirmScreen
from workbench.screens.monitor import MonitorScreen
from workbench.screens.runs import RunsScreen
from workbench.widgets.chart_view import ChartView, stepped

BRAILLE = set(map(chr, range(0x2801, 0x2900)))


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "SSH_CONNECTION", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def watch(workspace: Path, scenario: Callable[..., Any], size: tuple[int, int] = (80, 24), **options: Any) -> None:
    """打开唯一的运行，等图画好。"""

    async def opened(app: Any, pilot: Any) -> None:
        await until(pilot, lambda: app.screen.chosen_runs())
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen) and app.screen.chart.draw_count)
        await pilot.pause()
        await scenario(app, pilot, app.screen)

    drive(workspace, opened, size, **options)


@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
def test_shows_status_curve_log_and_keys(tmp_path: Path, size: tuple[int, int]) -> None:
    write_run(tmp_path / "runs" / "alpha", 50)

    async def scenario(app: Any, pilot: Any, _screen: Any) -> None:
        await see(pilot, "alpha", "finished", "100%", "Finished at iteration 50", "hello from the log", "esc  back")
        assert len(BRAILLE & set(screen_text(app))) > 3
        assert all(len(line) <= size[0] for line in screen_text(app).split("\n"))

    watch(tmp_path, scenario, size)


def test_the_curve_moves_and_only_changed_cells_are_redrawn(tmp_path: Path) -> None:
    out_dir = write_run(tmp_path / "runs" / "alpha", 105, status=None, max_iters=1000)

    async def scenario(app: Any, pilot: Any, screen: Any) -> None:
        with open(out_dir / "lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            await see(pilot, "running")
            await until(pilot, lambda: screen.chart.draw_count > 1)
            await pilot.pause(1.2)
            before, count = list(screen.chart.lines), screen.chart.draw_count
            writer = EventWriter(out_dir / "events.jsonl")
            for index in range(105, 109):
                writer.emit("iter", iter=index, loss=3.0, lr=1e-3, grad_norm=1.0, iter_ms=10.0,
                            tokens_per_second=1.0, mfu=None, memory_mib=1.0)
            writer.close()
            # 忙着的机器上，读到新的几行之前还会照旧的重画一次
            await until(pilot, lambda: screen.chart.draw_count > count and screen.chart.lines != before)
            same = sum(old == new for old, new in zip(before, screen.chart.lines, strict=False))
            assert same >= len(before) // 2, screen_text(app)
            assert screen.runs[0].state.last_iter == 108

    watch(tmp_path, scenario)


def test_every_metric_axis_and_smoothing_is_drawn(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "alpha", 50)

    async def scenario(_app: Any, pilot: Any, screen: Any) -> None:
        for key, title in (("2", "learning rate"), ("3", "gradient norm"), ("4", "tokens per second"), ("5", "MFU"),
                           ("6", "memory, MiB"), ("1", "loss")):
            await pilot.press(key)
            await see(pilot, f" {title} /")
        await pilot.press("x")
        await see(pilot, "loss / tokens", "3k")
        await pilot.press("x")
        await see(pilot, "loss / seconds")
        await pilot.press("x", "g")
        await see(pilot, "loss / iterations  log")
        before = screen.view.smoothing
        await pilot.press("m")
        assert screen.view.smoothing != before

    watch(tmp_path, scenario)


def test_train_and_validation_are_raw_and_smoothed(tmp_path: Path) -> None:
    """评估够多时也有平滑的一条；不平滑时各一条。"""
    out_dir = write_run(tmp_path / "runs" / "alpha", 100, status=None)
    writer = EventWriter(out_dir / "events.jsonl")
    for index in range(100):
        writer.emit("eval", iter=index, train_loss=3.0, val_loss=3.0 + index % 2, best_val_loss=3.0)
    writer.emit("end", status="finished", iter=100)
    writer.close()

    async def scenario(_app: Any, pilot: Any, screen: Any) -> None:
        await see(pilot, "train", "smoothed", "validation", "validation, smoothed")
        raw, smoothed = (next(curve for curve in screen.chart.curves if curve.label == label)
                         for label in ("validation", "validation, smoothed"))
        assert np.ptp(raw.y) >= 1.0 and np.ptp(smoothed.y[10:-10]) < 0.5
        while screen.view.smoothing:
            await pilot.press("m")
        await until(pilot, lambda: [curve.label for curve in screen.chart.curves] == ["train", "validation"])

    watch(tmp_path, scenario, (120, 30))


def test_cursor_reads_values_and_zoom_pans(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "alpha", 101)

    async def scenario(_app: Any, pilot: Any, screen: Any) -> None:
        await pilot.press("left")
        await see(pilot, "@100  ")
        # 第 100 步的损失是 4 - 100/101
        assert any(abs(value - (4.0 - 100 / 101)) < 0.02 for _label, _x, value in screen.chart.readout())
        await pilot.press("h", "h")
        assert 90 < screen.chart.cursor < 100
        await pilot.press("plus", "plus")
        await until(pilot, lambda: screen.chart.span[1] - screen.chart.span[0] < 40)
        left = screen.view.span[0]
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: screen.view.span[0] < left)
        await pilot.press("0")
        await until(pilot, lambda: screen.chart.span[0] == 0.0 and screen.chart.cursor is None)

    watch(tmp_path, scenario)


def test_log_scrolls_searches_and_follows(tmp_path: Path) -> None:
    console = "".join(f"line {index}\n" for index in range(200)) + "[bold]last[/bold]\rrewritten\n"
    out_dir = write_run(tmp_path / "runs" / "alpha", console=console)

    async def scenario(app: Any, pilot: Any, _screen: Any) -> None:
        await see(pilot, "line 199", "rewritten")
        await pilot.press("slash", *"line 42", "enter")
        await see(pilot, "line 42", "scrolled; f follows")
        with open(out_dir / "console.log", "a", encoding="utf-8") as file:
            file.write("news\n")
        await pilot.pause(1.2)
        assert "news" not in screen_text(app)
        await pilot.press("f")
        await see(pilot, "news")
        await pilot.press("k", "k")
        await see(pilot, "scrolled")
        await pilot.press("j", "j")
        await pilot.press("t")
        await see(pilot, "checkpoint at iteration 20")

    watch(tmp_path, scenario)


@pytest.mark.parametrize(("status", "texts"), [
    ("finished", ("Finished at iteration 20",)), ("stopped", ("Stopped on request", "r resumes from the checkpoint")),
    ("diverged", ("Diverged", "loss went to nan")), ("failed", ("Failed at iteration", "loss went to nan")),
    (None, ("Interrupted", "killed", "hello from the log"))])
def test_explains_the_end(tmp_path: Path, status: str | None, texts: tuple[str, ...]) -> None:
    out_dir = write_run(tmp_path / "runs" / "alpha", status=None)
    writer = EventWriter(out_dir / "events.jsonl")
    if status in ("diverged", "failed"):
        writer.emit("error", code="x", message="loss went to nan", hint="lower it")
    if status:
        writer.emit("end", status=status, iter=20)
    writer.close()

    async def scenario(_app: Any, pilot: Any, _screen: Any) -> None:
        await see(pilot, *texts)

    watch(tmp_path, scenario)


def test_stalled_run_says_so(tmp_path: Path) -> None:
    import json
    import time

    out_dir = write_run(tmp_path / "runs" / "alpha", status=None)
    old = [json.loads(line) for line in (out_dir / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    (out_dir / "events.jsonl").write_text(
        "".join(json.dumps({**event, "time": time.time() - 600}) + "\n" for event in old), encoding="utf-8")
    with open(out_dir / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        async def scenario(_app: Any, pilot: Any, _screen: Any) -> None:
            await see(pilot, "stalled", "nothing new for 6")

        watch(tmp_path, scenario)


def test_a_run_deleted_while_watched_does_not_crash(tmp_path: Path) -> None:
    import shutil

    out_dir = write_run(tmp_path / "runs" / "alpha")

    async def scenario(app: Any, pilot: Any, _screen: Any) -> None:
        shutil.rmtree(out_dir)
        await see(pilot, "directory is gone")
        for key in ("2", "t", "left", "plus", "y", "s", "r", "w"):
            await pilot.press(key)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))

    watch(tmp_path, scenario)


def test_marked_runs_are_overlaid_with_the_difference(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "alpha", learning_rate=3e-3)
    write_run(tmp_path / "runs" / "beta", learning_rate=1e-4)

    async def scenario(app: Any, pilot: Any) -> None:
        await until(pilot, lambda: app.screen.chosen_runs())
        await pilot.press("space", "space", "enter")
        await see(pilot, "2 runs together", "alpha", "beta", "learning_rate", "0.003", "0.0001")

    drive(tmp_path, scenario)


def test_export_writes_all_data_and_a_chart(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "alpha", 50)

    async def scenario(_app: Any, pilot: Any, _screen: Any) -> None:
        await pilot.press("w")
        await see(pilot, "exports/", ".csv", ".png")

    watch(tmp_path, scenario, (200, 50))
    (data,) = tmp_path.glob("exports/*.csv")
    with open(data, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 50 and float(rows[25]["loss"]) == 4.0 - 25 / 50 and rows[0]["mfu"] == ""
    assert float(rows[49]["eval_val_loss"]) == pytest.approx(3.9 - 49 / 50)
    (chart,) = tmp_path.glob("exports/*.svg")
    assert "polyline" in ElementTree.parse(chart).getroot()[-1].tag or b"polyline" in chart.read_bytes()


def test_ascii_terminal_gets_ascii_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "linux")
    monkeypatch.setenv("NO_COLOR", "1")
    write_run(tmp_path / "runs" / "alpha", 50)

    async def scenario(app: Any, pilot: Any, _screen: Any) -> None:
        assert screen_text(app).isascii(), screen_text(app)
        await pilot.press("left")
        await see(pilot, "@")
        assert screen_text(app).isascii(), screen_text(app)
        await pilot.press("escape")
        await see(pilot, "alpha")
        assert screen_text(app).isascii(), screen_text(app)

    watch(tmp_path, scenario)


def test_hidden_chart_draws_nothing(tmp_path: Path) -> None:
    out_dir = write_run(tmp_path / "runs" / "alpha", 50, status=None)

    async def scenario(_app: Any, pilot: Any, screen: Any) -> None:
        await pilot.press("question_mark")
        await pilot.pause(0.5)
        count = screen.chart.draw_count
        writer = EventWriter(out_dir / "events.jsonl")
        writer.emit("iter", iter=50, loss=1.0, lr=1e-3, grad_norm=1.0, iter_ms=10.0, tokens_per_second=1.0, mfu=None,
                    memory_mib=1.0)
        writer.close()
        screen.chart.data_changed()
        await pilot.pause(1.5)
        assert screen.chart.draw_count == count
        await pilot.press("escape")
        await until(pilot, lambda: screen.chart.draw_count > count)

    watch(tmp_path, scenario)


def test_stop_asks_first_and_leaves_a_stop_file(tmp_path: Path) -> None:
    out_dir = write_run(tmp_path / "runs" / "alpha", status=None)
    with open(out_dir / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        async def scenario(app: Any, pilot: Any, _screen: Any) -> None:
            await see(pilot, "running")
            await pilot.press("s")
            await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
            assert not (out_dir / "stop").exists()
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
            assert not (out_dir / "stop").exists()
            await pilot.press("s", "y")
            await until(pilot, (out_dir / "stop").exists)
            await see(pilot, "asked it to save and stop", "stopping")

        watch(tmp_path, scenario)


def test_a_real_run_is_watched_stopped_and_resumed(workspace: Path) -> None:
    """真的训练器：启动、停止、续训，全用键。约 15 s。"""
    from conftest import TINY

    from workbench.launch import LaunchPlan, make_out_dir

    values = dict(item.removeprefix("--").split("=", 1) for item in TINY)
    values.update(max_iters="100000", eval_interval="50000", log_interval="1")

    async def scenario(app: Any, pilot: Any) -> None:
        out_dir = make_out_dir("tiny")
        assert app.start_run(LaunchPlan("", str(out_dir), values).command(), out_dir)
        app.open_monitor(out_dir)
        await see(pilot, "starting")
        await until(pilot, lambda: app.screen.chart.draw_count > 1 and BRAILLE & set(screen_text(app)), 60)
        await pilot.press("s", "y")
        await see(pilot, "Stopped on request", limit_s=60)
        run = app.store.ensure(out_dir)
        stopped_at = run.state.last_iter
        await until(pilot, lambda: run.process.poll() == 0)
        await pilot.press("r")
        await see(pilot, "starting")
        await until(pilot, lambda: run.status == "running" and run.state.last_iter > stopped_at, 60)
        await pilot.press("K", "y")
        await see(pilot, "Interrupted", limit_s=30)
        await until(pilot, lambda: run.process.poll() == -9)

    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    drive(workspace, scenario)


def test_right_end_grows_in_steps() -> None:
    ends = {stepped(0.0, float(high)) for high in range(100, 1000)}
    assert len(ends) < 60 and all(stepped(0.0, float(high)) >= high for high in range(1, 2000))
    assert stepped(0.0, 999.0, 1000.0) == 1000.0
    assert np.isfinite(stepped(5.0, 5.0))


def test_chart_view_stays_quiet_without_a_view() -> None:
    assert ChartView().full_span() == (0.0, 1.0)


def test_a_long_console_log_is_read_whole_only_when_scrolled(tmp_path: Path) -> None:
    """跟着末尾走时只读一点；往上滚、搜索时，早先的行也在。"""
    from workbench.widgets.tail_view import FOLLOW_BYTES, ConsoleTail

    lines = [f"line {index} of the log" for index in range(5000)]
    write_run(tmp_path / "runs" / "alpha", console="\n".join(lines) + "\n")

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "alpha")
        await pilot.press("enter")
        await see(pilot, "line 4999 of the log")
        tail = app.screen.query_one(ConsoleTail)
        assert len(tail.rows) <= FOLLOW_BYTES // len(lines[-1])
        await pilot.press("home")
        await see(pilot, "line 0 of the log")
        await pilot.press("end")
        await see(pilot, "line 4999 of the log")
        await pilot.press("slash", *"line 77 of", "enter")
        await see(pilot, "line 77 of the log")

    drive(tmp_path, scenario)
