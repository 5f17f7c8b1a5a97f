"""采样界面：真的应用、真的服务进程、真的训练出来的极小模型。约 40 秒，多半在导入 torch。"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, make_tiny_dataset
from pilot import drive, screen_text, see, until
from test_playground import is_alive
from trainer_fork import ROOT, TrainerServer

from nanogpt.i18n import use_language
from workbench.screens.compare import CompareScreen
from workbench.screens.confirm import ConfirmScreen
from workbench.screens.inspect import InspectScreen
from workbench.screens.picker import PickerScreen
from workbench.screens.runs import RunsScreen
from workbench.screens.sample import SampleScreen

LIMIT_S = 40.0
HOSTILE = "[/bold][@click=app.bell()]x"


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, trainer_server: TrainerServer) -> Path:
    """练了六步、留了三个旁的检查点的极小模型。"""
    folder = tmp_path_factory.mktemp("space")
    make_tiny_dataset(folder / "data" / "tiny")
    done = trainer_server.train(folder, *TINY, "--out_dir=runs/done", "--checkpoint_interval=2")
    assert done.returncode == 0, done.output
    return folder


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "SSH_CONNECTION", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def sample(workspace: Path, scenario: Callable[..., Any], size: tuple[int, int] = (80, 24)) -> None:
    """打开唯一运行的采样界面；离开之后不留下进程。"""
    pids = set()

    async def opened(app: Any, pilot: Any) -> None:
        await until(pilot, lambda: app.screen.chosen_runs())
        await pilot.press("p")
        await until(pilot, lambda: isinstance(app.screen, SampleScreen))
        play = app.playground
        await until(pilot, lambda: play.engine.model is not None, LIMIT_S)
        pids.add(play.engine.pid)
        play.set_control("max_new_tokens", "30")
        await scenario(app, pilot, play)
        pids.add(play.engine.pid)

    drive(workspace, opened, size)
    assert not any(is_alive(pid) for pid in pids if pid), "a server is left behind"


async def written(pilot: Any, play: Any) -> str:
    """等它写完，返回全文。"""
    await until(pilot, lambda: play.generation is not None and not play.is_busy, LIMIT_S)
    await pilot.pause(0.3)
    return "".join(play.conversation.turns[index].text for index in play.conversation.path())


def test_stream_cancel_again_kill_and_language(space: Path) -> None:
    """写、看着它长、按键照样有反应、停、再来、旁枝、往下写、杀掉进程、换语言；80×24。"""
    async def scenario(app: Any, pilot: Any, play: Any) -> None:
        await see(pilot, "Sample: done", "ctrl+r samples", "temperature", "iter 6")
        await pilot.press(*"def run")
        await pilot.press("ctrl+r")
        first = await written(pilot, play)
        assert first.startswith("def run") and len(first) == 37
        assert first.split("\n")[0][:30] in screen_text(app)
        await see(pilot, "done; ", "tok/s", "first token", "context 16/16")
        await pilot.press("ctrl+r")
        assert await written(pilot, play) == first
        await pilot.press("ctrl+n")
        other = await written(pilot, play)
        assert other != first and play.controls.value("seed") == 1338
        await see(pilot, "<3/3>")
        await pilot.press("tab", "h", "h")
        await see(pilot, "<1/3>")
        await pilot.press("l", "l", "i", "ctrl+g")
        assert (await written(pilot, play)).startswith(other)

        # 全速写着：打的字、换的语言都不等它写完
        play.set_control("max_new_tokens", "1000000")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: play.generation.samples[0].size > 50, LIMIT_S)
        before = app.screen.transcript.text
        await pilot.press(*"abc")
        assert app.screen.editor.text == "def runabc" and play.is_busy
        await see(pilot, "tok/s", "context 16/16")
        await pilot.press("f4")
        await see(pilot, "it is still writing")
        await pilot.press("ctrl+l")
        await see(pilot, "采样：done", "esc 停")
        assert play.is_busy
        await until(pilot, lambda: len(app.screen.transcript.text) > len(before))
        await pilot.press("ctrl+l", "escape")
        await until(pilot, lambda: not play.is_busy)
        await see(pilot, "cancelled")
        assert isinstance(app.screen, SampleScreen)

        await pilot.press("ctrl+r")
        await until(pilot, lambda: play.is_busy and play.generation.samples[0].size > 50, LIMIT_S)
        os.kill(play.engine.pid, signal.SIGKILL)
        await see(pilot, "killed by SIGKILL", "the next prompt starts a new one")
        play.set_control("max_new_tokens", "20")
        await pilot.press("ctrl+r")
        assert len(await written(pilot, play)) == len("def runabc") + 20
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))

    try:
        sample(space, scenario)
    finally:
        use_language("en")


def test_models_side_by_side_and_tokens(space: Path) -> None:
    """选一个检查点；两个并排；时间机器；逐 token；困惑度；200×50。"""
    async def scenario(app: Any, pilot: Any, play: Any) -> None:
        await pilot.press("f4")
        await see(pilot, "done ckpt-2.pt", "ckpt-4.pt, iter 4", "OpenAI's weights, 124M")
        await pilot.press(*"ckpt-4")
        assert len(app.screen.items) == 1
        await pilot.press("enter")
        await see(pilot, "Sample: done ckpt-4.pt")
        await pilot.press(*"def ")
        await pilot.press("ctrl+r")
        alone = await written(pilot, play)

        await pilot.press("f8")
        await until(pilot, lambda: isinstance(app.screen, PickerScreen))
        await pilot.press(*"ckpt", "pageup", "tab", "tab", "enter")
        await until(pilot, lambda: isinstance(app.screen, CompareScreen) and app.screen.comparison.has_ended, LIMIT_S)
        await see(pilot, "Side by side", "1 done ckpt-2.pt", "2 done ckpt-4.pt", "ppl of text", "of prompt")
        entries = app.screen.comparison.entries
        assert "def " + entries[1].text == alone and entries[0].text != entries[1].text
        await pilot.press("l", "w")
        await see(pilot, "transcripts/compare-")
        await pilot.press("escape")

        await pilot.press("f9")
        await until(pilot, lambda: isinstance(app.screen, CompareScreen) and app.screen.comparison.has_ended, LIMIT_S)
        await see(pilot, "3 of 3 models", "val ")
        assert [entry.iter for entry in app.screen.comparison.entries] == [2, 4, 6]
        await pilot.press("l", "enter")
        # 选中的，不是最后比较的那一个
        await see(pilot, "Sample: done ckpt-4.pt  ckpt-4.pt, iter 4")

        await pilot.press("alt+t")
        await until(pilot, lambda: isinstance(app.screen, InspectScreen) and app.screen.score.has_ended, LIMIT_S)
        await see(pilot, "tokens, perplexity", "the first token")
        assert "".join(token.text for token in app.screen.tokens) == alone
        await pilot.press("l")
        await see(pilot, "probability", "rank", '"e"')
        token = app.screen.tokens[1]
        assert token.text == "e" and len(token.top) == 5
        rows = screen_text(app).split("\n")
        await pilot.press("d")
        await until(pilot, lambda: screen_text(app).split("\n")[2] != rows[2])
        assert set(screen_text(app).split("\n")[2].strip()) <= set("0123456789. ")
        await pilot.press("G", "escape")

        await pilot.press("tab", "p")
        await see(pilot, "Perplexity of done ckpt-4.pt")
        await pilot.press(*"tiny", "enter")
        await see(pilot, "tokens, perplexity", limit_s=LIMIT_S)

    sample(space, scenario, (200, 50))


def test_chat_templates_files_and_history(space: Path) -> None:
    """对话、改一轮成旁枝、模板、参数组、存下再打开、历史、词表之外的字、窄屏的参数。"""
    async def scenario(app: Any, pilot: Any, play: Any) -> None:
        await pilot.press(*"def")
        await pilot.press("f6")
        await see(pilot, "chat: dialogue", "a message")
        await pilot.press(*"Hello")
        await pilot.press("f6")
        assert app.screen.editor.text == "def"
        await pilot.press("f6")
        assert app.screen.editor.text == "Hello"
        await pilot.press("ctrl+r")
        await written(pilot, play)
        await see(pilot, "you", "Hello")
        assert app.screen.editor.text == ""
        await pilot.press("tab", "k", "e")
        await see(pilot, "editing: ctrl+r makes a branch")
        assert app.screen.editor.text == "Hello"
        await pilot.press("y", "escape")
        assert app.screen.editor.text == "" and play.editing is None
        await pilot.press("tab", "e", "x", "ctrl+r")
        await written(pilot, play)
        assert play.conversation.siblings(play.conversation.path()[0]) == (2, 2)
        await see(pilot, "Hellox")

        await pilot.press("f7")
        await see(pilot, "top_k", "legal:")
        await pilot.press("m")
        await see(pilot, "questions", "chatml")
        await pilot.press(*"quest", "enter")
        await see(pilot, "chat: questions")
        await pilot.press("m", "enter")
        await see(pilot, "How a chat is written", "Q: Good morning.")
        await pilot.press("escape")
        await pilot.press("o")
        await see(pilot, "greedy", "wild")
        await pilot.press(*"greedy", "enter")
        await until(pilot, lambda: play.controls.value("temperature") == 0)
        await pilot.press("w")
        await see(pilot, "Name of the preset")
        await pilot.press(*"mine", "enter")
        await see(pilot, "Saved as mine")
        assert "mine" in play.store.read_presets()
        await pilot.press("escape")
        assert app.screen.editor.has_focus

        await pilot.press("ctrl+s")
        await see(pilot, "Save the page as")
        await pilot.press(*"talk", "enter")
        await see(pilot, "transcripts/talk.json")
        await pilot.press("tab", "n")
        await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
        await pilot.press("y")
        await until(pilot, lambda: not play.conversation.path())
        await pilot.press("ctrl+o")
        await see(pilot, "talk.json")
        await pilot.press("enter")
        await see(pilot, "Hellox")

        await pilot.press("up")
        assert app.screen.editor.text == "Hellox"
        await pilot.press("up")
        assert app.screen.editor.text == "Hello"
        await pilot.press("down", "down")
        assert app.screen.editor.text == ""
        (space / "prompt.txt").write_text("from a file", encoding="utf-8")
        await pilot.press(*"FILE:prompt.txt", "ctrl+r")
        await written(pilot, play)
        await see(pilot, "from a file")
        await pilot.press("é", "你")
        await see(pilot, "U+00E9", limit_s=LIMIT_S)
        assert len(app.screen.editor._bad) >= 1
        await pilot.press("alt+e")
        await see(pilot, "cannot open")

    sample(space, scenario)


def test_hostile_text_is_literal(space: Path) -> None:
    """提示、模型写的、名字里的标记与转义：原样显示，一个动作也不触发。"""
    async def scenario(app: Any, pilot: Any, play: Any) -> None:
        app.screen.editor.put(HOSTILE)
        await pilot.press("ctrl+r")
        assert (await written(pilot, play)).startswith(HOSTILE)
        await see(pilot, HOSTILE)
        turn = play.conversation.turns[play.conversation.leaf]
        turn.text += "\x1b]52;c;aGk=\x07\u202e\u0301" * 20
        play.conversation.version += 1
        await see(pilot, "\\x1b]52;c;aGk=\\x07\\u202e")
        app.screen.editor.put("\x1b[31m\u202e\x9b")
        await pilot.pause(0.3)
        assert not {"\x1b", "\u202e", "\x9b"} & set(screen_text(app))

    sample(space, scenario)


def test_no_checkpoint_yet(tmp_path: Path, trainer_server: TrainerServer) -> None:
    """正在训练而还没存过：说清楚何时会有；不起进程。"""
    make_tiny_dataset(tmp_path / "data" / "tiny")
    found = trainer_server.start(tmp_path, *TINY, "--out_dir=runs/live", "--max_iters=200000",
                                 "--lr_decay_iters=200000", "--eval_interval=100000")

    async def scenario(app: Any, pilot: Any) -> None:
        await until(pilot, lambda: app.screen.chosen_runs() and app.screen.chosen_runs()[0].state.iter_count)
        await pilot.press("p")
        await see(pilot, "There is no checkpoint yet. It saves the first one at iter 100000.")
        await pilot.press("ctrl+r")
        await see(pilot, "there is no checkpoint")
        assert app.playground.engine.pid is None

    try:
        drive(tmp_path, scenario)
    finally:
        found.kill(signal.SIGKILL)
        found.wait()


def test_read_only_has_no_playground(space: Path) -> None:
    async def scenario(app: Any, pilot: Any) -> None:
        await until(pilot, lambda: app.screen.chosen_runs())
        await pilot.press("p")
        await pilot.pause(0.3)
        assert isinstance(app.screen, RunsScreen) and app.playground is None
        app.push_screen(SampleScreen(app.screen.chosen_runs()[0]))
        await see(pilot, "Sample: done")
        await pilot.press("x", "ctrl+r")
        await see(pilot, "read-only")
        assert app.playground.engine.pid is None

    before = sorted(path for path in space.rglob("*"))
    drive(space, scenario, is_read_only=True)
    assert sorted(path for path in space.rglob("*")) == before
