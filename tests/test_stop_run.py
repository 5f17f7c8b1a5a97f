"""叫停：停止文件、宽限、逐级加重；pid 与开始时间对不上的从不收到信号。用真的子进程与假的时钟。约 3 s。"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.stop_run import KILLED, NOT_HERE, TERMINATED, StopEscalation, signal_holder

# 拿住锁、写下自己是谁、不理 SIGTERM 与停止文件；父进程一走（标准输入关了）就结束
HOLDER = """
import fcntl, json, os, signal, sys
from nanogpt.rundir import identity
signal.signal(signal.SIGTERM, lambda *_: print("TERM", flush=True))
file = open(sys.argv[1] + "/lock", "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(json.dumps({**identity(), **json.loads(sys.argv[2])})); file.flush()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    children = []

    def start(**forged: object) -> Any:
        child = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path), json.dumps(forged)], text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])})
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        children.append(child)
        return child

    yield start
    for child in children:
        child.stdin.close()
        child.wait(timeout=10)
        child.stdout.close()


def test_escalates_on_a_child_that_ignores_it(tmp_path: Path, hold: Callable[..., Any]) -> None:
    child, now = hold(), [0.0]
    stopping = StopEscalation(tmp_path, lambda: now[0])
    assert (tmp_path / "stop").exists() and stopping.step() == ""
    now[0] = 29.0
    assert stopping.step() == ""
    now[0] = 31.0
    assert stopping.step() == TERMINATED
    assert child.stdout.readline() == "TERM\n" and child.poll() is None
    now[0] = 89.0
    assert stopping.step() == ""
    now[0] = 91.0
    assert stopping.step() == KILLED
    assert child.wait(timeout=10) == -signal.SIGKILL
    assert stopping.step() == ""


@pytest.mark.parametrize("forged", [{"pid_start_time": 1.5}, {"boot_id": "another"}, {"host": "elsewhere"},
                                    {"pid_start_time": None}, {"pid": 1}, {"pid": -1}, {"pid": "x"}])
def test_a_stranger_is_never_signalled(tmp_path: Path, hold: Callable[..., Any], forged: dict[str, object]) -> None:
    child, now = hold(**forged), [0.0]
    assert not signal_holder(tmp_path, signal.SIGKILL)
    stopping = StopEscalation(tmp_path, lambda: now[0])
    now[0] = 1000.0
    assert stopping.step() == NOT_HERE and stopping.step() == NOT_HERE
    time.sleep(0.05)
    assert child.poll() is None


def test_nothing_is_sent_where_nobody_holds_the_run(tmp_path: Path) -> None:
    """锁文件里写着一个活着的进程，但没人拿着锁：那是旧的。"""
    from nanogpt.rundir import identity

    bystander = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    from nanogpt.rundir import process_start_time

    record = {**identity(), "pid": bystander.pid, "pid_start_time": process_start_time(bystander.pid)}
    (tmp_path / "lock").write_text(json.dumps(record), encoding="utf-8")
    assert not signal_holder(tmp_path, signal.SIGKILL)
    assert bystander.poll() is None
    with open(tmp_path / "lock", "r+", encoding="utf-8") as file:
        # 别人（这里是测试自己）拿着锁、写着旁观者：这回对得上，信号就发给它
        fcntl.flock(file, fcntl.LOCK_EX)
        assert signal_holder(tmp_path, signal.SIGKILL)
    assert bystander.wait(timeout=10) == -signal.SIGKILL
    assert bystander.stdin is not None
    bystander.stdin.close()
