"""真的终端：一个 tmux 会话里的应用。只看屏幕，从不盲等；需要时把应用送往终端的字节原样录下。

`test_e2e_tmux.py`、`test_hostile_terminal.py` 使用。
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from trainer_fork import ROOT

# tmux 的会话各有自己的服务器；仍排在同一个 xdist 进程里，免得两个核上挤着跑而超时
needs_tmux = [pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
              pytest.mark.xdist_group("tmux")]
BRAILLE = set(map(chr, range(0x2801, 0x2900)))


class Terminal:
    """`size` 是（列, 行）。`record` 是录下字节的文件；`arguments` 给 `nanogpt-workbench`。"""

    def __init__(self, workspace: Path, size: tuple[int, int], language: str = "en", *arguments: str,
                 record: Path | None = None, **environ: str):
        self.socket = f"nanogpt-{os.getpid()}-{workspace.name[-12:]}-{size[0]}"
        environment = {"PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", "NANOGPT_LANG": language, "OMP_NUM_THREADS": "1",
                       "TERM": "tmux-256color", "HOME": str(workspace), "PATH": os.environ["PATH"], **environ}
        words = ["env", "-i", *(f"{key}={value}" for key, value in environment.items()), sys.executable, "-m",
                 "workbench", *arguments]
        new = ("-f", "/dev/null", "-u", "new-session", "-d", "-x", str(size[0]), "-y", str(size[1]), "-c",
               str(workspace))
        if record is None:
            self.tmux(*new, *words)
        else:
            # 先接好录音再开始，第一个字节才不漏
            self.tmux(*new, "sh", "-c", "read go; exec " + shlex.join(words))
            self.tmux("pipe-pane", f"exec cat > {shlex.quote(str(record))}")
            self.keys("Enter")
        self.pid = int(self.tmux("display-message", "-p", "#{pane_pid}"))

    def tmux(self, *arguments: str) -> str:
        done = subprocess.run(["tmux", "-L", self.socket, *arguments], capture_output=True, text=True, check=True,
                              encoding="utf-8", errors="replace", env={**os.environ, "LANG": "C.UTF-8"}, timeout=20)
        return done.stdout

    @property
    def text(self) -> str:
        return self.tmux("capture-pane", "-p")

    def keys(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        """一字一键地打出 `text`。"""
        self.tmux("send-keys", "-l", text)

    def paste(self, text: str) -> None:
        """以括起来的粘贴送进去，换行与控制字符也照送。"""
        subprocess.run(["tmux", "-L", self.socket, "load-buffer", "-"], input=text.encode("utf-8", "surrogateescape"),
                       check=True, timeout=20)
        self.tmux("paste-buffer", "-p", "-r")

    def see(self, *texts: str, limit_s: float = 60.0) -> str:
        return self.until(lambda screen: all(text in screen for text in texts), limit_s, str(texts))

    def until(self, is_true: Callable[[str], object], limit_s: float = 60.0, what: str = "") -> str:
        end = time.monotonic() + limit_s
        while not is_true(screen := self.text):
            assert time.monotonic() < end, f"never saw {what}:\n{screen}"
            time.sleep(0.1)
        return screen

    def settle(self, limit_s: float = 10.0) -> str:
        """等到相继两次看到的屏幕一样。"""
        seen = [self.text]
        return self.until(lambda screen: seen.append(screen) or seen[-2] == seen[-1], limit_s, "it settle")

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self.socket, "kill-server"], capture_output=True, check=False, timeout=20)
