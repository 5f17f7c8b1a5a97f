"""续训：与从未中断的运行逐位相同（故障表第 11、12、15 行），说不相同时就是不相同。约 25 s。"""

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from conftest import make_tiny_dataset
from fault_campaign import digest, events_of, load, same

OUT = "--out_dir=out"
# 评估的间隔不整除 `max_iters`，所以末尾有几步在最后一次评估之后
LONG = (OUT, "--eval_interval=3", "--max_iters=8", "--lr_decay_iters=8")


def losses(out, key="loss", event="iter"):
    """每一步最后一次记下的损失；续训重走的步以重走的为准。"""
    return {e["iter"]: e[key] for e in events_of(out) if e["event"] == event}


def assert_same_run(one, other):
    """两个运行目录里每一步的损失、评估与最后的检查点都逐位相同。"""
    for event, key in (("iter", "loss"), ("iter", "grad_norm"), ("iter", "lr"), ("eval", "train_loss"),
                       ("eval", "val_loss")):
        assert losses(one, key, event) == losses(other, key, event), (event, key)
    a, b = load(one / "ckpt.pt"), load(other / "ckpt.pt")
    for key in ("model", "optimizer", "iter_num", "best_val_loss", "rank_states", "evaluated_iter", "is_best"):
        assert same(a[key], b[key]), key


@pytest.fixture(scope="module")
def whole(trainer_server, tmp_path_factory):
    """从未中断的运行。"""
    from conftest import TINY

    folder = tmp_path_factory.mktemp("whole")
    make_tiny_dataset(folder / "data" / "tiny")
    assert trainer_server.train(folder, *TINY, *LONG).returncode == 0
    return folder / "out"


def test_whole_run_has_every_step(whole):
    assert list(losses(whole)) == list(range(9))
    assert list(losses(whole, "val_loss", "eval")) == [0, 3, 6]
    assert load(whole / "ckpt.pt")["iter_num"] == 9


@pytest.mark.parametrize("inject", [
    *({"kind": "SIGKILL", "at": at, "phase": "after", "save": save} for save in (1, 2, 3) for at in (0, -1)),
    *({"kind": "SIGTERM", "at": 1, "save": save} for save in (1, 2)),
    {"kind": "SIGINT", "at": 1, "save": 2},
], ids=lambda spec: f"{spec['kind']}-save{spec['save']}-call{spec['at']}")
def test_interrupted_at_a_checkpoint(whole, workspace, fork_train, inject):
    """在每一个检查点上被打断：kill -9 在保存刚开始与刚结束，SIGTERM、SIGINT 在保存途中。"""
    if inject["at"] == -1:
        inject = {**inject, "at": 25}
    run = fork_train(*LONG, inject=inject)
    assert run.returncode == (-9 if inject["kind"] == "SIGKILL" else 0), run.output
    first = inject["kind"] == "SIGKILL" and inject["save"] == 1 and inject["at"] == 0
    again = fork_train(*LONG, "--overwrite" if first else "--init_from=resume")
    if (workspace / "out" / "ckpt.pt").exists() and again.returncode == 2:
        assert "max_iters" in again.output and inject["save"] == 3 and inject["at"] == 25
    else:
        assert again.returncode == 0, again.output
    assert_same_run(whole, workspace / "out")


@pytest.mark.parametrize("at", range(1, 9))
def test_stopped_at_every_step(whole, workspace, fork_train, at):
    """停止文件在第 `at` 步记下之后出现；停两次。停在两次评估之间时也不多评估一次。"""
    for when in (at, at + 2):
        mode = "--init_from=resume" if when != at else "--overwrite"
        run = fork_train(*LONG, mode, inject={"kind": "stop_file", "at": when})
        assert run.returncode == 0, run.output
        if when <= 8:
            events = events_of(workspace / "out")
            assert events[-1]["status"] == "stopped" and events[-1]["iter"] == when
            assert load(workspace / "out" / "ckpt.pt")["iter_num"] == when
            assert not (workspace / "out" / "stop").exists()
    if load(workspace / "out" / "ckpt.pt")["iter_num"] <= 8:
        assert fork_train(*LONG, "--init_from=resume").returncode == 0
    assert_same_run(whole, workspace / "out")


def test_resume_reads_its_own_config(whole, workspace, fork_train):
    """续训只说目录就够：其余的键取自那里的 `config.toml`。"""
    fork_train(*LONG, inject={"kind": "stop_file", "at": 5})
    run = fork_train(OUT, "--init_from=resume", tiny=False)
    assert run.returncode == 0, run.output
    assert_same_run(whole, workspace / "out")
    assert events_of(workspace / "out")[-1]["status"] == "finished"


def test_only_the_best_is_kept(workspace, fork_train):
    """`always_save_checkpoint=False`：停下时 `ckpt.pt` 是停下的状态，最好的另存；跑完后与没停过的一样。"""
    # 几乎不学，一批的损失时高时低：总有一个种子，最好的一份落在停下之前
    args = ("--always_save_checkpoint=False", "--eval_interval=1", "--eval_iters=1", "--learning_rate=1e-6",
            "--decay_lr=False", "--max_iters=9")
    for seed in range(20):
        run = fork_train(*args, f"--seed={seed}", "--out_dir=a", "--overwrite")
        assert run.returncode == 0, run.output
        if not (workspace / "a" / "ckpt.pt").exists():
            continue
        best = load(workspace / "a" / "ckpt.pt")
        if best["is_best"] and 2 <= best["iter_num"] < 7:
            break
    else:
        pytest.fail("no seed has its best in the middle")
    args = (*args, f"--seed={seed}")
    run = fork_train(*args, "--out_dir=b", inject={"kind": "stop_file", "at": 7})
    assert run.returncode == 0, run.output
    kept = workspace / "b" / f"ckpt-{best['iter_num']}.pt"
    assert same(load(kept)["model"], best["model"]) and load(workspace / "b" / "ckpt.pt")["iter_num"] == 7
    again = fork_train("--out_dir=b", "--init_from=resume", tiny=False)
    assert again.returncode == 0, again.output
    after = load(workspace / "b" / "ckpt.pt")
    assert same(after["model"], best["model"]) and after["iter_num"] == best["iter_num"] and kept.exists()


def test_another_shape_is_refused(whole, workspace, fork_train):
    shutil.copytree(whole, workspace / "out")
    before = digest(workspace / "out" / "ckpt.pt")
    run = fork_train(OUT, "--init_from=resume", "--n_layer=3", "--n_embd=32", "--max_iters=20", tiny=False)
    assert run.returncode == 2 and "n_layer: 2 -> 3; n_head" not in run.output, run.output
    assert "n_layer: 2 -> 3" in run.output and "n_embd: 16 -> 32" in run.output
    assert len(run.output.splitlines()) <= 3 and digest(workspace / "out" / "ckpt.pt") == before
    assert digest(whole / "events.jsonl") == digest(workspace / "out" / "events.jsonl")


@pytest.mark.parametrize(("change", "says"), [
    ("--batch_size=3", "batch_size: 4 -> 3"),
    ("--gradient_accumulation_steps=4", "gradient_accumulation_steps: 2 -> 4"),
    ("--dropout=0.2", "dropout: 0.1 -> 0.2"), ("--dataset=other", "dataset: tiny -> other"),
])
def test_not_exact_is_said(whole, workspace, fork_train, change, says):
    shutil.copytree(whole, workspace / "out")
    make_tiny_dataset(workspace / "data" / "other")
    run = fork_train(OUT, "--init_from=resume", "--max_iters=10", change, tiny=False)
    assert run.returncode == 0, run.output
    warnings = [e for e in events_of(workspace / "out") if e["event"] == "warning"]
    assert [w["code"] for w in warnings] == ["resume_not_exact"] and says in warnings[0]["message"]


@pytest.mark.parametrize(("change", "says"), [("data", "other data"), ("tokenizer", "another tokenizer")])
def test_a_dataset_prepared_again_is_said(whole, workspace, fork_train, change, says):
    """名字没变，里面换了：别的文字，或别的词表（个数相同，所以装得下）。"""
    shutil.copytree(whole, workspace / "out")
    folder = workspace / "data" / "tiny"
    if change == "data":
        ids = np.fromfile(folder / "train.bin", dtype="<u2")
        ids[7000:7100] = ids[100:200]
        ids.tofile(folder / "train.bin")
    else:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        meta["tokenizer"]["tokens"][5:7] = meta["tokenizer"]["tokens"][6:4:-1]
        (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    run = fork_train(OUT, "--init_from=resume", "--max_iters=10", tiny=False)
    assert run.returncode == 0, run.output
    warnings = [e for e in events_of(workspace / "out") if e["event"] == "warning"]
    assert [w["code"] for w in warnings] == ["resume_not_exact"] and says in warnings[0]["message"]
    assert warnings[0]["message"].count(";") == 0


def test_exact_says_nothing(whole, workspace, fork_train):
    shutil.copytree(whole, workspace / "out")
    assert fork_train(OUT, "--init_from=resume", "--max_iters=10", tiny=False).returncode == 0
    assert not [e for e in events_of(workspace / "out") if e["event"] == "warning"]


def test_finished_run_is_not_resumed(whole, workspace, fork_train):
    shutil.copytree(whole, workspace / "out")
    run = fork_train(OUT, "--init_from=resume", tiny=False)
    assert run.returncode == 2 and "max_iters" in run.output


def test_nanogpt_checkpoint_resumes(whole, workspace, fork_train):
    """只有 nanoGPT 那六个键、带着编译的前缀与因果掩码的检查点。"""
    ours = load(whole / "ckpt.pt")
    theirs = {key: ours[key] for key in ("optimizer", "model_args", "best_val_loss")}
    theirs["model"] = {f"_orig_mod.{key}": value for key, value in ours["model"].items()}
    theirs["model"]["_orig_mod.transformer.h.0.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
    theirs |= {"iter_num": 6, "config": {"dataset": "tiny", "batch_size": 4}}
    (workspace / "out").mkdir()
    torch.save(theirs, workspace / "out" / "ckpt.pt")
    run = fork_train(OUT, "--init_from=resume")
    assert run.returncode == 0, run.output
    events = events_of(workspace / "out")
    assert events[0]["resumed_from_iter"] == 6
    assert [e["code"] for e in events if e["event"] == "warning"] == ["resume_not_exact"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("inherited", ["default", "ignored"])
def test_signals_end_with_a_checkpoint(workspace, fork_train, number, inherited):
    """真的信号；后台的 shell 会让子进程生来就忽略 SIGINT，也照样停。"""
    inject = {"kind": "ignore_sigint"} if inherited == "ignored" else None
    run = fork_train(OUT, "--max_iters=100000", "--eval_interval=100000", "--lr_decay_iters=100000", wait=False,
                     inject=inject)
    wait_for_iter(workspace / "out", run, 3)
    run.kill(number)
    assert run.wait() == 0, run.output
    end = events_of(workspace / "out")[-1]
    assert end["event"] == "end" and end["status"] == "stopped"
    assert load(workspace / "out" / "ckpt.pt")["iter_num"] == end["iter"]


def wait_for_iter(out, run, at_least):
    """等到第 `at_least` 步记下。"""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert run.poll() is None, run.output
        if (out / "events.jsonl").exists():
            lines = (out / "events.jsonl").read_bytes().split(b"\n")[:-1]
            if any(e["event"] == "iter" and e["iter"] >= at_least for e in map(json.loads, lines)):
                return
        time.sleep(0.005)
    raise AssertionError(run.output)


def test_hangup_changes_nothing(workspace, fork_train):
    run = fork_train(OUT, "--max_iters=100000", "--lr_decay_iters=100000", "--eval_interval=100000", wait=False)
    wait_for_iter(workspace / "out", run, 2)
    run.kill(signal.SIGHUP)
    seen = max(losses(workspace / "out"))
    wait_for_iter(workspace / "out", run, seen + 20)
    run.kill(signal.SIGTERM)
    assert run.wait() == 0, run.output


def test_reader_of_the_output_is_gone(workspace):
    """`| head` 走了、终端没了：训练照旧，停的时候也说不出话，检查点照样存下。一次真的命令，约 4 s。"""
    import subprocess
    import sys

    from conftest import TINY
    from trainer_fork import clean_env

    process = subprocess.Popen([sys.executable, "-m", "nanogpt.train", *TINY, OUT, "--max_iters=100000",
                                "--lr_decay_iters=100000"], cwd=workspace, env=clean_env(), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    process.stdout.close()
    process.stderr.close()
    try:
        end = time.monotonic() + 60
        while not (workspace / "out" / "ckpt.pt").exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.3)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
    assert events_of(workspace / "out")[-1]["status"] == "stopped"
