"""采样界面在真的终端里，从头到尾只用键：选检查点、看着流出来、停、再来、比较、`$EDITOR`、杀掉进程、换语言。约 20 s。"""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from conftest import TINY, make_tiny_dataset
from hostile import leaks
from terminal import Terminal, needs_tmux
from test_playground import is_alive
from trainer_fork import TrainerServer

pytestmark = needs_tmux
EDITOR = '#!/bin/sh\nprintf "def edited(" > "$1"\n'


@pytest.fixture
def space(tmp_path: Path, trainer_server: TrainerServer) -> Path:
    folder = tmp_path / "space"
    make_tiny_dataset(folder / "data" / "tiny")
    done = trainer_server.train(folder, *TINY, "--out_dir=runs/done", "--checkpoint_interval=3")
    assert done.returncode == 0, done.output
    editor = folder / "editor.sh"
    editor.write_text(EDITOR, encoding="utf-8")
    editor.chmod(0o700)
    return folder


def servers(parent: int) -> list[int]:
    """应用起的服务进程。"""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="utf-8").split()
    return [int(pid) for pid in found
            if b"--serve" in Path(f"/proc/{pid}/cmdline").read_bytes() and is_alive(int(pid))]


def test_playground_by_keys(space: Path, tmp_path: Path) -> None:
    record = tmp_path / "raw"
    terminal = Terminal(space, (80, 24), record=record, EDITOR=str(space / "editor.sh"))
    try:
        terminal.see("runs: 1")
        terminal.keys("p")
        terminal.see("Sample: done", "context 16", "ctrl+r samples")
        terminal.keys("F4")
        terminal.see("done ckpt-3.pt")
        terminal.type("ckpt-3")
        terminal.keys("Enter")
        terminal.see("Sample: done ckpt-3.pt", "context 16")

        # 参数：长到写不完
        terminal.keys("F7")
        terminal.see("max_new_tokens", "legal:")
        terminal.keys("/")
        terminal.see("search by name")
        terminal.type("max_new")
        terminal.until(lambda text: "top_p" not in text, what="the search")
        terminal.keys("Enter")
        terminal.settle()
        terminal.keys("Enter")
        # 输入框露面、拿到焦点要一会儿；连着来的一串里，Textual 先收字、后做绑定的键
        terminal.until(lambda text: re.search(r"^ *200 *$", text, re.M), what="the value being edited")
        end = time.monotonic() + 60
        while "cannot be ''" not in terminal.text:
            assert time.monotonic() < end, terminal.text
            terminal.keys("C-u")
            terminal.settle()
        terminal.type("900000")
        terminal.settle()
        terminal.keys("Enter")
        terminal.see("* max_new_tokens", "900000")
        terminal.keys("F7")
        terminal.type("def ")
        terminal.keys("C-r")
        first = terminal.see("writing: ", "esc stops")
        terminal.until(lambda text: count_of(text) > count_of(first), what="it grow")
        # 写着的时候，打的字马上在
        terminal.type("typed")
        assert "esc stops" in terminal.see("def typed")
        terminal.keys("Escape")
        terminal.see("cancelled", "tok/s")
        terminal.keys("C-n")
        terminal.see("writing: ")
        pid = servers(terminal.pid)[0]
        os.kill(pid, signal.SIGKILL)
        terminal.see("killed by SIGKILL", "the next prompt starts a new one")
        terminal.keys("C-r")
        terminal.see("writing: ")
        assert servers(terminal.pid) and pid not in servers(terminal.pid)
        terminal.keys("C-l")
        terminal.see("采样：done", "esc 停")
        terminal.keys("Escape")
        terminal.see("取消")
        terminal.keys("C-l")
        terminal.see("Sample: done")

        terminal.tmux("send-keys", "M-e")
        terminal.see("def edited(")
        terminal.keys("F7")
        terminal.see("max_new_tokens", "legal:")
        terminal.keys("d")
        terminal.until(lambda text: "900000" not in text, what="the length go back")
        terminal.keys("F7")
        # 选两个并排；再是每一个检查点
        terminal.keys("F8")
        terminal.see("Compare: mark the models")
        terminal.type("ckpt-")
        terminal.until(lambda text: "gpt2-xl" not in text, what="the search")
        terminal.keys("C-a")
        terminal.see("2 marked")
        terminal.keys("Enter")
        terminal.see("2 of 2 models", "1 done ckpt-3.pt", "2 done ckpt-6.pt", "ppl of text", limit_s=90)
        terminal.keys("Escape")
        # 比较装过别的模型：还是选中的那一个
        terminal.see("Sample: done ckpt-3.pt  ckpt-3.pt, iter 3")
        terminal.keys("F9")
        terminal.see("2 of 2 models", "ppl of text", limit_s=90)
        terminal.keys("Escape")
        terminal.see("Sample: done")
        pid = servers(terminal.pid)[0]
        os.kill(terminal.pid, signal.SIGKILL)
        end = time.monotonic() + 20
        while is_alive(pid):
            assert time.monotonic() < end, "the server outlives the app"
            time.sleep(0.1)
        assert leaks(record.read_bytes()) == []
    finally:
        terminal.close()


def count_of(text: str) -> int:
    """状态行里写了多少字符。"""
    found = re.search(r"writing: ([\d,]+)", text)
    return int(found[1].replace(",", "")) if found else -1
