"""从头到尾只用键：空的工作区、快速上手、曲线在动、停止、续训、杀掉应用再打开。真的终端（tmux）、真的训练。约 40 s。"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import make_tiny_dataset
from trainer_fork import ROOT

from nanogpt.events import read_events

pytestmark = [pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
              pytest.mark.xdist_group("tmux")]
PRESET = """
dataset = "python_stdlib"
n_layer = 2
n_head = 2
n_embd = 16
block_size = 16
batch_size = 4
gradient_accumulation_steps = 1
eval_interval = 200
eval_iters = 2
log_interval = 5
max_iters = 200000
learning_rate = 1e-3
device = "cpu"
dtype = "float32"
compile = false
"""
BRAILLE = set(map(chr, range(0x2801, 0x2900)))


class Terminal:
    """一个 tmux 会话；只看屏幕，从不盲等。"""

    def __init__(self, workspace: Path, size: tuple[int, int], language: str = "en"):
        self.socket = f"nanogpt-{os.getpid()}-{workspace.name[-12:]}-{size[0]}"
        environment = {"PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", "NANOGPT_LANG": language, "OMP_NUM_THREADS": "1",
                       "TERM": "tmux-256color", "HOME": str(workspace), "PATH": os.environ["PATH"]}
        words = [f"{key}={value}" for key, value in environment.items()]
        self.tmux("-f", "/dev/null", "-u", "new-session", "-d", "-x", str(size[0]), "-y", str(size[1]), "-c",
                  str(workspace), "env", "-i", *words, sys.executable, "-m", "workbench")
        self.pid = int(self.tmux("display-message", "-p", "#{pane_pid}"))

    def tmux(self, *arguments: str) -> str:
        done = subprocess.run(["tmux", "-L", self.socket, *arguments], capture_output=True, text=True, check=True,
                              encoding="utf-8", env={**os.environ, "LANG": "C.UTF-8"}, timeout=20)
        return done.stdout

    @property
    def text(self) -> str:
        return self.tmux("capture-pane", "-p")

    def keys(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def see(self, *texts: str, limit_s: float = 60.0) -> str:
        return self.until(lambda screen: all(text in screen for text in texts), limit_s, str(texts))

    def until(self, is_true: Callable[[str], object], limit_s: float = 60.0, what: str = "") -> str:
        end = time.monotonic() + limit_s
        while not is_true(screen := self.text):
            assert time.monotonic() < end, f"never saw {what}:\n{screen}"
            time.sleep(0.1)
        return screen

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self.socket, "kill-server"], capture_output=True, check=False, timeout=20)


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Path]:
    """空的工作区，预设缩小了；结束时不留下训练器。"""
    make_tiny_dataset(tmp_path / "data" / "python_stdlib")
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "quickstart.toml").write_text(PRESET, encoding="utf-8")
    yield tmp_path
    from workbench.stop_run import signal_holder

    for out_dir in (tmp_path / "runs").glob("*"):
        signal_holder(out_dir, signal.SIGKILL)


def test_quick_start_watch_stop_resume_by_keys(space: Path) -> None:
    terminal = Terminal(space, (80, 24))
    try:
        terminal.see("No runs here yet", "Press enter")
        terminal.keys("Enter")
        terminal.see("quickstart-", "starting", limit_s=20)
        first = terminal.until(lambda text: "running" in text and len(BRAILLE & set(text)) > 2, what="a curve")
        terminal.until(lambda text: len(BRAILLE & set(text)) > 2 and _chart(text) != _chart(first), what="it move")
        (out_dir,) = (space / "runs").iterdir()
        terminal.keys("s")
        terminal.see("Stop quickstart-", "y yes")
        terminal.keys("y")
        terminal.see("Stopped on request", limit_s=40)
        stopped_at = [event for event in read_events(out_dir / "events.jsonl") if event["event"] == "end"][-1]["iter"]
        terminal.keys("r")
        terminal.see("running", limit_s=40)

        # 离开不等于停止：杀掉应用、关掉终端，训练照旧；再打开看得见全部
        os.kill(terminal.pid, signal.SIGKILL)
        terminal.close()
        before = (out_dir / "events.jsonl").stat().st_size
        terminal = Terminal(space, (200, 50))
        terminal.see("quickstart-", "running", "loss curve")
        assert (out_dir / "events.jsonl").stat().st_size > before
        terminal.keys("Enter")
        terminal.until(lambda text: len(BRAILLE & set(text)) > 2, what="a curve")
        terminal.keys("s", "y")
        terminal.see("Stopped on request", limit_s=40)
        events = list(read_events(out_dir / "events.jsonl"))
        assert [event["seq"] for event in events] == list(range(len(events)))
        starts = [event for event in events if event["event"] == "start"]
        assert len(starts) == 2 and starts[1]["resumed_from_iter"] == stopped_at
        # Esc 与 q 连在一起发，终端里就是 Alt+q
        terminal.keys("Escape")
        terminal.see("runs: 1, live: 0")
        terminal.keys("q")
        end = time.monotonic() + 15
        while _is_alive(terminal.pid):
            assert time.monotonic() < end, "q does not quit"
            time.sleep(0.1)
    finally:
        terminal.close()


def _chart(text: str) -> str:
    return "\n".join(line for line in text.split("\n") if "│" in line or "┤" in line)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
