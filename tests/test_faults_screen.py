"""故障表里屏幕要扛住的各行（17、23、27、28、29），由真的应用、真的子进程与真的文件来试。约四十秒。"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import slow
from pilot import drive, screen_text, see, until, write_run
from test_stop_run import HOLDER
from trainer_fork import ROOT

from nanogpt.events import EventWriter, encode_event
from workbench import stop_run
from workbench.screens.monitor import MonitorScreen
from workbench.screens.runs import RunsScreen

BRAILLE = set(map(chr, range(0x2801, 0x2900)))


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("NO_COLOR", "SSH_CONNECTION", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))


@pytest.fixture
def hold() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """拿住运行目录的锁、不理停止文件与 SIGTERM 的子进程；`forged` 改写它在锁里自报的身份。"""
    children: list[subprocess.Popen[str]] = []

    def start(out_dir: Path, **forged: object) -> "subprocess.Popen[str]":
        child = subprocess.Popen([sys.executable, "-c", HOLDER, str(out_dir), json.dumps(forged)], text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 env={**os.environ, "PYTHONPATH": str(ROOT)})
        children.append(child)
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        return child

    yield start
    for child in children:
        child.communicate(timeout=10)


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """宽限缩短到等得起：与 `test_stop_run.py` 里假的时钟一样，逐级的次序与做法不变。"""
    monkeypatch.setattr(stop_run, "TERM_SECONDS", 1.0)
    monkeypatch.setattr(stop_run, "KILL_SECONDS", 2.5)


# ---- 17、23：叫不停的，认不出的 ----


@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize("is_monitor", [False, True])
def test_a_child_that_ignores_the_stop(tmp_path: Path, hold: Callable[..., Any], is_monitor: bool) -> None:
    out_dir = write_run(tmp_path / "runs" / "stubborn", status=None)
    child = hold(out_dir)

    async def scenario(_app: Any, pilot: Any) -> None:
        await see(pilot, "stubborn", "running")
        await pilot.press(*["enter"] * is_monitor)
        await pilot.press("s", "y")
        await see(pilot, "asked it to save and stop", "stopping")
        await see(pilot, "no answer yet: sent SIGTERM")
        assert child.poll() is None
        await until(pilot, lambda: child.poll() == -9)
        # 说过的不随运行的结束而消失：人可能正看着别处
        await see(pilot, "interrupted", "Interrupted", "still no answer: killed it; the last checkpoint is whole")

    drive(tmp_path, scenario, (100, 36))


@pytest.mark.usefixtures("short_grace")
def test_a_reused_pid_is_never_signalled(tmp_path: Path, hold: Callable[..., Any]) -> None:
    """锁里的 pid 活着，开始时间却对不上：那是别人。叫停只放停止文件，杀也不发，都说出来。"""
    out_dir = write_run(tmp_path / "runs" / "reused", status=None)
    child = hold(out_dir, pid_start_time=1.5)

    async def scenario(_app: Any, pilot: Any) -> None:
        await see(pilot, "reused", "running")
        await pilot.press("K", "y")
        await see(pilot, "nothing was sent")
        await pilot.press("s", "y")
        await see(pilot, "the stop file is its only way")
        await pilot.pause(2.5)
        assert child.poll() is None and (out_dir / "stop").exists()

    drive(tmp_path, scenario, (100, 36))
    assert child.poll() is None


# ---- 27：一行 50 MB，洪水 ----


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_huge_lines_and_a_flood_keep_the_keys_live(tmp_path: Path) -> None:
    """事件与日志各有一行 50 MB，日志再以每秒几兆涌来：内存增长有限，按键照答，前后的事件都在。"""
    out_dir = write_run(tmp_path / "runs" / "flood", 50, status=None, max_iters=1000)
    with open(out_dir / "events.jsonl", "ab") as events, open(out_dir / "console.log", "ab") as console:
        for file in (events, console):
            for _part in range(50):
                file.write(b"\x1b[3Jx\xe6\xb1\x89 " * (1 << 17))
            file.write(b"\n")
        events.write(encode_event({"seq": 60, "time": time.time(), "event": "iter", "iter": 50, "loss": 1.5,
                                   "lr": 1e-3, "grad_norm": 1.0, "iter_ms": 1.0, "tokens_per_second": 1.0,
                                   "mfu": None, "memory_mib": 1.0}))
    is_over, written = threading.Event(), [0]

    def flood() -> None:
        line = "\x1b[31m汉字 flood \u202e".encode() * 40 + b"\n"
        with open(out_dir / "console.log", "ab", buffering=0) as file:
            while not is_over.wait(0.01):
                file.write(line * 64)
                written[0] += 64

    async def scenario(app: Any, pilot: Any) -> None:
        await until(pilot, lambda: any(run.state.iter_count == 51 for run in app.store.runs.values()))
        await pilot.press("enter")
        await see(pilot, "flood", "1.5000", "1 bad lines in the log were skipped")
        await until(pilot, lambda: BRAILLE & set(screen_text(app)))
        thread = threading.Thread(target=flood)
        thread.start()
        try:
            waits = []
            for key in "2t1tkkjjfx" * 4:
                began = time.process_time()
                await pilot.press(key)
                waits.append(time.process_time() - began)
            assert written[0] > 1000
        finally:
            is_over.set()
            thread.join()
        grown_mib = peak_mib() - before
        print(f"\nkeys: median {sorted(waits)[len(waits) // 2] * 1e3:.0f} ms, worst {max(waits) * 1e3:.0f} ms of CPU; "
              f"memory +{grown_mib:.0f} MiB; {written[0]} lines")
        assert grown_mib < 64
        # 处理一个键用掉的 CPU 时间（含写洪水的线程自己）；机器忙时墙上时间不可信
        assert sorted(waits)[len(waits) // 2] < 0.5

    with open(out_dir / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # 让内核从此刻起重新记峰值，前面的测试用过多少不算
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = peak_mib()
        drive(tmp_path, scenario)


def peak_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# ---- 28：看着的时候，日志与目录被动了 ----


def truncate(out_dir: Path) -> None:
    os.truncate(out_dir / "events.jsonl", 0)
    write_run(out_dir, 30, status=None)


def rotate(out_dir: Path) -> None:
    (out_dir / "events.jsonl").rename(out_dir / "events.jsonl.1")
    write_run(out_dir, 31, status=None)


def replace(out_dir: Path) -> None:
    other = write_run(out_dir.parent / "other-tmp", 32, status=None)
    os.replace(other / "events.jsonl", out_dir / "events.jsonl")
    shutil.rmtree(other)


def delete_log(out_dir: Path) -> None:
    (out_dir / "events.jsonl").unlink()
    (out_dir / "console.log").unlink()


def become_a_folder(out_dir: Path) -> None:
    for name in ("events.jsonl", "console.log", "notes.md", "config.toml"):
        (out_dir / name).unlink(missing_ok=True)
        (out_dir / name).mkdir()


STEPS = ((truncate, "iter 29"), (rotate, "iter 30"), (replace, "iter 31"), (delete_log, "log cannot be read"),
         (become_a_folder, "log cannot be read"))


@pytest.mark.parametrize("place", ["list", *(pytest.param(place, marks=slow) for place in ("monitor", "overlay"))])
def test_logs_and_directories_change_while_watched(tmp_path: Path, place: str) -> None:
    """截断、轮转、换掉、删掉、变成目录、连目录一起没了：说出来，键都还答，别的运行不受影响。"""
    out_dir = write_run(tmp_path / "runs" / "alpha", 20, status=None)
    other = write_run(tmp_path / "runs" / "beta", 20, status=None)
    keys = {"list": ("j", "k", "o", "y"), "monitor": ("2", "t", "left", "plus", "0", "1", "w"),
            "overlay": ("2", "t", "t", "left", "x", "x", "x", "1", "w")}[place]

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "alpha", "beta")
        table = app.screen._table
        table.cursor = next(i for i, run in enumerate(table.runs) if run.name == "alpha")
        await pilot.press(*{"list": (), "monitor": ("enter",), "overlay": ("g", "space", "space", "enter")}[place])
        for step, text in STEPS:
            step(out_dir)
            if place == "overlay" and step in (delete_log, become_a_folder):
                await pilot.pause(1.0)
            else:
                await see(pilot, *[text] * (place != "list" or "log" not in text))
            await pilot.press(*keys)
            assert isinstance(app.screen, RunsScreen if place == "list" else MonitorScreen)
        shutil.rmtree(out_dir)
        if place == "list":
            await until(pilot, lambda: "alpha" not in screen_text(app).split("──")[0])
        elif place == "monitor":
            await see(pilot, "directory is gone")
        await pilot.press(*keys)
        if place != "list":
            await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        await see(pilot, "beta", "running")
        writer = EventWriter(other / "events.jsonl")
        writer.emit("iter", iter=20, loss=0.125, lr=1e-3, grad_norm=1.0, iter_ms=1.0, tokens_per_second=1.0, mfu=None,
                    memory_mib=1.0)
        writer.close()
        await see(pilot, "0.1250")

    with open(out_dir / "lock", "w", encoding="utf-8") as one, open(other / "lock", "w", encoding="utf-8") as two:
        for lock in (one, two):
            fcntl.flock(lock, fcntl.LOCK_EX)
        drive(tmp_path, scenario, (100, 36))


# ---- 29：时钟被拨动 ----


def test_clock_steps(tmp_path: Path) -> None:
    """写者的时钟前后乱跳，负的速率、将来的时刻：屏上没有负数与 nan，按秒的图照画。"""
    out_dir = tmp_path / "runs" / "clock"
    out_dir.mkdir(parents=True)
    now = time.time()
    jumps = [0, 1, -86400 * 400, -86400 * 400 + 1, 86400 * 400, 86400 * 400 + 1, 2, 3, 1e12, 4]
    with open(out_dir / "events.jsonl", "wb") as file:
        file.write(encode_event({"seq": 0, "time": now, "event": "start", "config": {"max_iters": 100},
                                 "resumed_from_iter": None, "params": 1, "tokens_per_iter": 1, "world_size": 1,
                                 "device_name": "cpu", "peak_flops": None}))
        for index, jump in enumerate(jumps):
            backward = jump < 0 or index in (6, 9)
            file.write(encode_event({"seq": index + 1, "time": now + jump, "event": "iter", "iter": index,
                                     "loss": 3.0 - index / 10, "lr": 1e-3, "grad_norm": 1.0,
                                     "iter_ms": -5e6 if backward else 10.0, "mfu": -0.5 if backward else 0.5,
                                     "tokens_per_second": -12.5 if backward else 640.0, "memory_mib": 1.0}))

    def check(text: str) -> None:
        for line in text.split("\n"):
            words = line.replace("│", " ").replace("┤", " ").split()
            assert not [word for word in words if word.strip("(),").lower() in ("nan", "inf", "-inf")], line
            numbers = [word for word in words if word.startswith("-") and word[1:2].isdigit()]
            assert not numbers, line

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "clock", "running")
        check(screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: BRAILLE & set(screen_text(app)))
        for key in ("x", "x", "4", "5", "1", "left", "x"):
            await pilot.press(key)
            await pilot.pause(0.3)
            check(screen_text(app))
            assert BRAILLE & set(screen_text(app)), screen_text(app)

    with open(out_dir / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        drive(tmp_path, scenario, (100, 36))
