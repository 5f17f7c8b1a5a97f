"""一个 rank 停住（SIGSTOP）：三十秒之内点名，超时之后干净地结束（faults.md 第 20 行）。"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from trainer_fork import clean_env

from nanogpt.events import read_events
from nanogpt.rank_watch import PERIOD_S, SILENCE_S


def _ranks_of(agent_pid: int) -> dict[int, int]:
    """torchrun 的各个子进程：rank → pid。"""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
                environ = dict(item.partition(b"=")[::2] for item in (folder / "environ").read_bytes().split(b"\0"))
            except (OSError, ValueError, IndexError):
                continue
            if parent == agent_pid and b"RANK" in environ:
                found[int(environ[b"RANK"])] = int(folder.name)
    return found


def _wait_for(what: Callable[[], Any], seconds: float) -> Any:
    """等到 `what()` 为真并返回它；等不到则失败。"""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := what():
            return value
        time.sleep(0.2)
    pytest.fail(f"nothing within {seconds} s")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_stopped_rank_is_named_and_the_run_gives_up(workspace):
    """停住 rank 1：先有 `rank_silent` 警告，`dist_timeout_s` 之后以 `rank_lost` 结束，进程都不在了。"""
    log = workspace / "run" / "events.jsonl"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               "-m", "nanogpt.train", *TINY, "--out_dir=run", "--max_iters=1000000", "--eval_interval=1000000",
               f"--dist_timeout_s={SILENCE_S + 3 * PERIOD_S + 6}"]
    agent = subprocess.Popen(command, cwd=workspace, env=clean_env(), stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, start_new_session=True)
    ranks: dict[int, int] = {}
    try:
        _wait_for(lambda: log.exists() and any(e["event"] == "iter" for e in read_events(log)), 60)
        ranks = _ranks_of(agent.pid)
        time.sleep(2 * PERIOD_S)
        os.kill(ranks[1], signal.SIGSTOP)
        silent = _wait_for(lambda: [e for e in read_events(log) if e.get("code") == "rank_silent"], 30)
        assert "rank 1" in silent[0]["message"]
        _wait_for(lambda: any(e["event"] == "end" for e in read_events(log)), 60)
        events = list(read_events(log))
        assert events[-1]["status"] == "failed"
        assert [e["code"] for e in events if e["event"] == "error"] == ["rank_lost"]
        assert [e["seq"] for e in events] == list(range(len(events)))
    finally:
        for pid in (agent.pid, *ranks.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        agent.wait()
