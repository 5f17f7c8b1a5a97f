"""检查点文件：坏的、恶意的、名不副实的都在使用之前拒绝（故障表第 7 到 9 行）。约 10 s。"""

import pickle
import resource
import subprocess
import sys
import zipfile

import pytest
import torch
from conftest import TINY, make_tiny_dataset
from fault_campaign import corruption_campaign, digest, events_of, load, same
from trainer_fork import ROOT, clean_env

from nanogpt.checkpoint import (
    NANOGPT_MODEL_ARGS,
    copy_checkpoint,
    expected_shapes,
    load_checkpoint,
    save_checkpoint,
)
from nanogpt.errors import BadInput
from nanogpt.model import GPT, GPTConfig


@pytest.fixture(scope="module")
def trained(trainer_server, tmp_path_factory):
    """一个跑完的目录，`ckpt.pt` 旁边还有 `ckpt-2.pt`。"""
    folder = tmp_path_factory.mktemp("trained")
    make_tiny_dataset(folder / "data" / "tiny")
    run = trainer_server.train(folder, *TINY, "--out_dir=out", "--checkpoint_interval=2", "--max_iters=2")
    assert run.returncode == 0, run.output
    return folder / "out"


@pytest.fixture
def out(workspace, trained):
    import shutil

    shutil.copytree(trained, workspace / "out")
    return workspace / "out"


def refusal(path):
    with pytest.raises(BadInput) as caught:
        load_checkpoint(path)
    assert len(str(caught.value).splitlines()) <= 3
    return caught.value


@pytest.mark.parametrize("kind", ["flip", "cut"])
def test_corruption_is_found(trained, kind):
    """60 份坏了的副本：全部拒绝，或读出来逐位相同；`fault_campaign.py` 跑 1,000 份。"""
    count = corruption_campaign(trained / "ckpt.pt", kind, 60, seed=7)
    assert count["refused"] >= (60 if kind == "cut" else 45), count


def test_zip_attributes_are_checked(trained, tmp_path):
    """目录项里的「目录」属性不在任何 CRC 之内，torch 却会因此不读张量的数据。"""
    data = bytearray((trained / "ckpt.pt").read_bytes())
    with zipfile.ZipFile(trained / "ckpt.pt") as archive:
        start = archive.start_dir
    for field, bit in ((38, 0x10), (36, 1), (8, 1)):
        damaged = bytearray(data)
        damaged[start + field] ^= bit
        (tmp_path / "ckpt.pt").write_bytes(damaged)
        assert refusal(tmp_path / "ckpt.pt").code == "bad_checkpoint"


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02}q\x00.", b"not a checkpoint\n" * 100])
def test_not_a_checkpoint(tmp_path, content):
    (tmp_path / "ckpt.pt").write_bytes(content)
    assert refusal(tmp_path / "ckpt.pt").code == "bad_checkpoint"


def test_missing_names_the_others(trained):
    assert "ckpt-2.pt" in refusal(trained / "ckpt-9.pt").hint


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_resume_refuses_damage(out, fork_train, damage):
    """真的命令：退出码 2，提出完好的那份，盘上一个字节也没动；照它说的做就能续训。"""
    whole = (out / "ckpt.pt").read_bytes()
    middle = len(whole) // 2
    (out / "ckpt.pt").write_bytes({"flip": whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1:],
                                   "cut": whole[:-100], "empty": b""}[damage])
    before = {path.name: digest(path) for path in out.iterdir() if path.name != "lock"}
    run = fork_train("--out_dir=out", "--init_from=resume")
    assert run.returncode == 2 and "ckpt-2.pt beside it is whole" in run.output, run.output
    assert len(run.output.splitlines()) <= 3
    assert {path.name: digest(path) for path in out.iterdir() if path.name != "lock"} == before
    (out / "ckpt-2.pt").replace(out / "ckpt.pt")
    assert fork_train("--out_dir=out", "--init_from=resume").returncode == 0


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("form", ["torch", "legacy", "pickle"])
def test_malicious_pickle_does_not_run(out, fork_train, tmp_path, form):
    """反序列化会建文件的检查点：拒绝，文件没有出现。"""
    canary = tmp_path / "canary"
    bad = {**load(out / "ckpt.pt"), "config": Canary(str(canary))}
    if form == "pickle":
        (out / "ckpt.pt").write_bytes(pickle.dumps(Canary(str(canary))))
    else:
        torch.save(bad, out / "ckpt.pt", _use_new_zipfile_serialization=form == "torch")
    assert refusal(out / "ckpt.pt").code == "bad_checkpoint"
    run = fork_train("--out_dir=out", "--init_from=resume")
    assert run.returncode == 2 and "Traceback" not in run.output, run.output
    assert not canary.exists()


def changed(checkpoint, key, value):
    """`model_args` 里的一项，或整个键。"""
    if key in NANOGPT_MODEL_ARGS:
        checkpoint["model_args"][key] = value
    elif value is None:
        del checkpoint[key]
    else:
        checkpoint[key] = value
    return checkpoint


def without(table, key):
    return {name: value for name, value in table.items() if name != key}


HOSTILE = [
    ("n_layer", 200000), ("n_embd", 1 << 40), ("vocab_size", -1), ("block_size", "16"), ("block_size", 16.0),
    ("n_head", 0), ("n_head", 3), ("n_head", True), ("bias", 1), ("dropout", 2.0), ("dropout", "x"), ("n_layer", None),
    ("iter_num", -1), ("iter_num", 1.5), ("iter_num", True), ("model", None), ("model", {}), ("model", [1]),
    ("model_args", {}), ("model_args", "x"), ("config", [1]), ("best_val_loss", "low"), ("best_val_loss", {}),
    ("model_args_extra", {"n_layer": 200000}), ("model_args_extra", {"gelu_tanh": "yes"}),
    ("model_args_extra", {"unknown": True}), ("optimizer", None), ("optimizer", {}), ("optimizer", 3),
    ("optimizer", {"state": {}, "param_groups": []}), ("optimizer", {"state": {0: {}}, "param_groups": [1]}),
    ("rank_states", 3), ("rank_states", [{}]), ("rank_states", [{"cpu_rng": 1, "cuda_rng": None, "ix": None}]),
]


@pytest.mark.parametrize(("key", "value"), HOSTILE, ids=lambda value: repr(value)[:40])
def test_hostile_fields(out, fork_train, key, value):
    """每一种都以 2 结束，不超过三行，内存不超过平常（`RLIMIT_AS`），盘上的检查点不变。"""
    torch.save(changed(load(out / "ckpt.pt"), key, value), out / "ckpt.pt")
    before = digest(out / "ckpt.pt")
    run = fork_train("--out_dir=out", "--init_from=resume", "--max_iters=9", address_space=6 << 30)
    assert run.returncode == 2, run.output
    assert len(run.output.splitlines()) <= 3 and "Traceback" not in run.output
    assert digest(out / "ckpt.pt") == before


@pytest.mark.parametrize("how", ["missing", "extra", "wrong shape", "expanded", "moment"])
def test_hostile_tensors(out, fork_train, how):
    checkpoint = load(out / "ckpt.pt")
    name = "transformer.h.0.attn.c_attn.weight"
    if how == "missing":
        checkpoint["model"] = without(checkpoint["model"], name)
    elif how == "extra":
        checkpoint["model"]["transformer.h.0.evil"] = torch.ones(1)
    elif how == "wrong shape":
        checkpoint["model"][name] = torch.ones(3, 3)
    elif how == "expanded":
        # 几个字节自称 4 TB
        checkpoint["model"]["transformer.wte.weight"] = torch.ones(1, 16).expand(1 << 36, 16)
        checkpoint["model_args"]["vocab_size"] = 1 << 36
    else:
        checkpoint["optimizer"]["state"][0]["exp_avg"] = torch.ones(2)
    torch.save(checkpoint, out / "ckpt.pt")
    run = fork_train("--out_dir=out", "--init_from=resume", "--max_iters=9", address_space=6 << 30)
    assert run.returncode == 2 and len(run.output.splitlines()) <= 3, run.output


def test_round_trip(trained, tmp_path):
    """写下的就是读出的；字节数属实。"""
    checkpoint = load(trained / "ckpt.pt")
    size = save_checkpoint(tmp_path / "ckpt.pt", checkpoint)
    assert size == (tmp_path / "ckpt.pt").stat().st_size and same(checkpoint, load(tmp_path / "ckpt.pt"))


def test_copy_without_hard_links(trained, tmp_path, monkeypatch):
    """没有硬链接的文件系统（这里假装）：照抄一份。"""
    def refuse(*_args):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    copy_checkpoint(trained / "ckpt.pt", tmp_path / "copy.pt")
    assert digest(tmp_path / "copy.pt") == digest(trained / "ckpt.pt")


def test_checkpoint_is_for_nanogpt_too(trained):
    """nanoGPT 的 `GPTConfig(**model_args)` 只认七项，`model` 里没有前缀。"""
    plain = torch.load(trained / "ckpt.pt", weights_only=True)
    assert set(plain["model_args"]) == set(NANOGPT_MODEL_ARGS)
    assert {"model", "optimizer", "model_args", "iter_num", "best_val_loss", "config"} <= set(plain)
    assert all(torch.isfinite(tensor).all() for tensor in plain["model"].values())
    events = events_of(trained)
    assert next(e for e in events if e["event"] == "checkpoint")["bytes"] == (trained / "ckpt.pt").stat().st_size


def test_loading_stays_small(trained):
    """载入检查点的进程另起一个，在 `RLIMIT_AS` 之下。"""
    code = ("import sys; from pathlib import Path; from nanogpt.checkpoint import load_checkpoint; "
            "print(load_checkpoint(Path(sys.argv[1]))['iter_num'])")
    limit = 6 << 30
    done = subprocess.run([sys.executable, "-c", code, str(trained / "ckpt.pt")], cwd=ROOT, env=clean_env(),
                          capture_output=True, text=True, check=False,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert done.stdout.strip() == "2", done.stderr


@pytest.mark.parametrize("bias", [True, False])
def test_expected_shapes_are_the_models(bias: bool) -> None:
    """直接算出的形状就是真模型的形状。"""
    config = GPTConfig(block_size=8, vocab_size=11, n_layer=2, n_head=2, n_embd=6, bias=bias)
    state = GPT(config).state_dict()
    assert expected_shapes(config) == {name: tuple(tensor.shape) for name, tensor in state.items()}
