"""训练途中的样本：不改变训练，续训与两个 rank 也一样。约 15 秒。"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, slow
from trainer_fork import clean_env

from nanogpt.checkpoint import load_checkpoint
from nanogpt.config import SampleConfig
from nanogpt.events import read_events
from nanogpt.generation import Choice, generate
from nanogpt.loading import load

PROMPTS = ["def ", "\n"]
SAMPLES = (f"--sample_prompts={json.dumps(PROMPTS)}", "--sample_tokens=20", "--sample_seed=5")


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(folder / "events.jsonl") if event["event"] == kind]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_checkpoint(folder / "ckpt.pt")["model"]
    return found


def test_samples_leave_the_training_alone(workspace: Path, fork_train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """每次评估每个提示一个 `sample` 事件；损失与权重一位不差；默认没有。"""
    # 末一步总存下，不论验证损失好不好；学得快，六步之后写的就不一样
    keys = ("--always_save_checkpoint=True", "--learning_rate=5e-2")
    assert fork_train("--out_dir=plain", *keys).returncode == 0
    run = fork_train("--out_dir=with", *keys, *SAMPLES)
    assert run.returncode == 0, run.output
    assert events(workspace / "plain", "sample") == []
    samples = events(workspace / "with", "sample")
    assert [(one["iter"], one["prompt"]) for one in samples] == [(n, p) for n in (0, 2, 4, 6) for p in PROMPTS]
    assert all(len(one["text"]) == 20 for one in samples)
    assert samples[0]["text"] != samples[-2]["text"], "the model has changed, its sample has not"
    for kind, key in (("iter", "loss"), ("eval", "val_loss"), ("iter", "grad_norm")):
        assert [e[key] for e in events(workspace / "with", kind)] == [e[key] for e in events(workspace / "plain", kind)]
    for name, tensor in weights(workspace / "with").items():
        assert torch.equal(tensor, weights(workspace / "plain")[name])
    # 末尾的样本就是这份检查点写的
    monkeypatch.chdir(workspace)
    loaded = load(SampleConfig(out_dir="with"))
    with torch.no_grad():
        ids = [int(token) for token, _logits in generate(
            loaded.model, torch.tensor([loaded.encode("def ")]), 20, Choice(0.8, 200),
            [torch.Generator().manual_seed(5)])]
    assert loaded.tokenizer.decode(ids) == samples[-2]["text"]


def test_resume_stays_exact(workspace: Path, fork_train: Any) -> None:
    """停在中途再续：样本、损失、权重同没有停过的一样。"""
    assert fork_train("--out_dir=whole", *SAMPLES).returncode == 0
    assert fork_train("--out_dir=parts", *SAMPLES, "--max_iters=4", "--lr_decay_iters=6").returncode == 0
    assert fork_train("--out_dir=parts", *SAMPLES, "--init_from=resume").returncode == 0
    last = {}
    for folder in ("whole", "parts"):
        last[folder] = {(e["iter"], e["prompt"]): e["text"] for e in events(workspace / folder, "sample")}
    assert last["whole"] == last["parts"]
    for name, tensor in weights(workspace / "whole").items():
        assert torch.equal(tensor, weights(workspace / "parts")[name])


@slow
def test_two_ranks(workspace: Path) -> None:
    """只有 rank 0 写样本，另一个照常等着；每个提示每次一份。"""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m",
               "nanogpt.train", *TINY, *SAMPLES, "--max_iters=2", "--out_dir=two"]
    done = subprocess.run(command, cwd=workspace, env=clean_env(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [(one["iter"], one["prompt"]) for one in events(workspace / "two", "sample")] == [
        (n, p) for n in (0, 2) for p in PROMPTS]


@pytest.mark.parametrize("prompts, says", [("a\u4f60", ["U+4F60", "index 1"]), ('["a", 1]', ["sample_prompts"]),
                                           ('[""]', ["sample_prompts"])])
def test_bad_prompts_are_found_first(train: Any, workspace: Path, prompts: str, says: list[str]) -> None:
    done = train(f"--sample_prompts={prompts}", "--out_dir=out")
    assert done.returncode == 2 and len(done.stderr.splitlines()) <= 3 and not (workspace / "out").exists()
    assert all(part in done.stderr for part in says), done.stderr
