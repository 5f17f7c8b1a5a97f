"""各屏的样子，中英各一份：与 `__snapshots__/` 里存下的 SVG 逐字相同。平常每一处只比一种语言，轮流；全比约三分钟。

改了界面就 `make snapshots` 重存；没有想改而不同，`snapshot_report.html` 把新旧并排画出来。
场景在 `scenes.py`，README 的图用的也是它们。不真的只有四样，因为各台机器、各个时刻都不同：钟、设备表、负荷，
与仓库的 `data/` 里备好了什么。
"""

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import scenes
from conftest import make_tiny_dataset, slow
from pictures_tool import plain
from pilot import write_run
from trainer_fork import ROOT

from nanogpt.events import EventWriter
from nanogpt.i18n import use_language
from workbench.app import WorkbenchApp
from workbench.machine import Device
from workbench.machine_load import MachineLoad
from workbench.preparation import Preparation

pytestmark = pytest.mark.xdist_group("snapshots")
NOW = 1_767_225_600.0
DEVICES = [Device("cuda:0", "NVIDIA H100 80GB HBM3", 81559), Device("cpu", "AMD EPYC, 16 cores", 128 * 1024)]
SMALL, TALL = (80, 24), (120, 40)
# （场景，大小）
SCENES = [*((getattr(scenes, name), SMALL) for name in (
    "runs", "filtered", "help", "palette", "confirm", "note", "monitor", "failed", "overlay", "presets", "datasets",
    "own_text", "own_text_problem", "doctor", "machine", "launch", "editing", "save", "nodes")),
    *((getattr(scenes, name), TALL) for name in ("runs", "monitor", "launch", "own_text"))]


# 要起采样的服务进程的，每个约 5 秒
PLAYGROUND = [getattr(scenes, name) for name in ("sample", "written", "inspect", "models", "compare", "chat",
                                                 "template", "perplexity", "page_name")]


def in_turns(looks: list[Any], ids: list[str], spared: tuple[str, ...] = ()) -> list[Any]:
    """每一处中英各一份；第一种语言平常就比，下一处换另一种。`spared` 里的平常不比。"""
    return [pytest.param(*look, language, id=f"{name}-{language}", marks=[slow] if second or name in spared else [])
            for index, (look, name) in enumerate(zip(looks, ids, strict=True))
            for second, language in enumerate(("en", "zh") if index % 2 else ("zh", "en"))]


class Pictured(WorkbenchApp):
    """截图里不留本机的路径；家目录就是工作区的上一级，所以它显示成 `~/gpt`。"""

    CSS_PATH = ROOT / "workbench" / "workbench.tcss"

    def export_screenshot(self, **options: Any) -> str:
        text = plain(super().export_screenshot(**options))
        assert str(Path.cwd().parent) not in text, "the picture shows this machine"
        return text


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """空的工作区，钟停在 `NOW`，别的环境都定死。"""
    for name in ("NO_COLOR", "SSH_CONNECTION", "TMUX", "CUDA_VISIBLE_DEVICES", "XDG_CACHE_HOME", "XDG_CONFIG_HOME",
                 "NANOGPT_NO_MOUSE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("TERM", "xterm-256color"), ("COLORTERM", "truecolor"), ("HOME", str(tmp_path)), ("TZ", "UTC"),
                        ("PYTHONPATH", str(ROOT)), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)
    time.tzset()
    strftime = time.strftime
    monkeypatch.setattr(time, "time", lambda: NOW)
    monkeypatch.setattr(time, "strftime", lambda pattern, when=None: strftime(pattern, when or time.gmtime(NOW)))
    monkeypatch.setattr("workbench.screens.launch.list_devices", lambda: DEVICES)
    monkeypatch.setattr(MachineLoad, "sample", lambda _self: "CPU 42% of 16  RAM 12.3/128.0 GiB")
    shipped = tmp_path / "shipped"
    for script in (ROOT / "data").glob("*/prepare.py"):
        (shipped / script.parent.name).mkdir(parents=True)
        shutil.copy(script, shipped / script.parent.name)
    monkeypatch.setattr("nanogpt.dataset.shipped_dir", lambda _kind: shipped)
    workspace = tmp_path / "gpt"
    workspace.mkdir()
    # 整个环境：采样的服务由它起，要找得到装的包
    (workspace / ".venv").symlink_to(sys.prefix)
    monkeypatch.setattr(sys, "executable", str(workspace / ".venv" / "bin" / "python"))
    monkeypatch.chdir(workspace)
    yield workspace
    use_language("en")
    monkeypatch.undo()
    time.tzset()


def add_run(workspace: Path, name: str, age_s: float, monkeypatch: pytest.MonkeyPatch, iters: int,
            status: str | None, **config: Any) -> Path:
    """`age_s` 秒之前写成的运行。"""
    monkeypatch.setattr(time, "time", lambda: NOW - age_s)
    console = "".join(f"iter {index}: loss {4.0 - index / iters:.4f}, time 10.00ms, mfu -100.00%\n"
                      for index in range(iters - 8, iters))
    out_dir = write_run(workspace / "runs" / name, iters, status=None, console=console, **config)
    writer = EventWriter(out_dir / "events.jsonl")
    if status == "diverged":
        writer.emit("warning", code="resume_not_exact", message="the dataset differs", hint="")
        writer.emit("error", code="diverged", message="the loss is nan at iter 150", hint="lower learning_rate")
    if status is not None:
        writer.emit("end", status=status, iter=iters)
    writer.close()
    monkeypatch.setattr(time, "time", lambda: NOW)
    make_old(out_dir, age_s)
    return out_dir


def make_old(out_dir: Path, age_s: float) -> None:
    """文件也是那时的：列表按它们的时刻排。"""
    for path in out_dir.iterdir():
        os.utime(path, (NOW - age_s, NOW - age_s))


def write_checkpoint(out_dir: Path, iter_num: int) -> None:
    """没有练过的极小模型：采样界面载入得了，也数得出 token；写什么要看机器，所以不写。"""
    import torch

    from nanogpt.model import GPT, GPTConfig
    from nanogpt.tokenizer import CharTokenizer

    torch.manual_seed(iter_num)
    letters = ["\n", *(chr(code) for code in range(32, 127))]
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 64, "bias": False, "vocab_size": len(letters),
             "dropout": 0.0}
    torch.save({"model": GPT(GPTConfig(**shape)).state_dict(), "model_args": shape, "iter_num": iter_num,
                "best_val_loss": 3.1, "config": {}, "tokenizer": CharTokenizer(letters).to_dict()},
               out_dir / "ckpt.pt")


@pytest.fixture
def full(space: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """一个在跑、一个停下、一个发散；名字有中文，有笔记。"""
    for name in ("python_stdlib", "tiny"):
        make_tiny_dataset(space / "data" / name)
    running = add_run(space, "quickstart-20260101-000000", 2, monkeypatch, 300, None, max_iters=1000)
    stopped = add_run(space, "莎士比亚-字符级", 7200, monkeypatch, 200, "stopped", max_iters=200, dataset="shakespeare")
    failed = add_run(space, "higher-lr", 3 * 86400, monkeypatch, 150, "diverged", max_iters=400, learning_rate=8e-2)
    (stopped / "notes.md").write_text("第一次 #baseline\n", encoding="utf-8")
    for out_dir, age_s, iter_num in ((stopped, 7200, 200), (failed, 3 * 86400, 150)):
        write_checkpoint(out_dir, iter_num)
        make_old(out_dir, age_s)
    with open(running / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield space


def compare(snap_compare: Callable[..., bool], scene: scenes.Scene, size: tuple[int, int], language: str) -> bool:
    use_language(language)
    return snap_compare(Pictured(Path()), terminal_size=size, run_before=scene)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(("scene", "size", "language"),
                         in_turns(SCENES, [f"{scene.__name__}-{size[0]}" for scene, size in SCENES],
                                  spared=("own_text-120",)))
def test_screen(snap_compare: Callable[..., bool], scene: scenes.Scene, size: tuple[int, int], language: str) -> None:
    assert compare(snap_compare, scene, size, language)


@pytest.mark.xdist_group("playground")
@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(("scene", "language"),
                         in_turns([(scene,) for scene in PLAYGROUND], [scene.__name__ for scene in PLAYGROUND],
                                  spared=("written", "models", "template", "page_name")))
def test_playground(snap_compare: Callable[..., bool], scene: scenes.Scene, language: str) -> None:
    assert compare(snap_compare, scene, SMALL, language)


@pytest.mark.usefixtures("space")
@pytest.mark.parametrize("language", ["en", "zh"])
def test_welcome(snap_compare: Callable[..., bool], language: str) -> None:
    assert compare(snap_compare, scenes.welcome, SMALL, language)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_preparing(space: Path, snap_compare: Callable[..., bool], language: str) -> None:
    """真的准备进程，说一行就等着；之后取消它。"""
    folder = space / "data" / "python_stdlib"
    folder.mkdir(parents=True)
    (folder / "prepare.py").write_text("import time\nprint('read 120 of 700 files', flush=True)\ntime.sleep(60)\n",
                                       encoding="utf-8")
    try:
        assert compare(snap_compare, scenes.preparing, SMALL, language)
    finally:
        assert Preparation("python_stdlib", space).cancel()
