"""`--read-only`：每一屏的每个键、命令面板里的每一项都试一遍，工作区与家目录一个字节不变，一个进程不起。约二十秒。"""

import fcntl
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import make_tiny_dataset, slow
from keys_tool import own_bindings
from pilot import drive, see, until, write_run
from textual.actions import SkipAction, parse

from nanogpt.i18n import use_language
from workbench.own_text import OwnText
from workbench.screens.doctor import DoctorScreen
from workbench.screens.launch import LaunchScreen
from workbench.screens.monitor import MonitorScreen
from workbench.screens.note import NoteScreen
from workbench.screens.own_text import OwnTextScreen
from workbench.screens.runs import RunsScreen
from workbench.screens.sample import SampleScreen
from workbench.screens.save_preset import SavePresetScreen
from workbench.widgets.launch_panes import DatasetPane, MachinePane
from workbench.widgets.option_form import OptionForm

# 只是看：离开应用、截图存到外面的由 Textual 自己管，不在这里试
LEAVING = ("quit", "suspend_process", "screenshot", "help_quit")
# 只读时也可以问的：有哪些 GPU、负载多少
ALLOWED = ("nvidia-smi",)
PROCESS_EVENTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.kill", "os.killpg"}
started: list[str] = []
is_listening = [False]


def _note_process(event: str, arguments: tuple[Any, ...]) -> None:
    if is_listening[0] and event in PROCESS_EVENTS:
        what = f"{event} {arguments}"
        if not any(name in what for name in ALLOWED):
            started.append(what)


# 审计钩子装上就拆不掉，所以用一个开关
sys.addaudithook(_note_process)


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """结束了的、断了的、停下的、还在跑的运行，没准备的数据集，自己的预设；家目录也在里面。"""
    for name in ("NO_COLOR", "SSH_CONNECTION", "TMUX", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    make_tiny_dataset(tmp_path / "data" / "tiny")
    (tmp_path / "data" / "raw").mkdir()
    (tmp_path / "data" / "raw" / "prepare.py").write_text("open('made', 'w')\n", encoding="utf-8")
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "own.toml").write_text('dataset = "tiny"\nmax_iters = 3\n', encoding="utf-8")
    for name, status in (("alpha", "finished"), ("beta", None), ("gamma", "stopped")):
        out_dir = write_run(tmp_path / "runs" / name, status=status, max_iters=1000)
        (out_dir / "config.toml").write_text('dataset = "tiny"\n', encoding="utf-8")
        (out_dir / "notes.md").write_text("a note\n", encoding="utf-8")
    live = write_run(tmp_path / "runs" / "live", status=None, max_iters=1000)
    with open(live / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        started.clear()
        is_listening[0] = True
        yield tmp_path
    is_listening[0] = False
    use_language("en")


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """每个文件的大小、修改时间、内容，每个目录的修改时间。"""
    return {str(path.relative_to(root)): (path.stat().st_mode, path.stat().st_mtime_ns,
                                          path.read_bytes() if path.is_file() else b"") for path in root.rglob("*")}


async def back_to(app: Any, pilot: Any, screen: type) -> None:
    """关掉刚打开的，回到要试的那一屏；它自己被关了就再开一次。"""
    use_language("en")
    while type(app.screen) not in (screen, RunsScreen):
        app.pop_screen()
        await pilot.pause()
    # 四个都标上：停得了的、续得了的、删得了的都在里面
    table = app.screen_stack[1]._table
    table.marked = {run.out_dir for run in app.store.runs.values()}
    if type(app.screen) is not screen:
        app.push_screen(OPENERS[screen](app))
        await until(pilot, lambda: type(app.screen) is screen)
        await pilot.pause(0.2)


def own_text() -> OwnText:
    """填好了的，回车就能做。"""
    own = OwnText()
    own.values["input"] = "presets/own.toml"
    return own


OPENERS: dict[type, Any] = {
    RunsScreen: lambda _app: None, MonitorScreen: lambda app: MonitorScreen(app.screen_stack[1].chosen_runs()),
    SampleScreen: lambda app: SampleScreen(app.screen_stack[1].chosen_runs()[0]),
    LaunchScreen: lambda _app: LaunchScreen("own"),
    OwnTextScreen: lambda _app: OwnTextScreen(own_text()), DoctorScreen: lambda _app: DoctorScreen("tiny"),
    NoteScreen: lambda app: NoteScreen(app.screen_stack[1].chosen_runs()[0])}


def own_actions(*owners: type) -> list[tuple[type, str]]:
    """各主人自己与它在工作台里的基类绑定的动作，此刻可不可用都算。"""
    return [(owner, action) for owner in owners
            for action in dict.fromkeys(binding.action for binding in own_bindings(owner))
            if action.split("(")[0] not in LEAVING]


@pytest.mark.parametrize("screen", list(OPENERS), ids=lambda screen: screen.__name__)
def test_every_binding(space: Path, screen: type) -> None:
    """每个绑定的动作绕过「此刻可用吗」直接调用，然后答「是」、按回车。"""
    before = tree(space)
    owners = [screen, *((DatasetPane, MachinePane, OptionForm) if screen is LaunchScreen else ())]
    tried = set()

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "alpha", "beta", "gamma", "read-only")
        await back_to(app, pilot, screen)
        for owner, action in own_actions(*owners):
            _place, name, arguments = parse(action)
            node = app.screen if owner is screen else app.screen.query(owner).first()
            if (method := getattr(node, f"action_{name}", None)) is None:
                continue
            try:
                result = method(*arguments)
                if inspect.isawaitable(result):
                    await result
            except SkipAction:
                pass
            await pilot.press("y", "enter")
            tried.add(name)
            await back_to(app, pilot, screen)
        assert not started, started
        assert tree(space) == before

    drive(space, scenario, (120, 40), is_read_only=True)
    print(screen.__name__, sorted(tried))
    assert len(tried) >= {RunsScreen: 15, MonitorScreen: 20, LaunchScreen: 8}.get(screen, 1), tried
    assert not started, started
    assert tree(space) == before


@slow
@pytest.mark.parametrize("screen", [RunsScreen, MonitorScreen], ids=lambda screen: screen.__name__)
def test_every_command_of_the_palette(space: Path, screen: type) -> None:
    before, tried = tree(space), set()

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "alpha", "beta", "gamma", "read-only")
        await back_to(app, pilot, screen)
        for title in [command.title for command in app.get_system_commands(app.screen)]:
            now = {command.title: command for command in app.get_system_commands(app.screen)}
            if title != "quit" and title in now:
                await now[title].callback()
                await pilot.press("y", "enter")
                tried.add(title)
                await back_to(app, pilot, screen)

    drive(space, scenario, (120, 40), is_read_only=True)
    assert len(tried) > 10 and not {"stop", "resume", "delete", "kill", "sample", "clone"} & tried, tried
    assert not started, started
    assert tree(space) == before


def test_the_watch_notices(space: Path) -> None:
    """反证：不是只读时，同样的键确实会写、会起进程。"""
    before = tree(space)

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "alpha")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
        await pilot.press("w")
        await see(pilot, "Written")
        assert app.start_run([sys.executable, "-c", "1"], Path("runs/alpha"))

    drive(space, scenario, (120, 40))
    assert started and tree(space) != before


def test_saving_and_noting_write_nothing(space: Path) -> None:
    """绕过键直接打开的对话框也写不了：笔记、存预设。"""
    before = tree(space)

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "alpha", "read-only")
        app.push_screen(LaunchScreen("own"))
        await until(pilot, lambda: isinstance(app.screen, LaunchScreen) and app.screen.draft)
        app.push_screen(SavePresetScreen(app.screen.draft))
        await until(pilot, lambda: isinstance(app.screen, SavePresetScreen))
        await pilot.press(*"mine", "enter", "enter")
        assert tree(space) == before
        while not isinstance(app.screen, RunsScreen):
            app.pop_screen()
            await pilot.pause()
        app.push_screen(NoteScreen(app.screen.chosen_runs()[0]))
        await until(pilot, lambda: isinstance(app.screen, NoteScreen))
        await pilot.press(*" more", "enter")
        await pilot.pause(0.3)

    drive(space, scenario, is_read_only=True)
    assert tree(space) == before and not started


def test_the_command_line_refuses(space: Path) -> None:
    """没有终端时 `--read-only` 不跑快速开始。"""
    import subprocess

    is_listening[0] = False
    before = tree(space)
    done = subprocess.run([sys.executable, "-m", "workbench", "--read-only"], cwd=space, capture_output=True, text=True,
                          timeout=60, stdin=subprocess.DEVNULL, check=False,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])})
    assert done.returncode == 2 and "--read-only" in done.stderr and tree(space) == before
