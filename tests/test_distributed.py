"""两个 gloo rank：梯度、续训、停止、死掉的 rank 与代理（故障表第 11、15、18、19、22 行）。约 45 s。

多数用例由 `fork_train` 起两个带着 RANK 的进程，省去 `torchrun` 的几秒；凡与 `torchrun`
本身有关的，起的是真的 `python -m torch.distributed.run`。
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY, make_tiny_dataset, slow
from fault_campaign import events_of, load, same
from trainer_fork import clean_env

LONG = ("--out_dir=out", "--eval_interval=3", "--max_iters=7", "--lr_decay_iters=8")
ENDLESS = ("--out_dir=out", "--eval_interval=100000", "--max_iters=1000000", "--lr_decay_iters=1000000")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_ranks(server, cwd, *args, world_size=2, inject=None):
    """像 `torchrun` 那样起 `world_size` 个训练器，立即返回。"""
    port = free_port()
    return [server.start(cwd, *TINY, *args, inject=inject, env={
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}) for rank in range(world_size)]


def run_ranks(server, cwd, *args, **options):
    runs = start_ranks(server, cwd, *args, **options)
    codes = [run.wait() for run in runs]
    assert codes == [0] * len(runs), "\n".join(run.output for run in runs)


def wait_for_iter(out, at_least, is_alive=lambda: True):
    end = time.monotonic() + 90
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError, AssertionError):
            if any(e["event"] == "iter" and e["iter"] >= at_least for e in events_of(out)):
                return
        assert is_alive()
        time.sleep(0.02)
    raise AssertionError("no progress")


@pytest.fixture(scope="module")
def whole(trainer_server, tmp_path_factory):
    """两个 rank 从未中断的运行。"""
    folder = tmp_path_factory.mktemp("whole2")
    make_tiny_dataset(folder / "data" / "tiny")
    run_ranks(trainer_server, folder, *LONG)
    return folder / "out"


@pytest.mark.parametrize("at", range(1, 8))
def test_resume_of_two_ranks(whole, trainer_server, workspace, at):
    """停在每一步再续：后来的损失、权重、优化器与两个 rank 的随机数都逐位相同。"""
    run_ranks(trainer_server, workspace, *LONG, inject={"kind": "stop_file", "at": at})
    assert events_of(workspace / "out")[-1]["status"] == "stopped"
    run_ranks(trainer_server, workspace, *LONG, "--init_from=resume")
    one, other = ({(e["event"], e["iter"]): (e.get("loss"), e.get("val_loss"), e.get("grad_norm"))
                   for e in events_of(out) if e["event"] in ("iter", "eval")} for out in (whole, workspace / "out"))
    assert one == other and len(one) == 8 + 3
    a, b = load(whole / "ckpt.pt"), load(workspace / "out" / "ckpt.pt")
    assert len(a["rank_states"]) == 2
    assert all(same(a[key], b[key]) for key in ("model", "optimizer", "iter_num", "best_val_loss", "rank_states"))


def test_resume_after_a_kill(whole, trainer_server, workspace):
    """rank 0 在第二次保存改名之前被 kill -9：续训自第一次，结局逐位相同；另一个 rank 不等。"""
    runs = start_ranks(trainer_server, workspace, *LONG, inject={"kind": "SIGKILL", "at": 24, "save": 2})
    assert runs[0].wait() == -9 and runs[1].wait(15) != 0
    assert "lost contact" not in runs[1].output, "only rank 0 speaks"
    assert load(workspace / "out" / "ckpt.pt")["iter_num"] == 3
    run_ranks(trainer_server, workspace, *LONG, "--init_from=resume")
    a, b = load(whole / "ckpt.pt"), load(workspace / "out" / "ckpt.pt")
    assert all(same(a[key], b[key]) for key in ("model", "optimizer", "iter_num", "rank_states"))


def test_another_world_size_is_said(whole, trainer_server, workspace):
    import shutil

    shutil.copytree(whole, workspace / "out")
    run = trainer_server.train(workspace, *TINY, *LONG, "--init_from=resume", "--max_iters=9")
    assert run.returncode == 0, run.output
    warning = next(e for e in events_of(workspace / "out") if e["event"] == "warning")
    assert warning["code"] == "resume_not_exact" and "world_size: 2 -> 1" in warning["message"]


def test_gradients_equal_twice_the_accumulation(trainer_server, workspace):
    """2 rank × 2 个微批的平均梯度等于单进程 4 个微批，至 1e-6；三步之后的权重也是。"""
    args = ("--gradient_accumulation_steps=4", "--dropout=0", "--max_iters=2", "--eval_interval=100")
    inject = {"kind": "same_batches", "folder": str(workspace)}
    run = trainer_server.train(workspace, *TINY, *args, "--out_dir=one", inject=inject)
    assert run.returncode == 0, run.output
    run_ranks(trainer_server, workspace, *args, "--out_dir=two", inject=inject)
    single, first, second = (torch.load(workspace / f"grads-{name}.pt") for name in ("single", "0", "1"))
    assert len(single) == len(first) == 3
    for a, b, c in zip(single[0], first[0], second[0], strict=True):
        assert torch.equal(b, c), "the ranks do not agree"
        assert a.abs().max() > 1e-5, "a gradient of nothing proves nothing"
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    one, two = (load(workspace / name / "ckpt.pt")["model"] for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], rtol=0, atol=1e-6)
    losses = [[e["loss"] for e in events_of(workspace / name) if e["event"] == "iter"] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6) and losses[0][0] != losses[0][1]


def test_divergence_of_two_ranks(trainer_server, workspace):
    """两个 rank 得出同样的结论，谁也不等谁。"""
    runs = start_ranks(trainer_server, workspace, *ENDLESS, "--learning_rate=1e8", "--grad_clip=0", "--warmup_iters=0",
                       "--decay_lr=False")
    assert [run.wait(20) for run in runs] == [3, 3], runs[0].output
    events = events_of(workspace / "out")
    assert [e.get("code", e.get("status")) for e in events[-2:]] == ["diverged", "diverged"]


def test_accumulation_must_divide(trainer_server, workspace):
    """说一次，不是每个 rank 一次；不等别人。"""
    runs = start_ranks(trainer_server, workspace, *ENDLESS, "--gradient_accumulation_steps=3")
    assert [run.wait(10) for run in runs] == [2, 2]
    assert "gradient_accumulation_steps" in runs[0].output and runs[1].output == ""
    assert len(runs[0].output.splitlines()) <= 3 and not (workspace / "out").exists()


def test_a_killed_rank_ends_the_others(trainer_server, workspace):
    """没有代理时也不等：rank 1 被 kill -9，rank 0 在 5 s 内说失去联系。"""
    runs = start_ranks(trainer_server, workspace, *ENDLESS)
    wait_for_iter(workspace / "out", 3, lambda: runs[0].poll() is None)
    runs[1].kill(signal.SIGKILL)
    assert runs[0].wait(5) == 1
    events = events_of(workspace / "out")
    assert events[-2]["code"] == "rank_lost" and events[-1]["status"] == "failed"
    assert "Traceback" not in runs[0].output


def listening(pid):
    """进程 `pid` 在听的 TCP 地址。"""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(fd))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.append(fields[1].split(":")[0])
    return found


class TorchRun:
    """真的 `torchrun`，两个 rank。"""

    def __init__(self, cwd, *args):
        self.log = (cwd / "torchrun.log").open("w", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "nanogpt.train",
             *TINY, *args], cwd=cwd, env=clean_env(), stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)
        self.cwd = cwd

    def ranks(self):
        """各 rank 的进程号。"""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
                if int(fields[1]) == self.process.pid and fields[0] != "Z":
                    found.append(int(stat.parent.name))
        return sorted(found)

    def wait_for_iter(self, at_least):
        wait_for_iter(self.cwd / "out", at_least, lambda: self.process.poll() is None)

    @property
    def output(self):
        return (self.cwd / "torchrun.log").read_text(encoding="utf-8")

    def close(self):
        for pid in [*self.ranks(), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


@pytest.fixture
def torchrun(workspace):
    started = []

    def start(*args):
        started.append(TorchRun(workspace, *args))
        return started[-1]

    yield start
    for run in started:
        run.close()


def wait_until_gone(pids, limit_s):
    end = time.monotonic() + limit_s
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()
                    and Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"]:
        assert time.monotonic() < end, f"still alive: {alive}"
        time.sleep(0.05)


@pytest.mark.xdist_group("torchrun")
def test_torchrun_trains_and_stops(torchrun, workspace):
    """两个 rank 训练，只听回环，停止文件使它们带着检查点结束。"""
    run = torchrun(*ENDLESS)
    run.wait_for_iter(3)
    pids = run.ranks()
    assert len(pids) == 2
    addresses = [address for pid in pids for address in listening(pid)]
    assert addresses and set(addresses) <= {"0100007F", "00000000000000000000000001000000"}, addresses
    (workspace / "out" / "stop").touch()
    assert run.process.wait(timeout=30) == 0, run.output
    events = events_of(workspace / "out")
    assert events[0]["world_size"] == 2 and events[0]["tokens_per_iter"] == 2 * 4 * 16
    assert events[-1]["status"] == "stopped" and not (workspace / "out" / "stop").exists()
    assert load(workspace / "out" / "ckpt.pt")["iter_num"] == events[-1]["iter"]


@pytest.mark.xdist_group("torchrun")
@slow
def test_killed_agent_leaves_no_orphans(torchrun, workspace):
    run = torchrun(*ENDLESS)
    run.wait_for_iter(3)
    pids = run.ranks()
    assert len(pids) == 2
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    wait_until_gone(pids, 30)
    assert events_of(workspace / "out")[-1]["event"] == "end"
    load(workspace / "out" / "ckpt.pt")


@pytest.mark.xdist_group("torchrun")
@slow
def test_killed_agent_during_start_up(torchrun):
    """torch 还没载入完，代理就没了。"""
    run = torchrun(*ENDLESS)
    end = time.monotonic() + 30
    while len(pids := run.ranks()) < 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    wait_until_gone(pids, 20)


@pytest.mark.xdist_group("torchrun")
def test_killed_rank_under_torchrun(torchrun, workspace):
    run = torchrun(*ENDLESS)
    run.wait_for_iter(3)
    pids = run.ranks()
    master = int(next(iter((workspace / "out" / "lock").read_text(encoding="utf-8").split('"pid":')[1].split(","))))
    os.kill(next(pid for pid in pids if pid != master), signal.SIGKILL)
    assert run.process.wait(timeout=20) != 0
    wait_until_gone(pids, 5)
    events = events_of(workspace / "out")
    assert events[-1]["event"] == "end" and events[-1]["status"] == "failed"
    assert events[-2]["code"] == "rank_lost"


@pytest.mark.xdist_group("torchrun")
@slow
def test_torchrun_terminated(torchrun, workspace):
    """调度器对代理发 SIGTERM：它转给各 rank，各 rank 带着检查点停下。"""
    run = torchrun(*ENDLESS)
    run.wait_for_iter(3)
    pids = run.ranks()
    os.kill(run.process.pid, signal.SIGTERM)
    run.process.wait(timeout=40)
    wait_until_gone(pids, 5)
    assert events_of(workspace / "out")[-1]["status"] == "stopped"
    load(workspace / "out" / "ckpt.pt")


def test_modern_recipe_on_two_ranks(trainer_server, workspace):
    """Muon 与现代的网络：停下再续与不停的逐位相同；每个 rank 自己算的更新一样，权重因此始终一致。"""
    modern = (*LONG, "--optimizer=muon", "--lr_schedule=linear", "--min_lr=0", "--rotary=True", "--qk_norm=True",
              "--squared_relu=True", "--weightless_norm=True", "--untied_head=True", "--zero_init=True")
    inject = {"kind": "same_batches", "folder": str(workspace)}
    run_ranks(trainer_server, workspace, *modern, "--out_dir=whole", inject=inject)
    first, second = (torch.load(workspace / f"grads-{rank}.pt") for rank in (0, 1))
    assert len(first) == 8 and all(torch.equal(a, b) for one, two in zip(first, second, strict=True)
                                   for a, b in zip(one, two, strict=True))
    run_ranks(trainer_server, workspace, *modern, "--out_dir=plain")
    run_ranks(trainer_server, workspace, *modern, inject={"kind": "stop_file", "at": 4})
    run_ranks(trainer_server, workspace, *modern, "--init_from=resume")
    a, b = load(workspace / "plain" / "ckpt.pt"), load(workspace / "out" / "ckpt.pt")
    assert len(a["rank_states"]) == 2
    assert all(same(a[key], b[key]) for key in ("model", "optimizer", "iter_num", "best_val_loss", "rank_states"))
