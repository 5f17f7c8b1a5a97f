"""采样界面：真的检查点、真的采样进程。约二十秒，多半在载入 torch。"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from test_launch import here  # noqa: F401
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input, Static, TextArea

from nanogpt.i18n import use_language
from workbench.messages import RunsUpdated
from workbench.sampling import Sampling, sampling_command
from workbench.screens.sample import SampleScreen
from workbench.watched_run import WatchedRun

Script = Callable[["Shell", Pilot[None]], Awaitable[None]]


class Shell(App[None]):
    """只有采样界面的应用。"""

    def __init__(self, screen: SampleScreen):
        super().__init__()
        self.page, self.workspace, self.is_read_only = screen, Path.cwd(), False

    def on_mount(self) -> None:
        self.push_screen(self.page)


def drive(screen: SampleScreen, script: Script, size: tuple[int, int] = (80, 24)) -> None:
    async def run() -> None:
        app = Shell(screen)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await script(app, pilot)

    asyncio.run(run())


async def until(pilot: Pilot[None], condition: Callable[[], bool], seconds: float = 60) -> None:
    for _turn in range(int(seconds / 0.05)):
        if condition():
            return
        await pilot.pause(0.05)
    raise AssertionError("waited too long\n" + shown(pilot.app))


def shown(app: App[Any]) -> str:
    return "\n".join("".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips())


def status(app: App[Any]) -> str:
    return str(app.screen.query_one("#status", Static).visual)


def set_field(app: App[Any], name: str, text: str) -> None:
    app.screen.query_one(f"#{name}", Input).value = text


@pytest.fixture
def run(here: Path, fork_train: Callable[..., Any]) -> WatchedRun:  # noqa: F811, ARG001
    """练了六步的极小模型，检查点在 `runs/done`。"""
    found = fork_train("--out_dir=runs/done")
    assert found.returncode == 0, found.output
    watched = WatchedRun(Path("runs/done"))
    watched.refresh()
    return watched


def test_samples_stream_in(run: WatchedRun) -> None:
    """提示与输出都在屏幕上；同一种子同样的文字，再来一次换种子。"""
    outputs = []

    async def script(app: Shell, pilot: Pilot[None]) -> None:
        assert "checkpoint of iter 6" in status(app)
        app.screen.query_one("#prompt", TextArea).text = "def run"
        set_field(app, "max_new_tokens", "40")
        for keys in ("ctrl+r", "f5", "ctrl+n"):
            await pilot.press(keys)
            assert app.page.sampling is not None
            await until(pilot, lambda: app.page.sampling is None)
            assert status(app) == "done", status(app)
            outputs.append(app.page.output)
        assert app.screen.query_one("#seed", Input).value == "1338" and "def run" in shown(app)

    drive(SampleScreen(run), script)
    assert outputs[0] == outputs[1] != outputs[2]
    assert all(text.startswith("def run") and len(text) > len("def run") + 40 for text in outputs)


def test_values_are_checked_as_one_types(run: WatchedRun) -> None:
    async def script(app: Shell, pilot: Pilot[None]) -> None:
        for name, text, said in (("temperature", "-1", "temperature cannot be"), ("top_k", "x", "top_k cannot be"),
                                 ("max_new_tokens", "0", "max_new_tokens >= 1")):
            before = app.screen.query_one(f"#{name}", Input).value
            set_field(app, name, text)
            await pilot.pause()
            assert said in status(app) or "legal: whole number >= 1" in status(app)
            await pilot.press("ctrl+r")
            assert app.page.sampling is None
            set_field(app, name, before)
            await pilot.pause()
            assert "checkpoint of iter" in status(app)

    drive(SampleScreen(run), script)


def test_a_bad_prompt_says_why(run: WatchedRun) -> None:
    """词表之外的字符：显示采样命令自己的三行话；编不成 UTF-8 的不启动。"""
    async def script(app: Shell, pilot: Pilot[None]) -> None:
        area = app.screen.query_one("#prompt", TextArea)
        area.text = "你好\x1b[2J"
        await pilot.pause()
        await pilot.press("ctrl+r")
        await until(pilot, lambda: app.page.sampling is None)
        assert "exit code 2" in status(app) and "fix:" in status(app) and "Traceback" not in status(app)
        area.text = "lone \ud800"
        await pilot.pause()
        await pilot.press("ctrl+r")
        assert app.page.sampling is None and "not UTF-8" in status(app)

    drive(SampleScreen(run), script)


def test_cancel_kills_it(run: WatchedRun) -> None:
    pids = []

    async def script(app: Shell, pilot: Pilot[None]) -> None:
        set_field(app, "max_new_tokens", "1000000")
        await pilot.pause()
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(app.page.output) > 50)
        assert app.page.sampling is not None
        pids.append(app.page.sampling._process.pid)
        await pilot.press("escape")
        await until(pilot, lambda: app.page.sampling is None)
        assert status(app) == "cancelled" and app.screen is app.page
        # 离开界面也不留下进程
        await pilot.press("ctrl+r")
        await until(pilot, lambda: app.page.sampling is not None and len(app.page.output) > 5)
        pids.append(app.page.sampling._process.pid)

    drive(SampleScreen(run), script)
    for pid in pids:
        for _turn in range(200):
            time.sleep(0.01)
            try:
                os.waitpid(pid, os.WNOHANG)
                os.kill(pid, 0)
            except (ChildProcessError, ProcessLookupError):
                break
        else:
            raise AssertionError(f"{pid} is still alive")


def test_hostile_output_is_literal(run: WatchedRun) -> None:
    """提示里的标记与转义原样显示，一个控制字节也到不了终端。"""
    async def script(app: Shell, pilot: Pilot[None]) -> None:
        app.page.output = ""
        area = app.screen.query_one("#prompt", TextArea)
        area.text = "[/bold][@click=app.bell()]x"
        set_field(app, "max_new_tokens", "5")
        await pilot.pause()
        await pilot.press("ctrl+r")
        await until(pilot, lambda: app.page.sampling is None)
        assert app.screen.query_one("#output", TextArea).text.startswith("[/bold][@click=app.bell()]x"), status(app)
        # 模型写出转义序列时，走的是同一条路
        sampling = Sampling(run.out_dir, "x", {"max_new_tokens": "1"})
        sampling._text.append("\x1b]52;c;aGk=\x07\u202e")
        app.page.sampling = sampling
        app.page.show_new_text()
        await until(pilot, lambda: app.page.sampling is None)
        assert "\\x1b]52;c;aGk=\\x07\\u202e" in app.screen.query_one("#output", TextArea).text
        assert "\x1b" not in shown(app)

    drive(SampleScreen(run), script)


def test_no_checkpoint_yet(here: Path, fork_train: Callable[..., Any]) -> None:  # noqa: F811, ARG001
    """正在训练而还没存过的运行：说清楚何时会有；一存下就能采样。"""
    found = fork_train("--out_dir=runs/live", "--max_iters=200000", "--lr_decay_iters=200000", "--eval_interval=100000",
                       wait=False)
    try:
        watched = WatchedRun(Path("runs/live"))

        async def script(app: Shell, pilot: Pilot[None]) -> None:
            assert "There is no checkpoint yet. It saves the first one at iter 100000." in status(app)
            await pilot.press("ctrl+r")
            assert app.page.sampling is None
            use_language("zh")
            await app.screen.recompose()
            await pilot.pause()
            assert "100000" in status(app)
            use_language("en")
            (watched.out_dir / "ckpt.pt").touch()
            app.screen.post_message(RunsUpdated(False, {watched.out_dir}))
            await until(pilot, lambda: "still training" in status(app))

        for _turn in range(1500):
            time.sleep(0.02)
            watched.refresh()
            if watched.state.iter_count:
                break
        assert watched.status == "running"
        drive(SampleScreen(watched), script)
    finally:
        use_language("en")
        found.kill(9)
        found.wait()


def test_prompts_reach_the_command_unchanged(run: WatchedRun) -> None:
    """引号、开头的 `FILE:`、长提示都不变样。"""
    assert sampling_command(Path("x"), "'a'", {})[-1] == '--start="\'a\'"'
    for prompt in ("'quoted'", "a=b --seed=3\n", "x" * 150_000):
        sampling = Sampling(run.out_dir, prompt, {"max_new_tokens": "1", "num_samples": "1"})
        sampling._process.wait(60)
        sampling._reader.join(10)
        text = sampling.take()
        assert text.startswith(prompt), (prompt[:20], text[:40], sampling.outcome())
