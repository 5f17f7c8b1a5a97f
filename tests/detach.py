"""应用一次次地死，它启动的训练照旧：一个真的训练，几十次 kill -9 应用、关掉终端、杀掉 tmux 的会话或服务器。

`test_detach.py` 跑其中一份有种子的样本，`python tests/fault_campaign.py --only detach` 跑足全部次数。每次之后都重新
打开日志，图上从第 0 步起一步不缺；最后逐行核对 `seq`，再由 `plot --json` 与真的监视界面各数一遍。
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pilot import drive, until
from terminal import Terminal
from trainer_fork import ROOT, clean_env

from nanogpt.events import parse_line
from nanogpt.rundir import holder
from workbench.chart import View, curves_of
from workbench.watched_run import WatchedRun

sys.path.append(str(ROOT / "benchmarks"))
from app_terminal import AppTerminal

# 每一步都记：几毫秒一步，所以每次死都落在写日志的当中
PRESET = """
dataset = "python_stdlib"
n_layer = 1
n_head = 1
n_embd = 8
block_size = 8
batch_size = 2
gradient_accumulation_steps = 1
eval_interval = 500
eval_iters = 1
log_interval = 1
max_iters = 9000000
lr_decay_iters = 9000000
learning_rate = 1e-4
device = "cpu"
dtype = "float32"
compile = false
"""
KILL, CLOSE, SESSION, SERVER = "kill -9", "terminal closed", "tmux session killed", "tmux server killed"
SIZE = (120, 34)


def endings(times: int) -> list[str]:
    """`times` 次终端的结束：有 tmux 时一半是它的会话与服务器。"""
    kinds = (CLOSE, SESSION, CLOSE, SERVER) if shutil.which("tmux") else (CLOSE,)
    return [kinds[index % len(kinds)] for index in range(times)]


class Detach:
    """`space` 里已有数据集；训练由第一个应用启动。"""

    def __init__(self, space: Path, seed: int):
        self.space, self.dice = space, random.Random(seed)
        self.count: Counter[str] = Counter()
        (space / "presets").mkdir()
        (space / "presets" / "quickstart.toml").write_text(PRESET, encoding="utf-8")
        self.app: AppTerminal | Terminal = AppTerminal(space, *SIZE)
        self.app.see("Press enter")
        self._press("\r")
        _until(lambda: len(list((space / "runs").glob("*/events.jsonl"))) == 1, "the log")
        (self.out_dir,) = (space / "runs").iterdir()
        self.trainer = self._await_training()

    # ---- 死 ----

    def strike(self, kind: str) -> None:
        """打开应用（已经开着的就用它），在一个随机的时刻让它死，再看训练与日志。"""
        before = self.check_log()
        self._open(kind)
        if self.count[kind] and self.dice.random() < 0.5:
            # 一半死在起动之中，或刚看见列表
            time.sleep(self.dice.uniform(0.0, 0.8))
        else:
            self._watch(before)
        self._end(kind)
        self.count[kind] += 1
        assert _pid(self.out_dir) == self.trainer, f"the trainer did not survive: {kind}"
        _until(lambda: self.check_log() > before, f"the log grow after {kind}")

    def relaunch(self) -> None:
        """在应用里停止再续训：之后的训练器是这个应用的子进程。"""
        self._open(CLOSE)
        self._watch(0)
        self._press("s")
        self.app.see("Stop quickstart-")
        self._press("y")
        self.app.see("Stopped on request")
        _until(lambda: _pid(self.out_dir) is None, "the trainer end")
        self._press("r")
        self.trainer = self._await_training()

    def _open(self, kind: str) -> None:
        is_tmux = kind in (SESSION, SERVER)
        if self.app is not None and isinstance(self.app, Terminal) == is_tmux:
            return
        if self.app is not None:
            self._end(KILL)
        self.app = Terminal(self.space, SIZE) if is_tmux else AppTerminal(self.space, *SIZE)

    def _watch(self, at_least: int) -> None:
        """监视界面上的步数到得了 `at_least`：重新打开的应用读到了死前的全部。"""
        self.app.see("running")
        self._press("\r")
        _until(lambda: max(_iters_shown(self._text()), default=-1) >= at_least, f"iteration {at_least} on the screen")
        time.sleep(self.dice.uniform(0.0, 0.3))

    def _end(self, kind: str) -> None:
        app, self.app = self.app, None  # type: ignore[assignment]
        if isinstance(app, AppTerminal):
            app.hang_up() if kind == CLOSE else app.kill()
            app.wait()
            app.hang_up()
            return
        if kind in (SESSION, SERVER):
            app.tmux("kill-session" if kind == SESSION else "kill-server")
        app.close()
        _until(lambda: not _is_running(app.pid), "the app end")

    def _press(self, key: str) -> None:
        if isinstance(self.app, AppTerminal):
            self.app.type(key)
        else:
            self.app.keys("Enter" if key == "\r" else key)

    def _text(self) -> str:
        return self.app.text().decode("utf-8", "replace") if isinstance(self.app, AppTerminal) else self.app.text

    def _await_training(self) -> int:
        """等它拿到锁又走了几步；返回训练器的 pid。"""
        log = self.out_dir / "events.jsonl"
        before = log.stat().st_size
        _until(lambda: _pid(self.out_dir) and log.stat().st_size > before + 4000, "training")
        pid = _pid(self.out_dir)
        assert pid is not None
        return pid

    # ---- 看 ----

    def check_log(self) -> int:
        """新来的人读一遍：图上从 0 到最后一步，一步不缺；返回最后一步。"""
        run = WatchedRun(self.out_dir)
        run.refresh()
        curve = curves_of([run], View(smoothing=0.0))[0]
        np.testing.assert_array_equal(curve.x, np.arange(len(curve.x)))
        assert np.isfinite(curve.y).all() and run.follower.bad_lines == 0 and run.state.ignored_events == 0
        run.follower.close()
        return len(curve.x) - 1

    def finish(self) -> int:
        """请训练停下，把日志逐行核对一遍，再由 `plot` 与应用各数一遍；返回步数。"""
        if self.app is not None:
            self._end(KILL)
        (self.out_dir / "stop").touch()
        _until(lambda: _pid(self.out_dir) is None, "the trainer end")
        events = [parse_line(line) for line in (self.out_dir / "events.jsonl").read_bytes().splitlines(keepends=True)]
        seqs = [event["seq"] for event in events if event is not None]
        assert seqs == list(range(len(events))), "a line or a number is missing"
        iters = [event["iter"] for event in events if event is not None and event["event"] == "iter"]
        assert iters == list(range(len(iters))), "an iteration is missing"
        assert self._counted_by_plot() == self._counted_by_app() == len(iters)
        return len(iters)

    def _counted_by_plot(self) -> int:
        command = [sys.executable, "-m", "workbench", "plot", "--json", str(self.out_dir)]
        done = subprocess.run(command, cwd=self.space, env=clean_env(), capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        assert found["status"] == "stopped" and found["bad_lines"] == 0
        return int(found["iter"]["count"])

    def _counted_by_app(self) -> int:
        counts = []

        async def scenario(app: Any, pilot: Any) -> None:
            await pilot.press("enter")
            await until(pilot, lambda: getattr(app.screen, "chart", None) and app.screen.chart.curves)
            x = app.screen.chart.curves[0].x
            np.testing.assert_array_equal(x, np.arange(len(x)))
            counts.append(len(x))

        drive(self.space, scenario, SIZE)
        return counts[0]


def campaign(space: Path, kills: int, ends: int, seed: int) -> tuple[Counter[str], int]:
    """`kills` 次 kill -9，续训之后再 `ends` 次终端的结束；返回（各种的次数, 步数）。错了就断言失败。"""
    detach = Detach(space, seed)
    try:
        for _ in range(kills):
            detach.strike(KILL)
        detach.relaunch()
        for kind in endings(ends):
            detach.strike(kind)
        return detach.count, detach.finish()
    finally:
        if detach.app is not None:
            detach._end(KILL)
        if (pid := _pid(detach.out_dir)) is not None:
            os.kill(pid, 9)


def _iters_shown(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"iter (\d+)/9000000", text)]


def _pid(out_dir: Path) -> int | None:
    found = holder(out_dir)
    return None if found is None else found.get("pid")


def _is_running(pid: int) -> bool:
    """已被收走的、只剩僵尸的，不算。"""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _until(is_true: Callable[[], object], what: str, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not is_true():
        assert time.monotonic() < end, f"never saw {what}"
        time.sleep(0.02)
