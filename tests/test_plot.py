"""`plot`：缩减与刻度、各种古怪数列的图、命令行（真进程、真终端）。约十秒。"""

import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nanogpt.events import EventWriter
from nanogpt.rundir import RunDir
from workbench.plot import Screen, draw_chart, fit, render
from workbench.series import drawable, nice_ticks, reduce_series, short_number, smooth
from workbench.watched_run import WatchedRun

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = "\x1b[31mred\x1b]52;c;aGk=\x07 \x9b2J \u202eabc [bold]x[/] \r\n\x00 汉字"


def write_run(folder: Path, losses: list[float | None], status: str | None = "finished", name: str = "cpu",
              evals: tuple[float, ...] = (4.0, 2.0)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    writer = EventWriter(folder / "events.jsonl")
    writer.emit("start", config={"max_iters": 100, "dataset": name}, resumed_from_iter=None, params=810_000,
                tokens_per_iter=64, world_size=1, device_name=name, peak_flops=None)
    for index, loss in enumerate(losses):
        writer.emit("iter", iter=index, loss=loss, lr=1e-3, grad_norm=0.5, iter_ms=20.0, tokens_per_second=3200.0,
                    mfu=None, memory_mib=5.0)
    for index, loss in enumerate(evals):
        writer.emit("eval", iter=index * 10, train_loss=loss, val_loss=loss, best_val_loss=loss)
    if status:
        writer.emit("end", status=status, iter=len(losses))
    writer.close()
    return folder


def plot(*arguments: object, **environ: str) -> subprocess.CompletedProcess[bytes]:
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "LANG", "LC_ALL", "COLUMNS")}
    return subprocess.run([sys.executable, "-m", "workbench", "plot", *map(str, arguments)], cwd=ROOT,
                          capture_output=True, timeout=60, stdin=subprocess.DEVNULL,
                          env={**clean, "NANOGPT_LANG": "en", "PYTHONUTF8": "1", **environ})


def raw_controls(output: bytes) -> list[str]:
    """输出里的控制字符与双向标记，换行除外。"""
    return [char for char in output.decode("utf-8") if char != "\n" and
            (ord(char) < 32 or 0x7f <= ord(char) < 0xa0 or char in "\u202e\u2066\u2028")]


def test_reduce_keeps_extremes_and_bounds_the_points() -> None:
    """一百万点缩到每列四个，最小、最大、首、尾都在。"""
    x = np.arange(1_000_000, dtype=float)
    y = np.sin(x / 5e4)
    y[123_456], y[777_777] = -9.0, 9.0
    segments = reduce_series(x, y, 100)
    (kept_x, kept_y), = segments
    assert len(kept_y) == 400 and kept_y.min() == -9 and kept_y.max() == 9
    assert kept_x[0] == 0 and kept_x[-1] == x[-1] and kept_y[0] == y[0] and kept_y[-1] == y[-1]
    assert (np.diff(kept_x) >= 0).all()


def test_reduce_breaks_at_gaps() -> None:
    y = np.ones(100)
    y[40:60] = np.nan
    left, right = reduce_series(np.arange(100.0), y, 50)
    assert left[0].max() == 39 and right[0].min() == 60
    assert reduce_series(np.arange(3.0), np.full(3, np.inf), 50) == []
    assert len(reduce_series(np.arange(1000.0), np.where(np.arange(1000) % 2, np.nan, 1.0), 10)) == 1


def test_reduce_sorts_and_takes_one_point() -> None:
    (x, y), = reduce_series(np.array([5.0, 1.0, 3.0]), np.array([50.0, 10.0, 30.0]), 80)
    assert x.tolist() == sorted(x.tolist()) and set(y) == {10.0, 30.0, 50.0}
    (x, y), = reduce_series(np.array([7.0]), np.array([2.0]), 80)
    assert set(x) == {7.0} and set(y) == {2.0}


def test_smooth_ignores_gaps_and_keeps_the_mean() -> None:
    values = np.array([1.0, np.nan, 3.0, np.inf, 5.0])
    smoothed = smooth(values, 2)
    assert smoothed[[0, 2, 4]].tolist() == [2.0, 3.0, 4.0] and not drawable(smoothed)[[1, 3]].any()
    assert len(smooth(np.empty(0), 5)) == 0


def test_ticks_are_round_and_inside() -> None:
    assert nice_ticks(0, 100, 5) == [0, 20, 40, 60, 80, 100]
    assert all(1.2 <= tick <= 4.9 for tick in nice_ticks(1.2, 4.9, 6)) and len(nice_ticks(1.2, 4.9, 6)) >= 4
    assert nice_ticks(3, 3, 5) == [3] and nice_ticks(0, float("inf"), 5) == [0]
    assert [short_number(value) for value in (0, 1500, 2e6, 0.25)] == ["0", "1.5k", "2M", "0.25"]


@pytest.mark.parametrize("losses", [
    [], [2.0], [None, None], [None, 3.0, None], [2.0, 2.0, 2.0], [1e308, -1e308, 1.0], [1e99, 2.0], [0.0, 0.0],
    [5.0, None, 4.0, float("inf"), 3.0], [-1.0, -2.0],
])
def test_odd_series_are_drawn(tmp_path: Path, losses: list[float | None]) -> None:
    run = WatchedRun(write_run(tmp_path / "run", losses, evals=()))
    run.refresh()
    for columns, rows in ((80, 24), (30, 12), (200, 50)):
        text = render([run], Screen(columns, rows))
        assert all(len(line) < columns for line in text.split("\n"))
        assert len(text.split("\n")) < rows or rows == 12


def test_long_series_are_drawn(tmp_path: Path) -> None:
    """两万点缩减之后再画，首尾都在。"""
    run = WatchedRun(write_run(tmp_path / "run", [1.0]))
    run.refresh()
    event = {"seq": 9, "time": 1.0, "event": "iter", "lr": 0.1, "iter": 0, "loss": 1.0}
    run.state.apply_events([{**event, "iter": index, "loss": 5 - index / 1e4} for index in range(20_000)])
    chart = draw_chart([run], Screen(120, 34), 119, 30)
    assert "18k" in chart and "5┤" in chart


def test_fit_counts_cells() -> None:
    assert fit("汉字abc", 5) == "汉字a" and fit("汉字", 3) == "汉"
    assert fit("e" + "\u0301" * 1000 + "x", 9) == "e\u0301\u0301x"


def test_command_prints_chart_and_status(tmp_path: Path) -> None:
    done = plot(write_run(tmp_path / "my run", [4.0, 3.0, 2.5]))
    text = done.stdout.decode()
    assert done.returncode == 0 and done.stderr == b"" and raw_controls(done.stdout) == []
    for part in ("my run  [finished]", "iter 3/100 (3%)", "train loss 2.5000", "val loss 2.0000", "3,200 tokens/s",
                 "MFU n/a", "device cpu", "parameters 810k", "validation", "┤"):
        assert part in text


def test_hostile_log_reaches_no_terminal(tmp_path: Path) -> None:
    """日志、目录名里的转义都显示成文字；`--json` 也没有裸的控制字符。"""
    folder = write_run(tmp_path / "evil\x1b[2J\u202ename", [4.0, 3.0], status=None, name=HOSTILE)
    with open(folder / "events.jsonl", "ab") as file:
        file.write(json.dumps({"seq": 50, "time": 1, "event": "error", "code": HOSTILE, "message": HOSTILE,
                               "hint": HOSTILE}, ensure_ascii=False).encode() + b"\n\x1b[31m\x9b bad\n")
    for arguments in ([folder], [folder, folder], [folder, "--json"], [folder / "missing\x1b[2J"]):
        for environ in ({}, {"NO_COLOR": "1"}, {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}):
            done = plot(*arguments, **environ)
            assert raw_controls(done.stdout + done.stderr) == [], (arguments, environ)
    text = plot(folder).stdout.decode()
    assert r"\x1b[31mred" in text and r"evil\x1b[2J\u202ename" in text and "1 bad lines" in text


def test_ascii_output(tmp_path: Path) -> None:
    done = plot(write_run(tmp_path / "运行", [4.0, 3.0]), PYTHONUTF8="0", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0 and done.stdout.isascii() and b"\\u" in done.stdout and b"+--" in done.stdout


def test_json_is_strict_and_one_object_per_run(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", [4.0, None, 2.0])
    with open(first / "events.jsonl", "ab") as file:
        file.write(b'{"seq":90,"time":1e999,"event":"end","status":"diverged","iter":3}\nnot json\n')
    done = plot(first, write_run(tmp_path / "b", []), "--json")

    def refuse(name: str) -> None:
        raise AssertionError(name)

    one, two = [json.loads(line, parse_constant=refuse) for line in done.stdout.splitlines()]
    assert done.stdout.isascii() and one["status"] == "diverged" and one["bad_lines"] == 1
    assert one["iter"]["count"] == 3 and one["iter"]["loss"] == 2.0 and one["iter"]["min_loss"] == 2.0
    assert one["best_val_loss"] == 2.0 and one["config"]["max_iters"] == 100 and one["last_event_time"] is None
    assert two["iter"] == {**two["iter"], "count": 0, "loss": None} and two["run"] == str(tmp_path / "b")


def test_several_runs_overlay(tmp_path: Path) -> None:
    done = plot(write_run(tmp_path / "first", [4.0, 3.0]), write_run(tmp_path / "second", [5.0, 2.0]))
    text = done.stdout.decode()
    assert "first  [finished]" in text and "second  [finished]" in text and "second val" in text


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_missing_run_is_bad_input(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    began = time.perf_counter()
    done = plot(tmp_path / name)
    assert done.returncode == 2 and done.stdout == b"" and b"Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 3 and time.perf_counter() - began < 10


def test_without_end_the_lock_tells_running_from_interrupted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [4.0], status=None)
    run = WatchedRun(folder)
    run.refresh()
    assert run.status == "interrupted" and run.has_ended
    held = RunDir(str(folder))
    try:
        run.refresh()
        assert run.status == "running" and not run.has_ended
        assert json.loads(plot(folder, "--json").stdout)["status"] == "running"
    finally:
        held.close()
    assert run.refresh() and run.status == "interrupted"


def test_no_torch_and_no_plotext_for_help() -> None:
    code = ("import sys; from workbench.__main__ import main\n"
            "try: main(['--help'])\nexcept SystemExit: pass\n"
            "import workbench.plot, workbench.quickstart\n"
            "print([name for name in ('torch', 'transformers', 'datasets', 'plotext') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_follow_on_a_real_terminal(tmp_path: Path) -> None:
    """伪终端里跟着一个活的运行：重画在原地、有颜色，写完 `end` 就退出。"""
    folder = write_run(tmp_path / "run", [4.0], status=None)
    held = RunDir(str(folder))
    writer = EventWriter(folder / "events.jsonl")
    main_fd, child_fd = pty.openpty()
    environ = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    process = subprocess.Popen([sys.executable, "-m", "workbench", "plot", str(folder)], cwd=ROOT, stdin=child_fd,
                               stdout=child_fd, stderr=child_fd, env={**environ, "TERM": "xterm-256color",
                               "NANOGPT_LANG": "en", "COLUMNS": "80", "LINES": "24"})
    os.close(child_fd)
    output = b""
    try:
        while b"[running]" not in output:
            output += os.read(main_fd, 65536)
        writer.emit("end", status="stopped", iter=1)
        while b"[stopped]" not in output:
            output += os.read(main_fd, 65536)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        os.close(main_fd)
        writer.close()
        held.close()
    escapes = set(re.findall(rb"\x1b\[[0-9;]*[A-Za-z]", output))
    assert any(escape.endswith(b"A") for escape in escapes) and b"\x1b[38;5;33m" in escapes
    assert {escape[-1:] for escape in escapes} <= {b"m", b"A", b"J"}
