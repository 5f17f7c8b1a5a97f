"""两个 CPU rank 从屏幕上启动、观看、停止、续训；从 shell 起的（单进程与 `torchrun`）一样停、一样续、一样采样。

真的启动界面、真的 `torchrun` 与训练进程。约一分半，多半在载入 torch。
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, clean_env, slow
from pilot import drive, screen_text, see, until
from trainer_fork import ROOT

from nanogpt.events import read_events
from nanogpt.rundir import holder
from workbench.launch import console_tail
from workbench.screens.launch import LaunchScreen
from workbench.screens.monitor import MonitorScreen
from workbench.screens.runs import RunsScreen
from workbench.screens.sample import SampleScreen

pytestmark = pytest.mark.xdist_group("torchrun")
BRAILLE = set(map(chr, range(0x2801, 0x2900)))
ENDLESS = ("--max_iters=1000000", "--lr_decay_iters=1000000", "--eval_interval=500", "--log_interval=5")


@pytest.fixture
def space(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """工作区里有预设 `tiny`；结束时不留下训练器。"""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "SSH_CONNECTION", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(workspace / ".cache"))
    values = dict(item.removeprefix("--").split("=", 1) for item in (*TINY, *ENDLESS))
    lines = [f'{key} = "{value}"' if key in ("dataset", "device", "dtype") else f"{key} = {value.lower()}"
             for key, value in values.items()]
    (workspace / "presets").mkdir()
    (workspace / "presets" / "tiny.toml").write_text("\n".join(lines), encoding="utf-8")
    yield workspace
    for out_dir in [*(workspace / "runs").glob("*"), *workspace.glob("out*")]:
        if found := holder(out_dir):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(found["pid"]), signal.SIGKILL)


def events_of(out_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(out_dir / "events.jsonl") if event["event"] == kind]


def ranks_of(out_dir: Path) -> int:
    """持锁的训练器的父进程有几个孩子在跑 `nanogpt.train`。"""
    pid = (holder(out_dir) or {})["pid"]
    parent = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1] == parent:
                found += b"nanogpt.train" in (stat.parent / "cmdline").read_bytes()
    return found


async def stop_by_keys(app: Any, pilot: Any, out_dir: Path) -> int:
    """`s`、`y`，等它存好；返回停在哪一步。"""
    run = app.store.ensure(out_dir)
    await pilot.press("s", "y")
    await until(pilot, lambda: run.status == "stopped", 60)
    await see(pilot, "Stopped on request")
    assert (out_dir / "ckpt.pt").is_file() and not (out_dir / "stop").exists()
    # 放开锁、进程都走了才能续
    await until(pilot, lambda: holder(out_dir) is None, 30)
    return int(events_of(out_dir, "end")[-1]["iter"])


async def resume_by_keys(app: Any, pilot: Any, out_dir: Path, stopped_at: int, ranks: int) -> None:
    """`r`：从停下的那一步接着走，进程数不变。"""
    run, before = app.store.ensure(out_dir), len(events_of(out_dir, "start"))
    await pilot.press("r")
    await until(pilot, lambda: run.status == "running" and (run.state.last_iter or 0) > stopped_at + 5, 90)
    starts = events_of(out_dir, "start")
    assert len(starts) == before + 1, console_tail(out_dir)
    assert starts[-1]["resumed_from_iter"] == stopped_at and starts[-1]["world_size"] == ranks
    assert not [event for event in events_of(out_dir, "warning") if event["code"] == "resume_not_exact"]
    if ranks > 1:
        assert ranks_of(out_dir) == ranks


def test_two_ranks_from_the_launch_screen(space: Path) -> None:
    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "No runs here yet")
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, LaunchScreen) and app.screen._devices)
        await pilot.press("g", "enter")
        await see(pilot, "New run: tiny")
        # 机器那一页：第一个键就是进程数
        await pilot.press("3", "tab", "enter", "ctrl+u", "2", "enter")
        await see(pilot, "--nproc_per_node=2", "was 1")
        shown = app.screen.command_lines()
        await pilot.press("ctrl+r")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen), 30)
        (out_dir,) = Path("runs").iterdir()
        assert str(out_dir) in shown[0]
        await until(pilot, lambda: BRAILLE & set(screen_text(app)) and "running" in screen_text(app), 90)
        assert events_of(out_dir, "start")[0]["world_size"] == 2 and ranks_of(out_dir) == 2
        count = app.screen.chart.draw_count
        await until(pilot, lambda: app.screen.chart.draw_count > count + 1)
        stopped_at = await stop_by_keys(app, pilot, out_dir)
        await resume_by_keys(app, pilot, out_dir, stopped_at, 2)
        await pilot.press("escape")
        await see(pilot, "runs: 1, live: 1")
        await stop_by_keys(app, pilot, out_dir)

    drive(space, scenario)


@pytest.fixture
def from_shell(space: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """像在 shell 里那样起一个训练器，与应用无关。"""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> "subprocess.Popen[bytes]":
        started.append(subprocess.Popen([sys.executable, *arguments], cwd=space, env=clean_env(),
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=slow), 2])
def test_a_run_from_the_shell_is_like_its_own(space: Path, from_shell: Callable[..., Any], ranks: int) -> None:
    """出现在列表里，停得下，按原来的进程数续得上，采得了样；应用从没有启动过它。"""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    process = from_shell(*launcher, "-m", "nanogpt.train", "tiny", "--out_dir=out-shell")
    end = time.monotonic() + 90
    while not ((space / "out-shell" / "events.jsonl").exists() and events_of(space / "out-shell", "iter")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)

    async def scenario(app: Any, pilot: Any) -> None:
        out_dir = Path("out-shell")
        await see(pilot, "out-shell", "running", "runs: 1, live: 1")
        assert app.store.ensure(out_dir).process is None
        # 别人起的，没有 console.log：说出来，不出错
        await pilot.press("enter")
        await see(pilot, "no console.log here")
        stopped_at = await stop_by_keys(app, pilot, out_dir)
        await until(pilot, lambda: process.poll() == 0, 30)
        await resume_by_keys(app, pilot, out_dir, stopped_at, ranks)
        await pilot.press("p")
        await until(pilot, lambda: isinstance(app.screen, SampleScreen))
        await see(pilot, "Sample: out-shell")
        play = app.playground
        await until(pilot, lambda: play.engine.model is not None, 90)
        play.set_control("max_new_tokens", "50")
        await pilot.press(*"def run", "ctrl+r")
        await until(pilot, lambda: play.generation is not None and not play.is_busy, 90)
        await see(pilot, "done; ")
        text = app.screen.transcript.text
        assert text.startswith("def run") and len(text) == 57
        await pilot.press("escape", "escape")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        await stop_by_keys(app, pilot, out_dir)

    drive(space, scenario)
