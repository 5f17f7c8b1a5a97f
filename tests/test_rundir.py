"""运行目录：锁、占用、权限、停止文件、秘密（故障表第 5、13 到 16、38 行）。约 15 s。"""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest
from conftest import TINY
from fault_campaign import digest, events_of, load
from trainer_fork import ROOT, clean_env

from nanogpt.atomic import atomic_file, sweep_temp_files
from nanogpt.config import TrainConfig
from nanogpt.errors import BadInput
from nanogpt.rundir import RunDir, holder

ENDLESS = ("--max_iters=1000000", "--lr_decay_iters=1000000", "--eval_interval=1000000")


def wait_for(condition, run=None, limit_s=60):
    end = time.monotonic() + limit_s
    while not condition():
        assert run is None or run.poll() is None, run.output
        assert time.monotonic() < end
        time.sleep(0.01)


def has_iters(out):
    return lambda: (out / "events.jsonl").exists() and b'"iter_ms"' in (out / "events.jsonl").read_bytes()


def test_second_trainer_is_refused(workspace, fork_train):
    """第二个说出 pid 与主机；第一个不受影响；被 kill -9 之后锁自己放开。"""
    first = fork_train(*ENDLESS, "--out_dir=out", wait=False)
    wait_for(has_iters(workspace / "out"), first)
    for more in ("--overwrite", "--eval_only", "--init_from=scratch"):
        second = fork_train("--out_dir=out", more)
        assert second.returncode == 2 and f"pid {first.pid} on {socket.gethostname()}" in second.output, second.output
        assert len(second.output.splitlines()) <= 3
    assert holder(workspace / "out")["pid"] == first.pid and first.poll() is None
    first.kill(signal.SIGKILL)
    first.wait()
    assert holder(workspace / "out") is None
    third = fork_train("--out_dir=out", "--overwrite")
    assert third.returncode == 0, third.output


def test_exactly_one_of_a_pair_wins(workspace, fork_train):
    """五对同时出发的训练器，每一对恰有一个得到目录，另一个说得出是谁。"""
    for number in range(5):
        runs = [fork_train(*ENDLESS, f"--out_dir=pair{number}", wait=False) for _ in range(2)]
        wait_for(lambda runs=runs: any(run.poll() is not None for run in runs))
        loser, winner = sorted(runs, key=lambda run: run.poll() is None)
        assert loser.returncode == 2 and f"pid {winner.pid} on" in loser.output, loser.output
        wait_for(has_iters(workspace / f"pair{number}"), winner)
        winner.kill(signal.SIGTERM)
        assert winner.wait() == 0


def test_a_glance_at_the_lock_does_not_refuse(tmp_path):
    """查看「谁占着」的一方会把锁借走一瞬间，训练器不该因此拒绝。"""
    watcher = subprocess.Popen([sys.executable, "-c", "import sys\nfrom pathlib import Path\n"
                                "from nanogpt.rundir import holder\nprint(flush=True)\n"
                                "while True: holder(Path(sys.argv[1]))", str(tmp_path)],
                               env=clean_env(), stdout=subprocess.PIPE)
    try:
        watcher.stdout.readline()
        for _ in range(2000):
            RunDir(str(tmp_path)).close()
    finally:
        watcher.kill()
        watcher.wait()
        watcher.stdout.close()


def test_fresh_run_over_an_old_one(workspace, fork_train):
    """不带 `--overwrite` 就拒绝，一个字节也不动；`eval_only` 可以；`--overwrite` 从头来。"""
    assert fork_train("--out_dir=out").returncode == 0
    out = workspace / "out"
    before = {path.name: digest(path) for path in out.iterdir() if path.name != "lock"}
    run = fork_train("--out_dir=out")
    assert run.returncode == 2 and "--overwrite" in run.output and len(run.output.splitlines()) <= 3
    assert {path.name: digest(path) for path in out.iterdir() if path.name != "lock"} == before
    assert fork_train("--out_dir=out", "--eval_only").returncode == 0
    after = {path.name: digest(path) for path in out.iterdir() if path.name != "lock"}
    assert {name for name in before if before[name] != after[name]} == {"events.jsonl"}
    assert events_of(out)[-1]["status"] == "finished"
    assert fork_train("--out_dir=out", "--overwrite", "--max_iters=2").returncode == 0
    assert [e["event"] for e in events_of(out)].count("start") == 1 and load(out / "ckpt.pt")["iter_num"] == 2


def test_nanogpt_run_is_not_overwritten(workspace, fork_train):
    """只有 `ckpt.pt` 的目录也是一次运行。"""
    (workspace / "out").mkdir()
    (workspace / "out" / "ckpt.pt").write_bytes(b"precious")
    assert fork_train("--out_dir=out").returncode == 2
    assert (workspace / "out" / "ckpt.pt").read_bytes() == b"precious"


def test_below_a_file(workspace, fork_train):
    """目录建不了：拒绝，不超过三行。（以 root 运行时权限挡不住，所以用普通文件下面的路径。）"""
    (workspace / "file").write_text("", encoding="utf-8")
    for out_dir in ("file/out", "file"):
        run = fork_train(f"--out_dir={out_dir}")
        assert run.returncode == 2 and "cannot write to the run directory" in run.output
        assert len(run.output.splitlines()) <= 3


@pytest.fixture
def small_disk(tmp_path):
    """一个小的 tmpfs；不许挂载的地方跳过。"""
    mounted = []

    def mount(name, options):
        folder = tmp_path / name
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True,
                              check=False)
        if done.returncode:
            pytest.skip("mounting a tmpfs is not allowed here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_read_only_directory(small_disk, fork_train):
    folder = small_disk("readonly", "size=1m,ro")
    for out_dir in (folder, folder / "new"):
        run = fork_train(f"--out_dir={out_dir}")
        assert run.returncode == 2 and "Read-only file system" in run.output, run.output


def test_full_disk_at_the_start(small_disk, fork_train):
    folder = small_disk("full", "size=64k")
    (folder / "ballast").write_bytes(b"x" * 60 * 1024)
    run = fork_train(f"--out_dir={folder}/out")
    assert run.returncode == 4 and "disk full" in run.output, run.output
    assert len(run.output.splitlines()) <= 3


def test_real_full_disk(small_disk, fork_train):
    """真的 ENOSPC：容得下日志，容不下第二份检查点。每次都警告，最后以 4 结束，头一份完好。"""
    folder = small_disk("small", "size=200k")
    run = fork_train(f"--out_dir={folder}/out")
    assert run.returncode == 4, run.output
    events = events_of(folder / "out")
    assert {e["code"] for e in events if e["event"] == "warning"} == {"low_disk_space", "checkpoint_failed"}
    assert events[-1]["status"] == "failed" and events[-2]["code"] == "finished_unsaved"
    assert "disk full" in next(e["message"] for e in events if e.get("code") == "checkpoint_failed")
    assert load(folder / "out" / "ckpt.pt")["iter_num"] == 2 and not list((folder / "out").glob("*.tmp"))


@pytest.mark.parametrize("umask", [0, 0o077, 0o022])
def test_permissions(workspace, fork_train, umask):
    """文件 0600、目录 0700，不论 umask；环境里的秘密不进任何文件。"""
    run = fork_train("--out_dir=a/b", "--checkpoint_interval=2", inject={"kind": "umask", "umask": umask},
                     env={"WANDB_API_KEY": "canary-7f3a", "HF_TOKEN": "canary-7f3a"})
    assert run.returncode == 0, run.output
    for folder in (workspace / "a", workspace / "a" / "b"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list((workspace / "a" / "b").iterdir())
    assert {"ckpt.pt", "ckpt-2.pt", "events.jsonl", "run.json", "config.toml", "lock"} <= {p.name for p in files}
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert b"canary-7f3a" not in path.read_bytes(), path


def test_run_json_names_the_process(workspace, fork_train):
    run = fork_train("--out_dir=out")
    found = json.loads((workspace / "out" / "run.json").read_text(encoding="utf-8"))
    assert found["pid"] == run.pid and found["host"] == socket.gethostname() and found["world_size"] == 1
    assert found["pid_start_time"] > 0 and found["boot_id"] and "--out_dir=out" in found["argv"]


def test_config_toml_is_a_preset(workspace, fork_train):
    assert fork_train("--out_dir=one").returncode == 0
    again = fork_train("one/config.toml", "--out_dir=two", tiny=False)
    assert again.returncode == 0, again.output
    losses = [[e["loss"] for e in events_of(workspace / name) if e["event"] == "iter"] for name in ("one", "two")]
    assert losses[0] == losses[1]


def test_stale_stop_file(workspace):
    """上一次剩下的停止文件丢掉；占住目录之后、打开之前来的留着。"""
    out = workspace / "out"
    out.mkdir()
    (out / "stop").touch()
    os.utime(out / "stop", (1, 1))
    for makes_new in (False, True):
        run = RunDir(str(out))
        if makes_new:
            (out / "stop").touch()
            os.utime(out / "stop", (time.time() + 1, time.time() + 1))
        run.open(TrainConfig(), {})
        assert run.stop_requested() is makes_new
        run.close()


def test_sweep_takes_only_our_own(tmp_path):
    for name in ("ckpt.pt.123.tmp", "run.json.9.tmp", "notes.tmp", "x.abc.tmp", "ckpt.pt"):
        (tmp_path / name).touch()
    sweep_temp_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.tmp", "x.abc.tmp", "ckpt.pt"}


def test_atomic_file_leaves_nothing_behind(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "x") as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert (tmp_path / "x").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_locked_message_without_a_name(tmp_path):
    """锁着而内容读不出（例如磁盘满时）也不崩。"""
    first = RunDir(str(tmp_path))
    (tmp_path / "lock").write_bytes(b"\xff{")
    with pytest.raises(BadInput) as caught:
        RunDir(str(tmp_path))
    assert caught.value.code == "out_dir_locked"
    first.close()


def test_early_signal_counts(workspace):
    """真的命令：torch 还在载入时来的 SIGTERM 也带着检查点结束。约 3 s。"""
    process = subprocess.Popen([sys.executable, "-m", "nanogpt.train", *TINY, *ENDLESS, "--out_dir=out"],
                               cwd=workspace, env=clean_env(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               start_new_session=True)
    try:
        # 锁在检查输入时就占住，那时 torch 还没有载入
        wait_for(lambda: (workspace / "out" / "lock").exists() and (workspace / "out" / "lock").stat().st_size > 0)
        time.sleep(0.1)
        assert not (workspace / "out" / "events.jsonl").exists()
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1].decode()
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "stopping at the next step boundary" in said and "Traceback" not in said
    assert events_of(workspace / "out")[-1]["status"] == "stopped" and load(workspace / "out" / "ckpt.pt")


def test_terminal_is_as_before(workspace):
    """在真的 pty 上画着进度条时被 SIGTERM：终端的设置与光标都如初。约 4 s。"""
    import pty
    import termios
    import threading

    main_fd, terminal = pty.openpty()
    before, shown = termios.tcgetattr(terminal), bytearray()
    process = subprocess.Popen([sys.executable, "-m", "nanogpt.train", *TINY, *ENDLESS, "--out_dir=out"],
                               cwd=workspace, env=clean_env(TERM="xterm-256color", COLUMNS="80", LINES="24"),
                               stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True)

    def drain():
        while True:
            try:
                shown.extend(os.read(main_fd, 65536))
            except OSError:
                return

    threading.Thread(target=drain, daemon=True).start()
    try:
        wait_for(lambda: re.search(rb"\d+/1000000", bytes(shown)), ProcessState(process, shown))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0, shown
        assert termios.tcgetattr(terminal) == before
    finally:
        process.kill()
        os.close(terminal)
    assert bytes(shown).rfind(b"\x1b[?25h") > bytes(shown).rfind(b"\x1b[?25l"), "the cursor is left hidden"


class ProcessState:
    """让 `wait_for` 也能看一个 `Popen`。"""

    def __init__(self, process, shown):
        self.poll, self.shown = process.poll, shown

    @property
    def output(self):
        return bytes(self.shown)


def test_rundir_needs_no_torch():
    code = "import sys, nanogpt.rundir, nanogpt.stopping; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean_env(), check=False).returncode == 0
