"""敌意的文字 × 每一处显示，在真的终端上看字节：语料的序列一个也到不了（故障表第 30、32 行）。约一分钟。

应用在 tmux 里跑，它送出的字节由 `pipe-pane` 原样录下；屏幕另外读，用来确认那一处真的画出来了。
"""

import fcntl
import json
import os
import pty
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import slow
from hostile import CORPUS, as_name, hostile_run, hostile_workspace, leaks
from terminal import Terminal
from trainer_fork import ROOT

from nanogpt.dataset import known_names
from nanogpt.text import visible

pytestmark = [pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
              pytest.mark.xdist_group("hostile")]
# 括起来的粘贴里的 ESC 会被 Textual 当成按键重发；别的控制字符与双向标记原样进输入框
PASTED = "in\x9b31m\x9d52;c;UFdO\x9c\u202egnp\u2066\x85\x7f\x08\x0c\u2028out"
PASTED_SHOWN = "in\\x9b31m\\x9d52;c;UFdO\\x9c\\u202egnp"


class Walk:
    """一趟走查：按键、看到、随时可问录下的字节。"""

    def __init__(self, workspace: Path, record: Path, size: tuple[int, int] = (160, 50)):
        self.workspace, self.record, self.terminal = workspace, record, Terminal(workspace, size, record=record)
        self.see = self.terminal.see

    def press(self, *keys: str, see: str = "") -> str:
        self.terminal.keys(*keys)
        return self.see(see, limit_s=60) if see else ""

    def escape(self, gone: str) -> None:
        """Esc 之后要等它生效：紧跟着的键会与它合成 Alt。"""
        self.terminal.keys("Escape")
        self.terminal.until(lambda text: gone not in text, 60, f"{gone} go")

    def close(self) -> None:
        self.terminal.close()

    def assert_clean(self) -> None:
        raw = self.record.read_bytes()
        assert len(raw) > 10_000, "nothing was recorded"
        assert leaks(raw) == []


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    workspace = hostile_workspace(tmp_path / "space")
    found = Walk(workspace, tmp_path / "raw")
    try:
        found.see(f"runs: {len(CORPUS)}")
        yield found
        found.assert_clean()
    finally:
        found.close()


def test_the_detector_finds_every_item() -> None:
    """录到什么算泄漏：语料原样写出就是，净化过的与应用自己的序列不是。"""
    for key, text in CORPUS.items():
        raw = text.encode("utf-8", "surrogateescape")
        is_harmless = key in ("click", "close", "marks", "wide")
        assert bool(leaks(b"ok " + raw)) != is_harmless, key
        assert leaks(b"\x1b[1;38;5;33m" + visible(text).encode() + b"\x1b[0m\x1b[?25l\x1b[2;1H") == [], key


def test_list_monitor_and_dialogs(walk: Walk) -> None:
    """列表、详情、笔记、图例、日志、事件、警告、删除的询问。"""
    text = walk.see(*(f"{key}-" for key in CORPUS), limit_s=60)
    order = [line[2:].split("-")[0] for line in text.split("\n") if line[2:].split("-")[0] in CORPUS]
    assert sorted(order) == sorted(CORPUS)
    for index, key in enumerate(order):
        walk.press(*"j" * (index > 0), see=f"> {key}-")
        walk.press("D", see=f"Delete {key}-")
        walk.press("n", "e", see="Note and #tags of")
        walk.escape("Note and #tags of")
        walk.press("Enter", see="19 ")
        walk.press("t", see="checkpoint at iteration 8")
        walk.press("w", see="Written into")
        # 训练途中写下的样本
        walk.press("t")
        walk.terminal.until(lambda text: "checkpoint at" not in text, 60, "the samples")
        walk.escape(" samples ")


def test_together_and_pasted(walk: Walk) -> None:
    """叠在一起的图与配置差异；粘贴进过滤、搜索、笔记与命令面板。"""
    walk.press(*["Space"] * len(CORPUS), "Enter", see=f"{len(CORPUS)} runs together")
    walk.see("config differences", "wandb_run_name")
    walk.press("t", see="19 ")
    walk.press("/", see="search the log")
    walk.terminal.paste(PASTED)
    walk.see(PASTED_SHOWN)
    walk.press("Enter", see="not found")
    walk.escape("runs together")
    walk.terminal.keys("Escape")
    walk.terminal.until(lambda text: "\n* " not in text, 60, "the marks go")
    walk.press("/")
    walk.see("status:running")
    walk.terminal.paste(PASTED)
    walk.see(PASTED_SHOWN, "no run matches")
    walk.escape("no run matches")
    walk.press("e", see="Note and #tags of")
    walk.terminal.paste(PASTED)
    walk.see(PASTED_SHOWN)
    walk.press("Enter", see="note: ")
    walk.see(PASTED_SHOWN)
    walk.press("C-p", see="search for a command")
    walk.terminal.paste(PASTED)
    walk.see(PASTED_SHOWN)
    walk.escape("search for a command")


@slow
def test_sampling_and_clone(walk: Walk) -> None:
    """采样界面的标题、提示与报错；克隆到启动界面：标题、命令、键的值与它的编辑框。"""
    for index, key in enumerate(reversed(CORPUS)):
        walk.press(*"j" * (index > 0), see=f"> {key}-")
        walk.press("p", see="Sample: ")
        if index == 0:
            walk.terminal.paste(PASTED + "\nsecond line")
            walk.see(PASTED_SHOWN, "second line")
            walk.press("C-r", see="out_dir cannot be")
        walk.escape("Sample: ")
        walk.press("c", see="New run: ")
        walk.press("/", see="search by name")
        walk.terminal.type("wandb_run_name")
        walk.see("legal: text")
        walk.terminal.until(lambda text: "wandb_project" not in text, 60, "the search")
        walk.press("Enter", see="Undo change")
        walk.press("Enter")
        walk.terminal.until(lambda text: "Undo change" not in text, 60, "the editor open")
        walk.terminal.paste(PASTED)
        walk.see("wandb_run_name", "\\x9b31m\\x9d52")
        walk.press("Enter", see="was ")
        walk.terminal.keys("Escape")
        walk.see("wandb_project")
        walk.escape("New run: ")


@slow
def test_launch(walk: Walk) -> None:
    """预设的名字、标题、说明、需要；存预设；数据集的名字、问题与准备的日志。"""
    walk.press("n", see="New run: quickstart")
    walk.press("g", see="bidi-")
    for item in range(len(CORPUS) + 1):
        # 第二个是读不了的 `broken`
        walk.press("Enter", see="p  Prepare" if item != 1 else "unknown key [/bold]\\x1b")
        walk.press("1")
        walk.terminal.until(lambda text: "p  Prepare" not in text, 60, "the presets")
        walk.press("C-s", see="Save as a preset")
        walk.escape("Save as a preset")
        walk.press("j")
    walk.press("C-s", see="Save as a preset")
    walk.terminal.paste(PASTED)
    walk.press("Enter", see="is not a name for a preset")
    walk.escape("is not a name")
    walk.press("2", see="p  Prepare")
    walk.press("g")
    names, at = known_names(walk.workspace), 0
    for key in ("click", "close", "marks", "wide"):
        there = next(index for index, name in enumerate(names) if name.startswith(f"{key}-"))
        walk.terminal.keys(*"j" * (there - at))
        at = there
        walk.press("p", see="prepared-log")
        walk.press("Enter", see="the best that this machine has")
        walk.press("2", see="p  Prepare")


def test_a_live_run_on_a_hostile_host(tmp_path: Path) -> None:
    """停滞的说明里有主机名；叫停的询问与通知里有运行的名字；停不下来的，升级写在屏上。"""
    workspace = hostile_workspace(tmp_path / "space")
    shutil.rmtree(workspace / "runs")
    text = CORPUS["csi"] + CORPUS["bidi"] + CORPUS["cone"]
    out_dir = hostile_run(workspace / "runs" / as_name("csi"), text, None)
    lines = [json.loads(line) for line in (out_dir / "events.jsonl").read_bytes().split(b"\n") if line[:1] == b"{"]
    (out_dir / "events.jsonl").unlink()
    with open(out_dir / "events.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({**line, "time": time.time() - 600}) + "\n" for line in lines)
    with open(out_dir / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(json.dumps({"pid": text, "host": text}))
        lock.flush()
        walk = Walk(workspace, tmp_path / "raw")
        try:
            walk.see("stalled", "the trainer (pid \\x1b[41")
            walk.press("Enter", see="Longest silent: rank 1 on \\x1b[41")
            walk.press("s", see="Stop csi-\\x1b[41")
            walk.press("y", see="asked it to save and stop")
            assert (out_dir / "stop").exists()
            walk.press("K", see="Kill csi-\\x1b[41")
            walk.press("y", see="nothing was sent")
            walk.press("q")
            walk.assert_clean()
        finally:
            walk.close()


def test_messages_outside_the_app(tmp_path: Path) -> None:
    """真的伪终端里的 `plot`（一个、全部、`--json`、没有的）与坏参数。"""
    workspace = hostile_workspace(tmp_path / "space")
    runs = sorted(str(path.relative_to(workspace)) for path in (workspace / "runs").iterdir())
    for arguments in (["plot", "--once", *runs], *(["plot", "--once", run] for run in runs), ["plot", "--json", *runs],
                      ["plot", "no" + CORPUS["osc"]], ["--workspace", "no" + CORPUS["dcs"].replace("\0", "")],
                      ["--lang", CORPUS["cone"]], [CORPUS["csi"]]):
        raw = in_terminal(workspace, arguments)
        assert raw and leaks(raw) == [], arguments


def in_terminal(workspace: Path, arguments: list[str]) -> bytes:
    """在伪终端里跑一遍，返回它写出的全部字节。"""
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(workspace)
        os.environ.update(PYTHONPATH=str(ROOT), TERM="xterm-256color", COLUMNS="100", LINES="30", LANG="C.UTF-8")
        os.execv(sys.executable, [sys.executable, "-m", "workbench", *arguments])
    found = b""
    try:
        while part := os.read(fd, 65536):
            found += part
    except OSError:
        # 对面关了
        pass
    os.close(fd)
    os.waitpid(pid, 0)
    return found
