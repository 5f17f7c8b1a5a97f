"""数据的两屏，由键盘驱动：自己的文本（预览、报错、准备、取消、接着做），检查。准备与检查都是真的进程。约一分钟。"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_tiny_dataset, slow
from hostile import CORPUS, FORBIDDEN, as_name
from pilot import drive, screen_text, see, until
from textual.events import Paste
from trainer_fork import ROOT

from nanogpt.dataset import open_dataset
from nanogpt.i18n import use_language
from workbench.screens.doctor import DoctorScreen
from workbench.screens.launch import LaunchScreen
from workbench.screens.own_text import OwnTextScreen
from workbench.screens.preparing import PreparingScreen
from workbench.widgets.path_input import PathInput

TALE = "Once upon a time there was a small model.\nIt read and read.\n" * 30
PRESET = 'dataset = "tiny"\nn_layer = 1\nn_head = 1\nn_embd = 8\nblock_size = 16\nmax_iters = 2\ndevice = "cpu"\n'


@pytest.fixture(autouse=True)
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("NO_COLOR", "SSH_CONNECTION", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    make_tiny_dataset(tmp_path / "data" / "tiny")
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "small.toml").write_text(PRESET, encoding="utf-8")
    (tmp_path / "tale.txt").write_text(TALE, encoding="utf-8")
    yield tmp_path
    use_language("en")


async def open_data_page(app: Any, pilot: Any) -> LaunchScreen:
    page = LaunchScreen("small")
    await app.push_screen(page)
    await until(pilot, lambda: app.screen is page and page._devices)
    await pilot.press("2")
    await see(pilot, "Prepare")
    return page


async def open_own(app: Any, pilot: Any, text: str = "") -> OwnTextScreen:
    """启动界面的数据页，再按 `a`。"""
    await open_data_page(app, pilot)
    await pilot.press("a")
    await until(pilot, lambda: isinstance(app.screen, OwnTextScreen))
    await fill(app, pilot, text)
    return app.screen


async def fill(app: Any, pilot: Any, text: str) -> None:
    """光标下的框里换成 `text`，一次粘贴：比逐键快得多。"""
    await pilot.press("ctrl+u")
    if text:
        app.post_message(Paste(text))
        await until(pilot, lambda: app.screen.focused.value == text)


def own_path(app: Any) -> str:
    return str(app.screen.query_one(PathInput).value)


def values(app: Any) -> dict[str, str]:
    return dict(app.screen.own.values)


@pytest.mark.parametrize("size", [(80, 24), pytest.param((200, 50), marks=slow)])
def test_from_a_path_to_the_launch_form(space: Path, size: tuple[int, int]) -> None:
    """打几个字、Tab 补全、看见预览、换分词器、回车：数据集做好了，也选上了。"""

    async def scenario(app: Any, pilot: Any) -> None:
        screen = await open_own(app, pilot, "ta")
        await pilot.press("tab")
        assert own_path(app) == "tale.txt"
        await see(pilot, "Once upon a time", "1,800, 1.00 characters", "split by position", "utf-8")
        await pilot.press("down", "down", "right", "l", "l")
        assert values(app)["tokenizer"] == "bpe"
        await see(pilot, "vocabulary 4096", "--tokenizer=bpe")
        await pilot.press("down", "ctrl+u", *"280")
        await until(pilot, lambda: screen.shown and screen.shown["vocab_size"] == 280)
        assert "nanogpt.prepare tale --input tale.txt --tokenizer=bpe --vocab-size=280" in " ".join(
            screen_text(app).split())
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, LaunchScreen))
        await see(pilot, "tale is ready: ctrl+r trains on it", "--dataset=tale")
        assert app.screen.draft.train.value("dataset") == "tale"

    drive(space, scenario, size)
    dataset = open_dataset("tale", space)
    assert dataset.vocab_size == 280 and dataset.tokens("train") > 100


def test_errors_as_one_types(space: Path) -> None:
    (space / "rows.jsonl").write_text('{"body": "one"}\n{"body": "two"}\n', encoding="utf-8")
    (space / "photo.txt").write_bytes(b"\x89PNG\r\n" + os.urandom(500))

    async def scenario(app: Any, pilot: Any) -> None:
        await open_own(app, pilot)
        # `j`、`k` 在框里是字
        await pilot.press(*"jk.txt")
        assert own_path(app) == "jk.txt"
        await see(pilot, "jk.txt does not exist", "pagedown  Preview")
        await fill(app, pilot, "nowhere.txt")
        await see(pilot, "nowhere.txt does not exist", "fix:")
        await pilot.press("enter")
        assert isinstance(app.screen, OwnTextScreen) and not (space / "data" / "nowhere").exists()
        await pilot.press("ctrl+u")
        await see(pilot, "files, folders or globs")
        await pilot.press("enter")
        await see(pilot, "no text yet")
        await fill(app, pilot, "photo.txt")
        await see(pilot, "it looks like PNG")
        await fill(app, pilot, "rows.jsonl")
        await see(pilot, "it has: body")
        await pilot.press("down", "down", "down", "down", "down", *"body")
        assert values(app)["column"] == "body"
        await see(pilot, "jsonl", "--column=body")
        await pilot.press("down", "ctrl+u", "2")
        await see(pilot, "between 0 and 1")
        await pilot.press("ctrl+u", *"half")
        await see(pilot, "validation cannot be 'half'")
        # 名字不对也当场说
        await pilot.press("ctrl+u", *"0.5", "up", "up", "up", "up", "up", *"../up")
        await see(pilot, "'../up' is not a dataset name")
        await pilot.press("enter")
        await pilot.pause(0.2)
        assert isinstance(app.screen, OwnTextScreen)

    drive(space, scenario, (100, 30))
    assert sorted(path.name for path in (space / "data").iterdir()) == ["tiny"]


def test_one_enter_while_the_preview_is_on_its_way(space: Path) -> None:
    """打得快的人不必等预览；同名的要再按一次。"""

    async def scenario(app: Any, pilot: Any) -> None:
        await open_own(app, pilot, "tale.txt")
        await pilot.press("enter")
        await see(pilot, "tale is ready")
        first = (space / "data" / "tale" / "meta.json").stat().st_mtime_ns
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, OwnTextScreen))
        # 上次填的还在；名字已避开
        assert own_path(app) == "tale.txt"
        await see(pilot, "tale-2")
        await pilot.press("down", *"tale")
        await until(pilot, lambda: not app.screen.is_asking)
        await pilot.press("enter")
        await see(pilot, "there is a dataset tale already")
        await pilot.press("enter")
        await see(pilot, "tale is ready")
        assert (space / "data" / "tale" / "meta.json").stat().st_mtime_ns > first

    drive(space, scenario)


def test_cancelled_it_goes_on_where_it_stopped(space: Path) -> None:
    """取消之后留着做好的部分；再按回车做完，与一口气做完的一样。"""
    (space / "long.txt").write_text("".join(f"{number} bottles on the wall, {number * 7} in all.\n"
                                            for number in range(400_000)), encoding="utf-8")

    async def scenario(app: Any, pilot: Any) -> None:
        await open_own(app, pilot, "long.txt")
        await pilot.press("down", "down", "right")
        await until(pilot, lambda: app.screen.shown and not app.screen.is_asking)
        await see(pilot, "about")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, PreparingScreen))
        folder = space / "data" / "long"
        await until(pilot, lambda: list(folder.glob(".parts-*")))
        await pilot.press("escape")
        await see(pilot, "not done; enter goes on where it stopped")
        assert not (folder / "train.bin").exists()
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, LaunchScreen), 60)

    drive(space, scenario)
    dataset = open_dataset("long", space)
    text = (space / "long.txt").read_bytes()
    ids = np.concatenate([np.fromfile(dataset.path(split), dtype="<u2") for split in ("train", "val")])
    assert ids.astype(np.uint8).tobytes() == text


def test_a_failure_is_shown(space: Path) -> None:
    """开工之后才看得出的坏输入：说在准备的那一屏，回来还能改。"""
    (space / "short.txt").write_text("x", encoding="utf-8")

    async def scenario(app: Any, pilot: Any) -> None:
        await open_own(app, pilot, "short.txt")
        await until(pilot, lambda: app.screen.shown and not app.screen.is_asking)
        await pilot.press("enter")
        await see(pilot, "short.txt holds 1 characters", "fix: use more text", "exit code 2; esc closes")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, OwnTextScreen))
        assert own_path(app) == "short.txt"

    drive(space, scenario)
    assert not (space / "data" / "short").exists()


def test_paste_folders_and_candidates(space: Path) -> None:
    (space / "two books").mkdir()
    for name in ("alpha.txt", "beta.txt"):
        (space / "two books" / name).write_text(TALE, encoding="utf-8")

    async def scenario(app: Any, pilot: Any) -> None:
        screen = await open_own(app, pilot)
        await see(pilot, "data/", "two books/", "tale.txt")
        app.post_message(Paste("two books/alpha.txt\r\ntale.txt\r\n"))
        await until(pilot, lambda: own_path(app) == "'two books/alpha.txt' tale.txt")
        await until(pilot, lambda: screen.shown and screen.shown["files"] == 2)
        await pilot.press("ctrl+u")
        app.post_message(Paste("two books/beta.txt"))
        await until(pilot, lambda: screen.shown and screen.shown["first_file"] == "beta.txt")
        await pilot.press("ctrl+u", "t", "w", "tab")
        assert own_path(app) == r"two\ books/"
        await see(pilot, "alpha.txt", "beta.txt")
        await pilot.press("tab")
        assert own_path(app) == r"two\ books/alpha.txt"
        await pilot.press("tab")
        assert own_path(app) == r"two\ books/beta.txt"
        # 轮到一个目录时，右键进去
        await pilot.press("ctrl+u", "tab", "tab", "tab")
        assert own_path(app) == r"two\ books/"
        await pilot.press("right")
        await see(pilot, "beta.txt")
        await until(pilot, lambda: screen.shown and screen.shown["estimated_documents"] == 2)
        await see(pilot, "split by document")

    drive(space, scenario)


@slow
def test_both_languages_and_the_palette(space: Path) -> None:
    async def scenario(app: Any, pilot: Any) -> None:
        screen = await open_own(app, pilot, "tale.txtx")
        await see(pilot, "does not exist")
        await pilot.press("ctrl+l")
        await see(pilot, "由自己的文本做数据集", "不存在", "分词器")
        await pilot.press("backspace")
        await see(pilot, "按位置划分", "它的 token")
        await pilot.press("ctrl+l")
        await see(pilot, "split by position")
        await pilot.press("f1")
        await see(pilot, "Keys of this screen", "make the dataset")
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        await pilot.press("ctrl+y")
        assert "nanogpt.prepare tale --input tale.txt" in app.clipboard
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, LaunchScreen))
        # 别的页上也找得到
        await pilot.press("4")
        commands = {command.title: command for command in app.get_system_commands(app.screen)}
        await commands["Check"].callback()
        await until(pilot, lambda: isinstance(app.screen, DoctorScreen))

    drive(space, scenario, (120, 40))


def test_the_check_shows_what_is_wrong(space: Path) -> None:
    """种下的毛病、事实、随机的文字都在；换语言重查；没有的数据集也有答复。"""
    folder = space / "data" / "leaky"
    make_tiny_dataset(folder)
    ids = np.fromfile(folder / "train.bin", dtype="<u2")
    ids[2000:4000].tofile(folder / "val.bin")

    async def scenario(app: Any, pilot: Any) -> None:
        page = await open_data_page(app, pilot)
        page.query_one("DatasetPane").show_new("leaky")
        await pilot.press("c")
        await see(pilot, "Check of leaky", "error: 100% of random passages", "fix:", "block_size  16")
        text = screen_text(app)
        assert str(space) not in text and "data/leaky/val.bin" in text
        await pilot.press("G")
        await see(pilot, "A random place")
        await pilot.press("g", "j", "j")
        await see(pilot, "Most frequent tokens", "█")
        await pilot.press("g", "ctrl+l")
        await see(pilot, "检查：leaky", "错误：", "最常见的 token")
        await pilot.press("ctrl+l", "r")
        await see(pilot, "error: 100%")
        await pilot.press("y")
        assert app.clipboard.endswith("nanogpt.prepare --check leaky --block-size=16")
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is page)
        page.query_one("DatasetPane").show_new("tiny")
        await pilot.press("c")
        await see(pilot, "nothing wrong found", "train", "13,000 tokens")
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is page)
        app.push_screen(DoctorScreen("nothing"))
        await see(pilot, "error: ", "nothing", "fix:")

    drive(space, scenario, (100, 30))


def test_leaving_ends_the_processes(space: Path) -> None:
    """预览与检查没做完就离开：进程也不留。"""
    (space / "big.txt").write_text(TALE * 20_000, encoding="utf-8")

    def children() -> list[str]:
        found = []
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="utf-8").split():
            with contextlib.suppress(OSError):
                found.append(Path("/proc", pid, "cmdline").read_bytes().decode(errors="replace"))
        return [line for line in found if "nanogpt.prepare" in line]

    async def scenario(app: Any, pilot: Any) -> None:
        await open_own(app, pilot, "big.txt")
        await until(pilot, lambda: children())
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, LaunchScreen))
        await until(pilot, lambda: not children(), 5)
        await pilot.press("c")
        await until(pilot, lambda: children())
        await pilot.press("escape")
        await until(pilot, lambda: not children(), 5)

    drive(space, scenario)


def test_read_only_refuses(space: Path) -> None:
    async def scenario(app: Any, pilot: Any) -> None:
        page = await open_data_page(app, pilot)
        for key in ("a", "c"):
            await pilot.press(key)
            await see(pilot, "--read-only")
            assert app.screen is page

    drive(space, scenario, is_read_only=True)


def test_hostile_names_and_texts(space: Path) -> None:
    """文件名、文件里的文字、候选、命令、准备的日志：只是文字；Tab 补出来的就是那个文件。"""
    folder = space / "in"
    folder.mkdir()
    for key in CORPUS:
        # 孤立代理不成文本；名字里可以有
        body = CORPUS["click" if key in ("lone", "lines") else key] + " [red]text[/red]\n"
        (folder / as_name(key)).write_bytes(body.encode() * 9)

    def assert_plain(app: Any) -> None:
        text = screen_text(app)
        assert not FORBIDDEN.search(text) and "\x1b" not in text, repr(text)
        for strip in app.screen._compositor.render_strips():
            assert not any("fire" in str(segment.style.meta) for segment in strip if segment.style)

    async def scenario(app: Any, pilot: Any) -> None:
        screen = await open_own(app, pilot, "in/")
        await see(pilot, *(f"{key}-" for key in CORPUS))
        assert_plain(app)
        for number, key in enumerate(CORPUS):
            await fill(app, pilot, f"in/{key}")
            await pilot.press("tab")
            assert screen.own.inputs() == [f"in/{as_name(key)}"]
            if number % 3 == 0:
                await until(pilot, lambda: not screen.is_asking)
                await see(pilot, "[red]text[/red]")
            assert_plain(app)
        for key in ("csi", "lone", "lines"):
            await fill(app, pilot, f"in/{key}")
            await pilot.press("tab", "enter")
            await until(pilot, lambda: isinstance(app.screen, LaunchScreen))
            await see(pilot, "is ready")
            assert_plain(app)
            await pilot.press("a")
            await until(pilot, lambda: isinstance(app.screen, OwnTextScreen))

    drive(space, scenario, (160, 50))
    assert len(list((space / "data").iterdir())) == 4


def test_a_huge_line_is_quick(space: Path) -> None:
    """一行 30 MB：预览照样出来，按键不卡。"""
    (space / "line.txt").write_text("word " * 6_000_000, encoding="utf-8")

    async def scenario(app: Any, pilot: Any) -> None:
        screen = await open_own(app, pilot, "line.txt")
        await until(pilot, lambda: screen.shown)
        began = time.process_time()
        await pilot.press("x", "backspace")
        assert time.process_time() - began < 2
        await until(pilot, lambda: screen.shown and not screen.is_asking)
        await see(pilot, "about 30,000,000")

    drive(space, scenario)


def test_only_ascii(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """只认 ASCII 的终端，又没有颜色：token 之间是竖线。"""
    monkeypatch.setenv("NANOGPT_ASCII", "1")
    monkeypatch.setenv("NO_COLOR", "1")

    async def scenario(app: Any, pilot: Any) -> None:
        await open_own(app, pilot, "tale.txt")
        await pilot.press("down", *"[red]x[/]", "down", "right", "right", "right")
        await see(pilot, "Its tokens", "[red]x[/]")
        await until(pilot, lambda: "|" in screen_text(app).split("Its tokens")[-1])
        lines = [line for line in screen_text(app).splitlines() if not line.isascii()]
        assert not lines, lines
        await pilot.press("escape")
        await pilot.press("c")
        await see(pilot, "nothing wrong found", "Most frequent tokens", "###")
        assert screen_text(app).isascii()

    drive(space, scenario)
