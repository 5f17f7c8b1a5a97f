"""没有界面的快速上手：真的准备数据、真的训练，只是模型极小。每个测试三到八秒。"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from conftest import slow

from nanogpt.events import read_events
from nanogpt.rundir import holder
from workbench.launch import console_tail, make_out_dir

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--eval_interval=10", "--eval_iters=2", "--n_layer=1", "--n_embd=32", "--n_head=2", "--block_size=32",
        "--batch_size=4", "--log_interval=1", "--compile=False", "--device=cpu"]
ENVIRON = {**{key: value for key, value in os.environ.items() if key != "NO_COLOR"}, "PYTHONPATH": str(ROOT),
           "NANOGPT_LANG": "en", "PYTHONUTF8": "1"}

pytestmark = pytest.mark.skipif(not (ROOT / "nanogpt" / "train.py").is_file(), reason="needs nanogpt/train.py")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """一个有 `data/python_stdlib/prepare.py` 的工作区，数据尚未准备。"""
    folder = tmp_path / "data" / "python_stdlib"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "data" / "python_stdlib" / "prepare.py", folder)
    return tmp_path


def start(workspace: Path, *extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "workbench", "--", *TINY, *extra], cwd=workspace, env=ENVIRON,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def only_run(workspace: Path) -> Path:
    (found,) = (workspace / "runs").iterdir()
    return found


def test_from_nothing_to_samples(workspace: Path) -> None:
    process = start(workspace, "--max_iters=30")
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    out_dir = only_run(workspace)
    assert "No terminal here" in text and "[finished]" in text and "┤" in text and "iter 30/30 (100%)" in text
    assert oct(out_dir.stat().st_mode & 0o777) == "0o700"
    assert oct((out_dir / "console.log").stat().st_mode & 0o777) == "0o600"
    for name in ("config.toml", "run.json", "events.jsonl", "console.log", "ckpt.pt"):
        assert (out_dir / name).stat().st_size > 0
    assert [event["event"] for event in read_events(out_dir / "events.jsonl")][-1] == "end"
    assert str(out_dir.relative_to(workspace)) in text.split("To go on from here:")[1]
    # 打印出来的命令粘贴到 shell 里（换一个 out_dir）得到同样的配置。
    command = next(line[2:] for line in text.splitlines() if line.startswith("$ ") and "nanogpt.train" in line)
    pasted = command.replace(f"--out_dir={out_dir.relative_to(workspace)}", "--out_dir=pasted")
    assert pasted != command
    subprocess.run(["bash", "-c", pasted], cwd=workspace, env=ENVIRON, check=True, capture_output=True, timeout=60)
    first, second = (tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
                     for folder in (out_dir, workspace / "pasted"))
    assert {**first, "out_dir": ""} == {**second, "out_dir": ""}
    # 结尾给的续训命令也能用。
    resume = next(line.strip() for line in text.splitlines() if "--init_from=resume" in line)
    subprocess.run(shlex.split(resume), cwd=workspace, env=ENVIRON, check=True, capture_output=True, timeout=60)
    assert [event["iter"] for event in read_events(out_dir / "events.jsonl") if event["event"] == "end"][-1] > 31


@slow
def test_without_any_argument(workspace: Path) -> None:
    """`make run` 什么参数也不给；小配置来自工作区自己的 `presets/`，它先于随包携带的。"""
    (workspace / "presets").mkdir()
    lines = ['dataset = "python_stdlib"', "max_iters = 10", "lr_decay_iters = 10", "warmup_iters = 2"]
    for flag in TINY:
        key, _equals, value = flag.removeprefix("--").partition("=")
        lines.append(f"{key} = {repr(value) if value == 'cpu' else value.lower()}")
    (workspace / "presets" / "quickstart.toml").write_text("\n".join(lines), encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "workbench"], cwd=workspace, env=ENVIRON, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "iter 10/10 (100%)" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=slow)])
def test_signal_stops_the_run_with_a_checkpoint(workspace: Path, number: signal.Signals) -> None:
    process = start(workspace, "--max_iters=1000000")
    deadline = time.monotonic() + 60
    while not list(workspace.glob("runs/*/ckpt.pt")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    out_dir = only_run(workspace)
    last = list(read_events(out_dir / "events.jsonl"))[-1]
    assert process.returncode == 0 and last["event"] == "end" and last["status"] == "stopped", text
    assert not (out_dir / "stop").exists() and holder(out_dir) is None
    assert "--init_from=resume" in text and "[stopped]" in text


def test_failing_trainer_shows_the_end_of_its_output(workspace: Path) -> None:
    process = start(workspace, "--n_head=5")
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "exit code 2" in text and "n_head" in text.split("exit code 2")[1]
    assert "Traceback" not in text


@pytest.mark.parametrize(("arguments", "needle"), [
    (["--read-only"], "--read-only"), (["--", "--out_dir=x"], "--out_dir"), (["--workspace", "nowhere"], "nowhere"),
    (["--bogus"], "--bogus")])
def test_refusals(tmp_path: Path, arguments: list[str], needle: str) -> None:
    """坏输入：至多三行，退出码 2，什么也不写。"""
    done = subprocess.run([sys.executable, "-m", "workbench", *arguments], cwd=tmp_path, env=ENVIRON, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert done.returncode == 2 and needle in done.stderr and len(done.stderr.splitlines()) <= 3
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_subcommand(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "workbench", "--help"], cwd=tmp_path, env=ENVIRON, text=True,
                          capture_output=True, timeout=60)
    assert done.returncode == 0 and re.search(r"usage: nanogpt-workbench .*--lang", done.stdout, re.S)
    assert "plot RUN" in done.stdout


def test_console_tail_is_bounded_and_visible(tmp_path: Path) -> None:
    (tmp_path / "console.log").write_bytes(b"x" * 10_000_000 + b"\n" + b"\x1b[31m line\r\n" * 100)
    tail = console_tail(tmp_path)
    assert len(tail.split("\n")) == 15 and "\x1b" not in tail and r"\x1b[31m line" in tail
    assert console_tail(tmp_path / "absent") == ""


def test_two_runs_in_one_second_get_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    old = os.umask(0)
    try:
        folders = {make_out_dir("quickstart") for _ in range(3)}
    finally:
        os.umask(old)
    assert len(folders) == 3 and all(folder.stat().st_mode & 0o777 == 0o700 for folder in folders)
