"""终端的习惯，在真的终端（tmux）里：鼠标开关、SSH 的省流、ASCII、无色、复制到 tmux 的缓冲。约 20 s。"""

import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import slow
from pilot import write_run
from trainer_fork import ROOT

pytestmark = [pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
              pytest.mark.xdist_group("tmux")]
_NUMBERS = itertools.count()
Open = Callable[..., "Terminal"]


class Terminal:
    """80×24 的 tmux 会话里的应用；`environment` 盖过平常的。"""

    def __init__(self, workspace: Path, arguments: tuple[str, ...], environment: dict[str, str]):
        self.socket = f"nanogpt-{os.getpid()}-{next(_NUMBERS)}"
        words = {"PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", "NANOGPT_LANG": "en", "TERM": "tmux-256color",
                 "COLORTERM": "truecolor", "HOME": str(workspace), "TMUX": "x",
                 "PATH": os.environ["PATH"], **environment}
        self.tmux("-f", "/dev/null", "-u", "new-session", "-d", "-x", "80", "-y", "24", "-c", str(workspace), "env",
                  "-i", *[f"{key}={value}" for key, value in words.items()],
                  sys.executable, "-m", "workbench", *arguments)

    def tmux(self, *arguments: str) -> str:
        return subprocess.run(["tmux", "-L", self.socket, *arguments], capture_output=True, text=True, check=True,
                              encoding="utf-8", env={**os.environ, "LANG": "C.UTF-8"}, timeout=20).stdout

    def keys(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def see(self, *texts: str) -> str:
        end = time.monotonic() + 40
        while not all(text in (screen := self.tmux("capture-pane", "-p")) for text in texts):
            assert time.monotonic() < end, f"never saw {texts}:\n{screen}"
            time.sleep(0.1)
        return screen

    @property
    def has_mouse(self) -> bool:
        """应用要不要鼠标，是 tmux 说的。"""
        return self.tmux("display-message", "-p", "#{mouse_any_flag}").strip() == "1"

    def wait_for(self, is_true: Callable[[], object]) -> None:
        end = time.monotonic() + 20
        while not is_true():
            assert time.monotonic() < end, self.tmux("capture-pane", "-p")
            time.sleep(0.1)

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self.socket, "kill-server"], capture_output=True, check=False, timeout=20)


@pytest.fixture
def open_app(tmp_path: Path) -> Iterator[Open]:
    write_run(tmp_path / "runs" / "alpha", 60)
    opened: list[Terminal] = []

    def start(*arguments: str, **environment: str) -> Terminal:
        for terminal in opened:
            terminal.close()
        opened.append(Terminal(tmp_path, arguments, environment))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


def test_the_mouse_is_switched_in_the_running_app(open_app: Open) -> None:
    terminal = open_app()
    terminal.see("alpha")
    terminal.wait_for(lambda: terminal.has_mouse)
    terminal.keys("F2")
    terminal.see("The mouse is off")
    terminal.wait_for(lambda: not terminal.has_mouse)
    terminal.keys("F2")
    terminal.see("The mouse is on")
    terminal.wait_for(lambda: terminal.has_mouse)
    terminal.keys("F2")
    terminal.wait_for(lambda: not terminal.has_mouse)
    terminal = open_app("--no-mouse")
    terminal.see("alpha")
    assert not terminal.has_mouse


@pytest.mark.parametrize("name", ["SSH_CONNECTION", pytest.param("SSH_TTY", marks=slow)])
def test_over_ssh_it_spares_the_line_and_says_so(open_app: Open, name: str) -> None:
    """自己选上，看得见，改得掉：`F3`、`--profile`、`--mouse`。"""
    terminal = open_app(**{name: "x"})
    terminal.see("alpha", " sparing ")
    assert not terminal.has_mouse
    terminal.keys("F3")
    assert " sparing " not in terminal.see("redrawn as often as usual")
    terminal = open_app("--profile", "local", **{name: "x"})
    assert " sparing " not in terminal.see("alpha")
    terminal.wait_for(lambda: terminal.has_mouse)
    terminal = open_app("--profile=remote", "--mouse")
    terminal.see(" sparing ")
    terminal.wait_for(lambda: terminal.has_mouse)


@pytest.mark.parametrize("environment", [
    {"LANG": "C"}, pytest.param({"TERM": "linux"}, marks=slow), pytest.param({"NANOGPT_ASCII": "1"}, marks=slow)])
def test_plain_ascii(open_app: Open, environment: dict[str, str]) -> None:
    """列表、图、帮助、命令面板、短信、启动界面、询问：一个画不出的字形也没有。"""
    terminal = open_app(**environment)
    screens = [terminal.see("alpha", "finished")]
    for keys, text in ((("Enter",), "+--"), (("F1",), "Keys of this screen"), (("Escape",), "loss / iterations"),
                       (("C-p",), "search for a command"), (("Escape",), "loss / iterations"), (("F2",), "The mouse"),
                       (("D",), "Delete alpha"), (("n",), "loss / iterations"), (("Escape",), "age"),
                       (("n",), "New run"), (("2",), "not prepared"), (("4",), "eval_interval")):
        terminal.keys(*keys)
        screens.append(terminal.see(text))
    for screen in screens:
        strange = {char for char in screen if not char.isascii()}
        # 工作区的路径是用户的；中文/English 是语言自己的名字
        assert not strange - set("中文"), (strange, screen)


def test_ascii_is_not_forced_where_it_is_declined(open_app: Open) -> None:
    assert "─" in open_app("--no-ascii", LANG="C").see("alpha", "finished")


def test_no_color_leaves_no_color(open_app: Open) -> None:
    """只剩灰度；曲线改用不同的字符。"""
    terminal = open_app(NO_COLOR="1")
    terminal.see("alpha")
    terminal.keys("Enter")
    terminal.see("** smoothed", "oo validation")
    text = terminal.tmux("capture-pane", "-p", "-e")
    for red, green, blue in re.findall(r"[34]8;2;(\d+);(\d+);(\d+)", text):
        assert max(map(int, (red, green, blue))) - min(map(int, (red, green, blue))) < 3, (red, green, blue)
    assert not re.search(r"\x1b\[(?:\d+;)*(?:3[1-7]|9[0-7])m", text)


def test_copy_reaches_tmux_and_a_file(open_app: Open, tmp_path: Path) -> None:
    """OSC 52 到了 tmux 的粘贴缓冲；同样的文字也在文件里。"""
    terminal = open_app()
    terminal.tmux("set-option", "-g", "set-clipboard", "on")
    terminal.see("alpha")
    terminal.keys("y")
    terminal.see("Copied; also in")
    copied = (tmp_path / ".cache" / "nanogpt-workbench" / "copied.txt").read_text(encoding="utf-8").strip()
    assert "-m nanogpt.train" in copied and "runs/alpha" in copied
    terminal.wait_for(lambda: terminal.tmux("list-buffers"))
    assert terminal.tmux("show-buffer").strip() == copied
