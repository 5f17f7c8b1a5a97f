"""保存途中的故障、坏检查点、磁盘与内存不够（故障表第 1 到 9、26、37、38 行）。约 40 s。

全部次数由 `python tests/fault_campaign.py` 跑；这里是同一批函数的样本。
"""

import math
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import IS_SLOW, TINY, make_tiny_dataset
from fault_campaign import SavePoints, events_of, load, random_kills
from trainer_fork import clean_env


@pytest.fixture(scope="module")
def points(trainer_server, tmp_path_factory):
    """注入点是数出来的：三次短的训练。"""
    folder = tmp_path_factory.mktemp("points")
    make_tiny_dataset(folder / "data" / "tiny")
    return SavePoints(trainer_server, folder, TINY)


def test_order_of_syncs(points):
    """数据先落盘，再改名，再让目录落盘。"""
    names = points.names
    assert names[0] == "open" and names[-3:] == ["fsync file", "rename", "fsync folder"]
    assert set(names[1:-3]) == {"write"} and len(names) > 10


def test_kill_at_every_call(points):
    every = points.all_points("SIGKILL")
    # 写了一半的点抽样，其余一个不落；全部由 `fault_campaign.py` 跑
    halves = [point for point in every if point[2] == "middle"]
    for point in [p for p in every if p[2] != "middle"] + random.Random(3).sample(halves, 5 if IS_SLOW else 2):
        points.check(*point)


@pytest.mark.parametrize("kind", ["SIGINT", "SIGTERM", "ENOSPC", "EIO", "EFBIG"])
def test_fault_at_sampled_calls(points, kind):
    """首尾的调用全试，中间的写抽样。"""
    every = points.all_points(kind)
    edges = [p for p in every if p[1] < 3 or p[1] >= len(points.names) - 4]
    for point in edges + random.Random(kind).sample(every, 6 if IS_SLOW else 2):
        points.check(*point)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_order_of_real_system_calls(workspace):
    """同样的次序，由内核的记录作证：`strace` 看一次真的训练。约 6 s。"""
    log = workspace / "strace.log"
    done = subprocess.run(["strace", "-y", "-e", "trace=fsync,fdatasync,rename,renameat,renameat2", "-o", str(log),
                           sys.executable, "-m", "nanogpt.train", *TINY, "--out_dir=out", "--max_iters=2"],
                          cwd=workspace, env=clean_env(), capture_output=True, text=True, check=False, timeout=90)
    if "ptrace" in done.stderr:
        pytest.skip("tracing is not allowed here")
    assert done.returncode == 0, done.stderr
    calls = [re.sub(r"\(.*?/out(/\S*?)?[>\"].*", lambda m: f" {m[1] or 'folder'}", line)
             for line in log.read_text(encoding="utf-8").splitlines() if "/out" in line or "out/" in line]
    at = next(i for i, line in enumerate(calls) if "ckpt.pt" in line)
    assert [line.split("(")[0].split()[0] for line in calls[at:at + 3]] == ["fsync", "rename", "fsync"], calls
    assert ".tmp" in calls[at] and "folder" in calls[at + 2], calls


def test_random_kills(trainer_server, workspace):
    """12 次随机 kill -9，一次次续训；`fault_campaign.py` 跑 1,000 次。"""
    count = random_kills(trainer_server, workspace, TINY, 12, seed=11)
    assert count["kills"] == 12 and count["with checkpoint"] >= 6


def test_file_size_limit(workspace, fork_train):
    """真的 EFBIG（`RLIMIT_FSIZE`）：一份也存不下。每次都警告，训练到底，最后说存不下，退出码 4。"""
    run = fork_train("--out_dir=out", inject={"kind": "fsize", "bytes": 50_000})
    assert run.returncode == 4 and len(run.output.split("error: ")[1].splitlines()) <= 3, run.output
    events = events_of(workspace / "out")
    assert [e["iter"] for e in events if e["event"] == "iter"] == list(range(7))
    assert [e["code"] for e in events if e["event"] in ("warning", "error")] == \
        ["checkpoint_failed"] * 4 + ["finished_unsaved"]
    assert events[-1]["status"] == "failed" and not list((workspace / "out").glob("*.tmp"))


def test_after_a_failed_save_a_worse_one_is_saved(workspace, fork_train):
    """最好的一份没有存成：此后略差、却比盘上的好的，照样存。几乎不学习，哪次评估低只看抽到的批，由种子选定。"""
    args = ("--always_save_checkpoint=False", "--learning_rate=1e-9", "--min_lr=1e-9", "--max_iters=4")

    def evaluated(out):
        return [e["val_loss"] for e in events_of(workspace / out) if e["event"] == "eval"]

    for seed in range(40):
        assert fork_train(f"--out_dir=dry{seed}", f"--seed={seed}", *args).returncode == 0
        first, best, later = evaluated(f"dry{seed}")
        if best < later < first:
            break
    assert best < later < first and load(workspace / f"dry{seed}" / "ckpt.pt")["iter_num"] == 2
    run = fork_train("--out_dir=out", f"--seed={seed}", *args,
                     inject={"kind": "ENOSPC", "at": 1, "phase": "before", "save": 1})
    assert run.returncode == 0 and evaluated("out") == [first, best, later], run.output
    assert [e["code"] for e in events_of(workspace / "out") if e["event"] == "warning"] == ["checkpoint_failed"]
    assert load(workspace / "out" / "ckpt.pt")["iter_num"] == 4


def test_stop_that_cannot_be_saved(workspace, fork_train):
    """请它停而存不下：退出码 4，说出能从哪一步接上。"""
    run = fork_train("--out_dir=out", "--max_iters=1000000", "--lr_decay_iters=1000000", "--eval_interval=100000",
                     inject={"kind": "fsize", "bytes": 50_000}, wait=False)
    while not (workspace / "out" / "events.jsonl").exists() or len(events_of(workspace / "out")) < 3:
        assert run.poll() is None, run.output
    run.kill(signal.SIGTERM)
    assert run.wait() == 4 and "could not be saved" in run.output, run.output
    events = events_of(workspace / "out")
    assert events[-2]["code"] == "stopped_unsaved" and events[-1]["status"] == "failed"


def test_low_disk_space_is_said_first(workspace, fork_train):
    """剩余空间由假的 `statvfs` 给出：训练之前就警告，训练照旧。"""
    run = fork_train("--out_dir=out", inject={"kind": "statvfs", "free": 1000})
    assert run.returncode == 0, run.output
    events = events_of(workspace / "out")
    assert [e["event"] for e in events[:2]] == ["start", "warning"] and events[1]["code"] == "low_disk_space"


@pytest.mark.parametrize("log_interval", [1, 5])
def test_divergence(workspace, fork_train, log_interval):
    """损失不再有限：退出码 3，盘上的检查点仍然有限、能用；两次记录之间发散的也拦得住。"""
    common = ("--out_dir=out", "--decay_lr=False", "--grad_clip=0", "--eval_interval=1", "--max_iters=60")
    run = fork_train(*common, "--warmup_iters=0", "--learning_rate=1e12", f"--log_interval={log_interval}")
    assert run.returncode == 3, run.output
    assert len(run.output.split("error: ")[1].splitlines()) <= 3
    events = events_of(workspace / "out")
    assert events[-2]["event"] == "error" and events[-2]["code"] == "diverged" and events[-1]["status"] == "diverged"
    if (workspace / "out" / "ckpt.pt").exists():
        saved = load(workspace / "out" / "ckpt.pt")
        assert all(torch.isfinite(tensor).all() for tensor in saved["model"].values())
        assert math.isfinite(saved["best_val_loss"])


def test_divergence_leaves_a_good_checkpoint(workspace, fork_train):
    """先好好训练几步，再发散：`ckpt.pt` 还是好的那一份，续得下去。"""
    assert fork_train("--out_dir=out", "--max_iters=4").returncode == 0
    run = fork_train("--out_dir=out", "--init_from=resume", "--max_iters=40", "--learning_rate=1e20", "--grad_clip=0",
                     "--decay_lr=False", "--eval_interval=1000")
    assert run.returncode == 3 and "the last checkpoint is of iter 4" in run.output, run.output
    assert load(workspace / "out" / "ckpt.pt")["iter_num"] == 4
    assert fork_train("--out_dir=out", "--init_from=resume", "--max_iters=8").returncode == 0


def test_out_of_memory(workspace, trainer_server, fork_train):
    """`RLIMIT_AS` 之下容不下的批：退出码 4，说出放得下的设置；照它说的一次次做，总能跑起来。"""
    status = Path(f"/proc/{trainer_server.process.pid}/status").read_text(encoding="utf-8")
    # 载入 torch 之后已有的地址空间，再加 350 MiB
    limit = (int(re.search(r"VmSize:\s+(\d+) kB", status)[1]) << 10) + (350 << 20)
    batch, steps, tries = 8192, 1, 0
    while True:
        run = fork_train(f"--out_dir=out{tries}", f"--batch_size={batch}", f"--gradient_accumulation_steps={steps}",
                         "--eval_iters=1", "--max_iters=0", address_space=limit)
        if run.returncode == 0:
            break
        assert run.returncode == 4, run.output
        assert events_of(workspace / f"out{tries}")[-2]["code"] == "out_of_memory"
        found = re.search(r"--batch_size=(\d+) --gradient_accumulation_steps=(\d+)", run.output)
        assert found and len(run.output.split("error: ")[1].splitlines()) <= 3, run.output
        assert int(found[1]) < batch and int(found[1]) * int(found[2]) == batch * steps
        batch, steps, tries = int(found[1]), int(found[2]), tries + 1
    assert 0 < tries < 10


def test_model_that_cannot_fit(fork_train):
    run = fork_train("--out_dir=out", "--n_embd=16384", address_space=3 << 30)
    assert run.returncode == 4 and "out of memory" in run.output, run.output
