"""启动界面，由键盘驱动，起的是真的训练与真的准备。约二十秒。"""

import asyncio
import os
import subprocess
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from test_launch import here, parsed  # noqa: F401
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Static
from trainer_fork import ROOT

from nanogpt.i18n import use_language
from workbench import launch
from workbench.machine import has_infiniband
from workbench.screens.launch import LaunchScreen
from workbench.watched_run import WatchedRun
from workbench.widgets.key_list import KeyList
from workbench.widgets.launch_panes import DatasetPane, PresetPane
from workbench.widgets.option_form import OptionForm

Script = Callable[["Shell", Pilot[None]], Awaitable[None]]


class Shell(App[None]):
    """只有启动界面的应用：给它应用该给的几样，启动是真的。"""

    CSS_PATH = ROOT / "workbench" / "workbench.tcss"
    is_ascii = False

    def __init__(self, screen: LaunchScreen, is_read_only: bool = False):
        super().__init__()
        self.page, self.is_read_only, self.workspace = screen, is_read_only, Path.cwd()
        self.started: list[tuple[list[str], Path]] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.watched: list[Path] = []

    def on_mount(self) -> None:
        self.push_screen(self.page)

    def start_run(self, command: list[str], out_dir: Path) -> bool:
        self.started.append((command, out_dir))
        self.processes.append(launch.start(command, out_dir))
        return True

    def open_monitor(self, out_dir: Path) -> None:
        self.watched.append(out_dir)


def drive(screen: LaunchScreen, script: Script, size: tuple[int, int] = (80, 24), is_read_only: bool = False) -> Shell:
    app = Shell(screen, is_read_only)

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await app.workers.wait_for_complete()
            await script(app, pilot)
        for process in app.processes:
            process.wait(60)

    asyncio.run(run())
    return app


def text_of(app: App[None], selector: str) -> str:
    return str(app.screen.query_one(selector, Static).visual)


def shown(app: App[None]) -> str:
    """屏幕上的全部文字。"""
    return "\n".join("".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips())


async def until(pilot: Pilot[None], condition: Callable[[], bool], seconds: float = 30) -> None:
    for _turn in range(int(seconds / 0.05)):
        if condition():
            return
        await pilot.pause(0.05)
    raise AssertionError("waited too long\n" + shown(pilot.app))


async def set_key(pilot: Pilot[None], name: str, text: str) -> None:
    """在「全部键」那页按名字找到键，改成 `text`。"""
    await pilot.press("4", "/", *name, "enter", "enter", "ctrl+u", *text, "enter", "escape")


@pytest.mark.usefixtures("here")
def test_from_preset_to_a_run_by_keys_alone() -> None:
    """选预设、改一个键、启动：跑的就是显示的命令，目录与监视都对。"""
    seen = {}

    async def script(app: Shell, pilot: Pilot[None]) -> None:
        await pilot.press("g", "enter")
        assert app.page.draft is not None and app.page.draft.preset == "tiny"
        await set_key(pilot, "learning_rate", "5e-3")
        seen["command"] = app.page.command_lines()[0]
        assert "--learning_rate=5e-3" in seen["command"] and "tiny" in text_of(app, "#title")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: bool(app.watched))

    app = drive(LaunchScreen(), script)
    (command, out_dir), = app.started
    assert launch.command_line(command) == seen["command"] and app.watched == [out_dir]
    assert app.processes[0].returncode == 0, launch.console_tail(out_dir)
    saved = tomllib.loads((out_dir / "config.toml").read_text(encoding="utf-8"))
    assert saved["learning_rate"] == 5e-3 and saved["out_dir"] == str(out_dir) and out_dir.parent == Path("runs")


@pytest.mark.usefixtures("here")
def test_bad_input_is_shown_instead_of_started() -> None:
    async def script(app: Shell, pilot: Pilot[None]) -> None:
        await set_key(pilot, "n_head", "3")
        # 边改边说，不等到启动
        assert "n_head cannot be 3" in text_of(app, "#problem") and "fix:" in text_of(app, "#problem")
        await pilot.press("f5")
        await pilot.pause(0.3)
        assert "n_head cannot be 3" in shown(app) and not app.started
        await pilot.press("/", *"n_head", "enter", "d", "escape")
        await set_key(pilot, "block_size", "99999")
        assert text_of(app, "#problem") == ""
        await pilot.press("f5")
        await until(pilot, lambda: "block_size=99999" in text_of(app, "#problem"))
        assert len(text_of(app, "#problem").splitlines()) <= 3

    app = drive(LaunchScreen("tiny"), script)
    assert not app.started and not Path("runs").exists()


@pytest.mark.usefixtures("here")
def test_an_illegal_value_is_said_as_one_types() -> None:
    async def script(app: Shell, pilot: Pilot[None]) -> None:
        form = app.screen.query_one("#train-form", OptionForm)
        await pilot.press("4", "/", *"dropout", "enter", "enter", "ctrl+u", "2")
        assert "dropout cannot be '2'" in text_of(app, "#train-form .help")
        assert "0 <= dropout < 1" in text_of(app, "#train-form .help")
        # 回车不收，改好了才收
        await pilot.press("enter")
        assert form.values.pending == "2" and form.values.value("dropout") == 0.1
        await pilot.press("ctrl+u", *"0.5", "enter")
        assert form.values.value("dropout") == 0.5 and form.values.pending is None
        assert "was 0.1" in shown(app) and "* dropout" in shown(app)
        await pilot.press("d")
        assert form.values.value("dropout") == 0.1 and "was" not in shown(app)

    drive(LaunchScreen("tiny"), script)


@pytest.mark.usefixtures("here")
def test_undo_all_and_arrows_turn_the_pages() -> None:
    """`U` 把每个键还原成预设的值；左右键翻页，在编辑框里则移动光标。"""
    async def script(app: Shell, pilot: Pilot[None]) -> None:
        await set_key(pilot, "n_embd", "32")
        await set_key(pilot, "dropout", "0.5")
        assert app.page.draft is not None and len(app.page.draft.train.edits) == 2
        await pilot.press("U")
        assert not app.page.draft.train.edits and "was" not in shown(app)
        assert "changed keys" not in text_of(app, "#title") and "--dropout" not in app.page.command_lines()[0]
        for key, tab in (("left", "machine"), ("left", "dataset"), ("h", "preset"), ("right", "dataset"),
                         ("l", "machine"), ("right", "keys"), ("right", "preset")):
            await pilot.press(key)
            assert app.page._tab == tab, key
        await pilot.press("4", "enter", "left")
        assert app.page._tab == "keys"

    drive(LaunchScreen("tiny"), script)


@pytest.mark.usefixtures("here")
def test_choices_cycle_and_search_narrows() -> None:
    async def script(app: Shell, pilot: Pilot[None]) -> None:
        form = app.screen.query_one("#train-form", OptionForm)
        await pilot.press("4")
        # 每一个键都在表单里
        assert {row.id for row in form.keys.options} - {None} == set(form.values.options)
        await pilot.press("/", *"compile", "enter")
        assert [row.id for row in form.keys.options if row.id] == ["compile"]
        values = []
        for _turn in range(3):
            await pilot.press("space")
            values.append(form.values.value("compile"))
        assert set(map(str, values)) == {"auto", "True", "False"}
        await pilot.press("escape", "/", *"zzz")
        assert "no key has this" in shown(app)
        await pilot.press("escape")
        assert len([row for row in form.keys.options if row.id]) == len(form.values.options)

    drive(LaunchScreen("tiny"), script)


@pytest.mark.usefixtures("here")
def test_ranks_and_nodes_show_their_commands() -> None:
    async def script(app: Shell, pilot: Pilot[None]) -> None:
        await pilot.press("3", "tab", "enter", "ctrl+u", *"4", "enter")
        assert app.page.draft is not None
        assert "--nproc_per_node=4" in text_of(app, "#command Static")
        assert "--gradient_accumulation_steps=4" in text_of(app, "#command Static")
        await pilot.press("j", "j", "enter", "ctrl+u", *"2", "enter")
        lines = app.page.command_lines()
        assert len(lines) == 2 and "--node_rank=1" in lines[1] and "--nnodes=2" in lines[0]
        assert app.page.draft.train.value("gradient_accumulation_steps") == 8
        assert app.page.draft.machine.value("has_infiniband") == has_infiniband()
        await pilot.press("j", "j", "j", *["space"] * has_infiniband())
        assert all(line.startswith("NCCL_IB_DISABLE=1 ") for line in app.page.command_lines())
        await pilot.press("y")
        assert app.clipboard == "\n".join(app.page.command_lines())
        # 每台一条，逐台复制
        await pilot.press("N")
        await until(pilot, lambda: "Machine 0 of 2" in shown(app))
        await pilot.press("j", "y")
        assert "Machine 1 of 2  (copied)" in shown(app) and "127.0.0.1:29500" in shown(app)
        assert app.clipboard == app.page.command_lines()[1] and "--node_rank=1" in app.clipboard
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is app.page)

    drive(LaunchScreen("tiny"), script)


FAKE_SMI = """#!/bin/sh
case "$*" in *--query-gpu=index*)
printf '0, GPU-aaaa, 81559, NVIDIA H100\\n1, GPU-bbbb, 81559, NVIDIA H100\\n2, GPU-cccc, 24576, [red]RTX\\n';;
esac
"""


@pytest.mark.usefixtures("here")
def test_several_gpus_are_taken_by_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """没有 GPU 的机器上，用一个假的 `nvidia-smi` 充当驱动：空格选上或放下一块，每块一个进程。"""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(FAKE_SMI, encoding="utf-8")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    async def script(app: Shell, pilot: Pilot[None]) -> None:
        draft = app.page.draft
        assert draft is not None
        await pilot.press("3")
        await until(pilot, lambda: "cuda:2" in shown(app))
        assert "NVIDIA H100  80 GiB" in shown(app) and "[red]RTX  24 GiB" in shown(app)
        await pilot.press("g", "j", "space", "j", "j", "space")
        command = app.page.command_lines()[0]
        assert command.startswith("CUDA_VISIBLE_DEVICES=0,2 ") and "--nproc_per_node=2" in command
        assert "* cuda:0" in shown(app) and "* cuda:2" in shown(app) and "* cuda:1" not in shown(app)
        assert "--device=auto" in command and not text_of(app, "#problem")
        await pilot.press("space", "k", "k", "space")
        assert "CUDA_VISIBLE" not in app.page.command_lines()[0] and not draft.machine.edits
        await pilot.press("G", "space")
        assert "only GPUs are taken together, not cpu" in text_of(app, "#problem")

    drive(LaunchScreen("tiny"), script)


@pytest.mark.usefixtures("here")
def test_preparing_from_the_screen() -> None:
    """没备好的数据集：启动说怎么办；按 `p` 准备，看得到输出，备好后词表与轮数就有了；取消也行。"""
    for name, body in (("quick", "from conftest import make_tiny_dataset as make\nfrom pathlib import Path\n"
                        "print('[red]working\\x1b]52;c;aGk=\\x07[/bold]')\nmake(Path(__file__).parent)"),
                       ("slow", "import time\nprint('begun', flush=True)\ntime.sleep(60)")):
        folder = Path("data", name)
        folder.mkdir()
        (folder / "prepare.py").write_text(body, encoding="utf-8")

    async def script(app: Shell, pilot: Pilot[None]) -> None:
        draft = app.page.draft
        assert draft is not None
        pane = app.screen.query_one(DatasetPane)
        keys = pane.query_one(KeyList)
        names = [row.id for row in keys.options]
        await pilot.press("2")
        keys.highlighted = names.index("quick")
        await pilot.press("enter")
        assert draft.train.value("dataset") == "quick" and "?" in text_of(app, "#figures Static")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "not prepared" in text_of(app, "#problem"))
        # 启动不成，就翻到能准备它的那一页
        await until(pilot, lambda: app.page._tab == "dataset")
        await pilot.press("p")
        await until(pilot, lambda: draft.dataset() is not None)
        await until(pilot, lambda: "prepared" in str(pane.query_one(".log Static", Static).visual).split("--")[-1])
        log = str(pane.query_one(".log Static", Static).visual)
        assert "[red]working\\x1b]52" in log and "[/bold]" in log and "\x1b" not in shown(app)
        await until(pilot, lambda: "?" not in text_of(app, "#figures Static") and not text_of(app, "#problem"))
        await pilot.press("2")
        keys.highlighted = names.index("slow")
        await pilot.press("p")
        await until(pilot, lambda: "begun" in shown(app))
        await pilot.press("x")
        await until(pilot, lambda: "cancelled" in shown(app))

    # 子进程要找得到 `conftest` 里做数据的函数
    os.environ["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    app = drive(LaunchScreen("tiny"), script)
    assert not app.started


@pytest.mark.usefixtures("here")
def test_saving_a_preset() -> None:
    async def script(app: Shell, pilot: Pilot[None]) -> None:
        await set_key(pilot, "n_embd", "32")
        await pilot.press("ctrl+s", "ctrl+u", *"mine", "enter")
        assert "saved" in shown(app) and app.page.draft is not None
        assert app.page.draft.preset == "mine" and not app.page.draft.train.edits
        await set_key(pilot, "n_embd", "48")
        # 同名的要再按一次回车
        await pilot.press("ctrl+s", "enter")
        await until(pilot, lambda: "already a preset mine" in shown(app))
        assert "n_embd = 32" in Path("presets/mine.toml").read_text(encoding="utf-8")
        await pilot.press("enter")
        assert "n_embd = 48" in Path("presets/mine.toml").read_text(encoding="utf-8")
        await pilot.press("ctrl+s", "ctrl+u", *"../x", "enter")
        await until(pilot, lambda: "is not a name" in shown(app))
        await pilot.press("escape")
        assert app.screen is app.page

    drive(LaunchScreen("tiny"), script)
    assert "mine" in str(sorted(Path("presets").iterdir())) and not Path("x.toml").exists()


@pytest.mark.usefixtures("here")
def test_read_only_starts_and_writes_nothing() -> None:
    Path("data/raw").mkdir()
    Path("data/raw/prepare.py").write_text("print('never')", encoding="utf-8")
    before = sorted(path for path in Path().rglob("*"))

    async def script(app: Shell, pilot: Pilot[None]) -> None:
        assert "read-only" in text_of(app, "#title")
        for keys in (("ctrl+r",), ("ctrl+s",), ("2", "j", "p")):
            await pilot.press("1", *keys)
            await pilot.pause(0.2)
            assert "--read-only" in text_of(app, "#problem")
            assert app.screen is app.page

    app = drive(LaunchScreen("tiny"), script, is_read_only=True)
    assert not app.started and sorted(path for path in Path().rglob("*")) == before


@pytest.mark.usefixtures("here")
def test_chinese_keeps_what_was_done() -> None:
    """换语言：部件重建，改动、页码、正在打的字都在；预设的标题换成中文。"""
    async def script(app: Shell, pilot: Pilot[None]) -> None:
        await set_key(pilot, "n_embd", "32")
        await pilot.press("/", *"batch", "enter", "enter", "ctrl+u", *"oops")
        use_language("zh")
        await app.screen.recompose()
        await pilot.pause()
        form = app.screen.query_one("#train-form", OptionForm)
        assert form.values.value("n_embd") == 32 and form.values.search == "batch"
        assert form.edit_input.value == "oops" and form.edit_input.has_class("-open") and app.page._tab == "keys"
        await pilot.press("escape", "escape", "1")
        rows = [str(row.prompt) for row in app.screen.query_one(PresetPane).query_one(KeyList).options]
        assert any("快速开始" in row for row in rows)

    try:
        drive(LaunchScreen("tiny"), script, size=(200, 50))
    finally:
        use_language("en")


@pytest.mark.usefixtures("here")
def test_hostile_text_is_literal() -> None:
    """预设的标题与说明、坏预设的报错、运行目录的名字都可能带着转义与标记。"""
    Path("presets/evil.toml").write_text(
        '[about]\ntitle = "[/bold]\\u001b]52;c;aGk=\\u0007[@click=app.bell()]x[/]"\n'
        'description = "\\u202e[red]\\u001b[2J"\nneeds = "[/]\\u001b"\n', encoding="utf-8")
    Path("presets/broken.toml").write_text('"[/bold]\\u001b[2J" = 1\n', encoding="utf-8")
    folder = Path("runs", "[/red]\x1b[2J")
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("n_layer = 2\n", encoding="utf-8")

    async def script(app: Shell, pilot: Pilot[None]) -> None:
        await pilot.press("home")
        for _row in range(4):
            await pilot.press("1")
            text = shown(app)
            assert "\x1b" not in text and "\u202e" not in text
            await pilot.press("enter", "1", "j")
        assert "[/bold]\\x1b]52;c;aGk=\\x07[@click=app.bell()]x" in shown(app)
        assert "[/bold]\\x1b[2J" in text_of(app, "#problem") or app.page.draft is not None

    drive(LaunchScreen("tiny"), script, size=(160, 40))

    async def cloned(app: Shell, _pilot: Pilot[None]) -> None:
        assert "\x1b" not in shown(app) and "[/red]" in shown(app)

    drive(LaunchScreen(clone_of=WatchedRun(folder)), cloned)


@pytest.mark.usefixtures("here")
def test_fits_80_by_24() -> None:
    """每一页在 80×24 上：命令、估算、页脚都在，没有一行被顶出屏幕。"""
    async def script(app: Shell, pilot: Pilot[None]) -> None:
        for tab in "1234":
            await pilot.press(tab)
            text = shown(app)
            assert len(text.splitlines()) == 24
            for part in ("nanogpt.train tiny", "--out_dir=runs/", "parameters", "epochs", "Start", "All keys"):
                assert part in text, (tab, part, text)
        assert "Search" in text

    drive(LaunchScreen("tiny"), script)


@pytest.mark.usefixtures("here")
def test_plain_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    """只认 ASCII 的终端：每一页都不含画不出的字形。"""
    monkeypatch.setattr(Shell, "is_ascii", True)

    async def script(app: Shell, pilot: Pilot[None]) -> None:
        for tab in "1234":
            await pilot.press(tab)
            lines = [line for line in shown(app).splitlines() if not line.isascii()]
            assert not lines, lines

    drive(LaunchScreen("tiny"), script)
