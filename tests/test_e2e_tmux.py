"""从头到尾只用键：空的工作区、快速开始、曲线在动、停止、续训、采样、杀掉应用再打开。

真的终端（tmux）、真的训练与采样；80×24 用英文，200×50 用中文。约一分钟。
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import make_tiny_dataset, slow
from terminal import BRAILLE, Terminal, needs_tmux

from nanogpt.events import read_events
from nanogpt.i18n import _ as translated
from nanogpt.i18n import use_language

pytestmark = needs_tmux
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


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Path]:
    """空的工作区，预设缩小了；结束时不留下训练器。"""
    make_tiny_dataset(tmp_path / "data" / "python_stdlib")
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "quickstart.toml").write_text(PRESET, encoding="utf-8")
    yield tmp_path
    use_language("en")
    from workbench.stop_run import signal_holder

    for out_dir in (tmp_path / "runs").glob("*"):
        signal_holder(out_dir, signal.SIGKILL)


def events_of(out_dir: Path, kind: str) -> list[dict]:  # type: ignore[type-arg]
    return [event for event in read_events(out_dir / "events.jsonl") if event["event"] == kind]


@pytest.mark.parametrize(("size", "language"), [((80, 24), "en"), pytest.param((200, 50), "zh", marks=slow)])
def test_quick_start_stop_resume_sample_by_keys(space: Path, size: tuple[int, int], language: str) -> None:
    use_language(language)
    terminal = Terminal(space, size, language)
    try:
        out_dir = quick_start(terminal, space)
        stopped_at = stop_from_the_screen(terminal, out_dir)
        terminal.keys("r")
        terminal.see(translated("running"), limit_s=40)
        sample_from_the_screen(terminal)
        # 采样不打扰训练
        terminal.keys("Escape")
        terminal.see(translated("running"), translated("back"))
        start = events_of(out_dir, "start")[1]
        assert start["resumed_from_iter"] == stopped_at and len(events_of(out_dir, "start")) == 2
    finally:
        terminal.close()


def quick_start(terminal: Terminal, space: Path) -> Path:
    """空的工作区里一个回车：开始训练，曲线出来，而且在动。"""
    terminal.see(translated("No runs here yet."), translated("Press enter to train your first model."))
    terminal.keys("Enter")
    terminal.see("quickstart-", translated("starting"))
    first = terminal.until(lambda text: translated("running") in text and len(BRAILLE & set(text)) > 2, what="a curve")
    terminal.until(lambda text: len(BRAILLE & set(text)) > 2 and _chart(text) != _chart(first), what="it move")
    (out_dir,) = (space / "runs").iterdir()
    return out_dir


def stop_from_the_screen(terminal: Terminal, out_dir: Path) -> int:
    """问过才停；返回停在哪一步。"""
    terminal.keys("s")
    terminal.see(translated("Stop {names}?").format(names="quickstart-").rstrip("?？"), f"y {translated('yes')}")
    terminal.keys("y")
    terminal.see(translated("Stopped on request at iteration {iter}.").split("{")[0], limit_s=40)
    return int(events_of(out_dir, "end")[-1]["iter"])


def sample_from_the_screen(terminal: Terminal) -> None:
    """打开采样，打一句提示，看到它后面接着写的字；停止时的检查点已经在了。"""
    terminal.keys("p")
    terminal.see(translated("Sample: {run}").format(run="quickstart-"), translated("ctrl+r samples"))
    terminal.type("def run")
    terminal.see("def run")
    terminal.keys("C-r")
    said = translated("first token {ms} ms").split("{")[0]
    text = terminal.until(lambda text: said in text, what="it finish")
    page = text.split(translated("done") + ";")[0].split("\n", 1)[1]
    # 提示在开头，后面是它写的；写得多时开头滚出去了。没练多久的模型写的不一定有空格
    assert len("".join(page.split())) > 100, text


@slow
def test_the_run_survives_kill_and_closed_terminal(space: Path) -> None:
    """离开不等于停止：kill -9 应用、关掉终端，训练照旧；换一个大小再打开，看得见全部。"""
    terminal = Terminal(space, (80, 24))
    try:
        out_dir = quick_start(terminal, space)
        os.kill(terminal.pid, signal.SIGKILL)
        terminal.close()
        before = (out_dir / "events.jsonl").stat().st_size
        terminal = Terminal(space, (200, 50))
        terminal.see("quickstart-", "running", "loss curve")
        assert (out_dir / "events.jsonl").stat().st_size > before
        terminal.keys("Enter")
        terminal.until(lambda text: len(BRAILLE & set(text)) > 2, what="a curve")
        stop_from_the_screen(terminal, out_dir)
        events = list(read_events(out_dir / "events.jsonl"))
        assert [event["seq"] for event in events] == list(range(len(events)))
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
