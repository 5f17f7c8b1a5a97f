"""`RunStore` 与 `WatchedRun`：找到、登记、忘记、死活。全部约 2 s。"""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pilot import write_run

from nanogpt.events import EventWriter
from workbench import watched_run
from workbench.chart import View, curves_of
from workbench.run_store import RunStore
from workbench.sketch import sketch
from workbench.watched_run import WatchedRun


def test_finds_runs_however_they_were_started(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "alpha")
    write_run(tmp_path / "out-shell")
    (tmp_path / "runs" / "not-a-run").mkdir()
    store = RunStore(tmp_path)
    is_list_changed, changed = store.poll(0.0)
    assert is_list_changed and {folder.name for folder in changed} == {"alpha", "out-shell"}
    assert store.is_loaded
    assert store.poll(0.5) == (False, set())


def test_a_vanished_run_is_dropped_and_a_new_one_found(tmp_path: Path) -> None:
    import shutil

    first = write_run(tmp_path / "runs" / "alpha")
    store = RunStore(tmp_path)
    store.poll(0.0)
    shutil.rmtree(first)
    write_run(tmp_path / "runs" / "beta")
    assert store.poll(10.0)[0]
    assert [folder.name for folder in store.runs] == ["beta"]


def test_ensure_gives_the_same_run_by_any_spelling(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "alpha")
    store = RunStore(Path())
    store.poll(0.0)
    assert store.ensure(tmp_path / "runs" / "alpha") is store.ensure(Path("runs/alpha"))
    assert len(store.runs) == 1


def test_launched_process_is_starting_until_it_speaks_or_ends(tmp_path: Path) -> None:
    """刚启动、还没拿锁的不是「中断」；没写下一个事件就退出的是失败。"""
    out_dir = tmp_path / "runs" / "alpha"
    out_dir.mkdir(parents=True)
    (out_dir / "console.log").write_text("error: no such preset\n", encoding="utf-8")
    run = WatchedRun(out_dir)
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read(); sys.exit(2)"],
                               stdin=subprocess.PIPE)
    run.launched(process)
    run.refresh()
    assert run.status == "starting"
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
    run.refresh()
    assert run.status == "failed" and run.is_silent_failure


def test_resumed_run_is_starting_again(tmp_path: Path) -> None:
    out_dir = write_run(tmp_path / "runs" / "alpha", status="stopped")
    run = WatchedRun(out_dir)
    run.refresh()
    assert run.status == "stopped"
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    run.launched(process)
    run.refresh()
    assert run.status == "starting" and not run.has_ended
    with open(out_dir / "lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = EventWriter(out_dir / "events.jsonl")
        writer.emit("start", config={"max_iters": 40}, resumed_from_iter=20, params=1, tokens_per_iter=1, world_size=1,
                    device_name="cpu", peak_flops=None)
        run.refresh()
        assert run.status == "running"
        writer.emit("end", status="finished", iter=40)
        writer.close()
        # 进程还没退出：以事件为准
        run.refresh()
        assert run.status == "finished"
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def test_a_console_alone_is_starting_and_later_a_failure(tmp_path: Path) -> None:
    out_dir = tmp_path / "runs" / "alpha"
    out_dir.mkdir(parents=True)
    console = out_dir / "console.log"
    console.write_text("x\n", encoding="utf-8")
    run = WatchedRun(out_dir)
    run.refresh()
    assert run.status == "starting"
    os.utime(console, (time.time() - 3600, time.time() - 3600))
    run.refresh()
    assert run.status == "failed"


def test_a_torn_read_never_gives_columns_of_two_lengths(tmp_path: Path) -> None:
    """一个线程折叠事件，另一个同时取曲线：各列总是一样长。"""
    out_dir = write_run(tmp_path / "runs" / "alpha", 2000, status=None)
    run = WatchedRun(out_dir)
    is_over = False

    def read() -> None:
        writer = EventWriter(out_dir / "events.jsonl")
        for index in range(15):
            # 每次都从头来：`_drop_from` 整列改写
            writer.emit("start", config={"max_iters": 2000}, resumed_from_iter=index, params=1, tokens_per_iter=1,
                        world_size=1, device_name="cpu", peak_flops=None)
            for step in range(index, 300):
                writer.emit("iter", iter=step, loss=1.0, lr=1.0, grad_norm=1.0, iter_ms=1.0, tokens_per_second=1.0,
                            mfu=None, memory_mib=1.0)
            run.refresh()
        writer.close()

    reader = threading.Thread(target=read)
    reader.start()
    count = 0
    while not is_over:
        is_over = not reader.is_alive()
        for view in (View(), View(x_axis="time"), View(metric="speed", x_axis="tokens")):
            for curve in curves_of([run], view):
                assert len(curve.x) == len(curve.y)
                count += 1
    reader.join()
    assert count > 10


def test_lock_of_another_host_still_counts_as_alive(tmp_path: Path) -> None:
    out_dir = write_run(tmp_path / "runs" / "alpha", status=None)
    with open(out_dir / "lock", "w", encoding="utf-8") as file:
        file.write(json.dumps({"pid": 1, "host": "elsewhere"}))
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        run = WatchedRun(out_dir)
        run.refresh()
        assert run.status == "running"
    run.refresh()
    assert run.status == "interrupted"


def test_a_long_log_is_sketched_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """读完之前已有整条曲线、末尾的那一步与配置；中途续训重算过的点不重复；读完换成一步不落的。"""
    monkeypatch.setattr(watched_run, "SKETCH_BYTES", 1 << 20)
    out_dir = tmp_path / "run"
    out_dir.mkdir()
    writer = EventWriter(out_dir / "events.jsonl")
    config = {"max_iters": 20_000, "dataset": "tiny"}
    for first, last in ((0, 12_000), (9_000, 20_000)):
        writer.emit("start", config=config, resumed_from_iter=first or None, params=1)
        for index in range(first, last):
            writer.emit("iter", iter=index, loss=4.0 - index / 1e4, lr=1e-3)
            if index % 1000 == 0:
                writer.emit("eval", iter=index, train_loss=3.0, val_loss=3.0, best_val_loss=3.0)
    writer.emit("end", status="finished", iter=20_000)
    writer.close()
    run = WatchedRun(out_dir)
    assert run.refresh(256 << 10) and run.follower.is_behind
    sketched = run.state
    iters, losses = sketched.column("iter"), sketched.column("loss")
    assert (sketched.status, sketched.max_iters, sketched.last_iter) == ("finished", 20_000, 20_000)
    assert (np.diff(iters) > 0).all() and iters[0] == 0 and iters[-1] == 19_999
    assert np.diff(iters).max() < 500 and np.array_equal(losses, 4.0 - iters / 1e4)
    assert not run.refresh(256 << 10) and run.state is sketched, "the sketch stays until everything is read"
    while run.follower.is_behind:
        run.refresh(256 << 10)
    assert run.state is not sketched
    # 又续训了：前一段的结局不是它的
    writer = EventWriter(out_dir / "events.jsonl")
    writer.emit("start", config={**config, "max_iters": 30_000}, resumed_from_iter=20_000, params=1)
    writer.emit("iter", iter=20_000, loss=2.0, lr=1e-3)
    writer.close()
    assert sketch(run.follower).status == "running"
    assert np.array_equal(run.state.column("iter"), np.arange(20_000)) and run.state.eval_count == 20
