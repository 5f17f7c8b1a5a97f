"""模型：形状、生成、优化器分组、GPT-2 权重的载入。约 25 秒，多半在导入 `transformers`。"""

import json
import math
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nanogpt.errors import BadInput
from nanogpt.generation import Choice, probabilities
from nanogpt.model import GPT, GPTConfig
from nanogpt.pretrained import folder_model_args, gpt2_model_args

SHAPE = {"block_size": 12, "vocab_size": 31, "n_layer": 2, "n_head": 2, "n_embd": 16, "dropout": 0.0, "bias": True}


@pytest.fixture
def model() -> GPT:
    """权重比初始化的大得多，使各个位置、各个 token 的概率差得开。"""
    torch.manual_seed(1)
    model = GPT(GPTConfig(**SHAPE)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def test_forward(model: GPT) -> None:
    """有目标时是每个位置的 logits 与损失；没有时只有最后一个位置，数值相同。"""
    x = torch.randint(31, (3, 12))
    y = x.roll(-1, 1)
    y[0, :4] = -1
    logits, loss = model(x, y)
    assert logits.shape == (3, 12, 31)
    kept = y.flatten() != -1
    expected = F.cross_entropy(logits.flatten(0, 1)[kept], y.flatten()[kept])
    torch.testing.assert_close(loss, expected)
    last, none = model(x)
    assert none is None and last.shape == (3, 1, 31)
    torch.testing.assert_close(last[:, 0], logits[:, -1])
    with pytest.raises(ValueError, match="longer than block_size 12"):
        model(torch.zeros((1, 13), dtype=torch.long))


def test_causal(model: GPT) -> None:
    """改动后面的 token，前面的 logits 不变。"""
    x = torch.randint(31, (1, 12))
    changed = x.clone()
    changed[0, 7] = (x[0, 7] + 1) % 31
    a, b = model(x, x)[0], model(changed, x)[0]
    torch.testing.assert_close(a[:, :7], b[:, :7])
    assert not torch.allclose(a[:, 7:], b[:, 7:])


@pytest.mark.parametrize("bias", [True, False])
def test_parameters(bias: bool) -> None:
    """嵌入是同一个矩阵；参数个数不计位置嵌入；初始化的标准差如 GPT-2。"""
    model = GPT(GPTConfig(**{**SHAPE, "n_embd": 128, "n_layer": 4, "bias": bias}))
    assert model.transformer["wte"].weight is model.lm_head.weight
    C, L, V = 128, 4, 31
    expected = V * C + L * (12 * C * C + 2 * C) + C + bias * (L * (9 * C + 2 * C) + C)
    assert model.get_num_params() == expected
    assert model.get_num_params(non_embedding=False) == expected + 12 * C
    block = model.transformer["h"][0]
    assert block.attn.c_attn.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp.c_proj.weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * L), rel=0.05)
    assert (block.attn.c_attn.bias is not None) is bias and (block.ln_1.bias is not None) is bias
    if bias:
        assert not block.attn.c_attn.bias.any()


@pytest.mark.parametrize("name, millions, all_of_them", [
    ("gpt2", 123.65, 124439808), ("gpt2-medium", 353.77, 354823168), ("gpt2-large", 772.72, 774030080),
    ("gpt2-xl", 1555.97, 1557611200)])
def test_gpt2_shapes(name: str, millions: float, all_of_them: int) -> None:
    """四个名字的参数个数：nanoGPT 印出的（不计位置嵌入）与 OpenAI 的。不占内存。"""
    with torch.device("meta"):
        model = GPT(GPTConfig(**gpt2_model_args(name)))
    assert round(model.get_num_params() / 1e6, 2) == millions
    assert model.get_num_params(non_embedding=False) == all_of_them
    assert model.config.block_size == 1024 and model.config.bias and model.config.gelu_tanh


def test_optimizer_groups(model: GPT) -> None:
    """矩阵与嵌入衰减，偏置与归一化不衰减；一个不漏，次序同 nanoGPT。"""
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    decayed, others = optimizer.param_groups
    assert decayed["weight_decay"] == 0.1 and others["weight_decay"] == 0.0
    assert all(p.dim() >= 2 for p in decayed["params"]) and all(p.dim() < 2 for p in others["params"])
    assert [id(p) for p in decayed["params"]] == [id(p) for p in model.parameters() if p.dim() >= 2]
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))
    assert optimizer.defaults["betas"] == (0.9, 0.95) and optimizer.defaults["lr"] == 1e-3
    assert optimizer.defaults["fused"]


def test_crop_block_size(model: GPT) -> None:
    """缩短之后，短的序列结果不变，长的被拒绝；不能加长。"""
    x = torch.randint(31, (2, 5))
    before = model(x)[0]
    with pytest.raises(ValueError, match="larger 13"):
        model.crop_block_size(13)
    model.crop_block_size(5)
    torch.testing.assert_close(model(x)[0], before)
    assert model.config.block_size == 5 and model.transformer["wpe"].weight.shape == (5, 16)
    assert model.transformer["wpe"].weight.requires_grad
    with pytest.raises(ValueError, match="longer"):
        model(torch.zeros((1, 6), dtype=torch.long))


def reference_generate(model: GPT, idx: torch.Tensor, steps: int, temperature: float, top_k: int | None
                       ) -> torch.Tensor:
    """一个样本一个样本、一个概率一个概率写出的生成，与实现没有共同的代码。"""
    for _step in range(steps):
        context = idx[:, -model.config.block_size:].contiguous()
        logits = model(context, context)[0][:, -1]
        rows = []
        for row in logits:
            scores = [value / temperature for value in row.tolist()]
            if top_k is not None:
                least = sorted(scores, reverse=True)[min(top_k, len(scores)) - 1]
                scores = [value if value >= least else -math.inf for value in scores]
            rows.append(torch.softmax(torch.tensor(scores), dim=0))
        idx = torch.cat((idx, torch.multinomial(torch.stack(rows), 1)), dim=1)
    return idx


@pytest.mark.parametrize("temperature, top_k", [(1.0, None), (0.5, 5), (1.7, 100)])
def test_generate_equals_a_naive_loop(model: GPT, temperature: float, top_k: int | None) -> None:
    """与朴素的写法逐个 token 相同，也在前文超出上下文之后。"""
    idx = torch.randint(31, (2, 3))
    torch.manual_seed(9)
    expected = reference_generate(model, idx, 25, temperature, top_k)
    torch.manual_seed(9)
    assert torch.equal(model.generate(idx, 25, temperature, top_k), expected)


def test_greedy(model: GPT) -> None:
    """温度 0 总取最可能的，不用随机数。"""
    idx = torch.randint(31, (2, 3))
    state = torch.get_rng_state()
    out = model.generate(idx, 10, temperature=0)
    assert torch.equal(torch.get_rng_state(), state)
    for t in range(3, 13):
        assert torch.equal(out[:, t], model(out[:, max(0, t - 12):t])[0][:, -1].argmax(-1))


def test_top_p() -> None:
    """留下累计概率刚好够 `top_p` 的那几个，重新归一；第一个总在。"""
    logits = torch.log(torch.tensor([[0.1, 0.5, 0.15, 0.25]]))
    kept = {0.2: [0, 1, 0, 0], 0.5: [0, 1, 0, 0], 0.51: [0, 2 / 3, 0, 1 / 3], 0.8: [0, 0.5, 0.15, 0.25],
            1.0: [0.1, 0.5, 0.15, 0.25]}
    for top_p, expected in kept.items():
        row = torch.tensor([expected])
        torch.testing.assert_close(probabilities(logits, Choice(top_p=top_p)), row / row.sum(), atol=1e-6, rtol=0)
    # 先 top_k 再 top_p：剩两个里，头一个占三分之二
    torch.testing.assert_close(probabilities(logits, Choice(top_k=2, top_p=0.6)), torch.tensor([[0.0, 1.0, 0.0, 0.0]]))


def test_mfu() -> None:
    """PaLM 的公式，按手工算。"""
    model = GPT(GPTConfig(**SHAPE))
    per_token = 6 * model.get_num_params() + 12 * 2 * 16 * 12
    assert model.estimate_mfu(8, 0.5) == pytest.approx(per_token * 12 * 8 / 0.5 / 312e12)
    assert model.estimate_mfu(8, 0.5, peak_flops=1e12) == pytest.approx(per_token * 12 * 8 / 0.5 / 1e12)


# ---- GPT-2 的权重


@pytest.fixture(scope="module")
def hf_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """transformers 存下的极小 GPT-2，两种激活各一个。权重大，激活用错了看得出来。"""
    from transformers import GPT2Config, GPT2LMHeadModel

    root = tmp_path_factory.mktemp("hf")
    for activation in ("gelu_new", "gelu"):
        torch.manual_seed(2)
        config = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=12, vocab_size=31, initializer_range=0.5,
                            activation_function=activation, bos_token_id=0, eos_token_id=0)
        GPT2LMHeadModel(config).save_pretrained(root / activation)
    return root


@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
def test_local_folder_loads(hf_folders: Path, activation: str) -> None:
    """logits 与 transformers 的差不过 1e-4；用另一种激活则差得远。"""
    from transformers import GPT2LMHeadModel

    x = torch.randint(31, (2, 12))
    with torch.no_grad():
        expected = GPT2LMHeadModel.from_pretrained(hf_folders / activation).eval()(x).logits
        ours = GPT.from_pretrained(str(hf_folders / activation), {"dropout": 0.25})
        torch.testing.assert_close(ours.eval()(x, x)[0], expected, atol=1e-4, rtol=1e-4)
        other = GPT(GPTConfig(**{**ours.config.__dict__, "gelu_tanh": not ours.config.gelu_tanh})).eval()
        other.load_state_dict(ours.state_dict())
        assert (other(x, x)[0] - expected).abs().max() > 2e-4
    assert ours.config.dropout == 0.25 and ours.config.block_size == 12
    assert ours.transformer["wte"].weight is ours.lm_head.weight
    with pytest.raises(ValueError, match="n_layer"):
        GPT.from_pretrained(str(hf_folders / activation), {"n_layer": 3})


DIFFERENT = [("model_type", "bert"), ("activation_function", "relu"), ("n_inner", 48), ("scale_attn_weights", False),
             ("scale_attn_by_inverse_layer_idx", True), ("tie_word_embeddings", False), ("layer_norm_epsilon", 1e-6),
             ("n_head", 3), ("n_head", 0), ("n_embd", "16"), ("n_layer", 10**9), ("vocab_size", True)]


@pytest.mark.parametrize("key, value", DIFFERENT)
def test_config_that_does_not_fit(hf_folders: Path, tmp_path: Path, key: str, value: Any) -> None:
    """每一条不合的理由都被认出。"""
    config = json.loads((hf_folders / "gelu" / "config.json").read_text(encoding="utf-8"))
    assert folder_model_args(hf_folders / "gelu")["n_head"] == 2
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}), encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        folder_model_args(tmp_path)
    assert caught.value.code == "not_gpt2" and len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"null", b"{}", b"\xff", b"[" * 200000])
def test_config_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(BadInput) as caught:
        folder_model_args(tmp_path)
    assert caught.value.code == "not_gpt2" and len(str(caught.value).splitlines()) <= 3


def test_weights_that_do_not_fit(hf_folders: Path, tmp_path: Path) -> None:
    """缺一个权重（transformers 会随机补上）、截断、形状不同、没有权重：都拒绝。"""
    from safetensors.torch import load_file, save_file

    def spoiled(name: str) -> Path:
        return shutil.copytree(hf_folders / "gelu", tmp_path / name)

    state = load_file(hf_folders / "gelu" / "model.safetensors")
    del state["transformer.h.1.mlp.c_fc.weight"]
    save_file(state, spoiled("missing") / "model.safetensors", metadata={"format": "pt"})
    with open(spoiled("cut") / "model.safetensors", "r+b") as file:
        file.truncate(5000)
    config = spoiled("shape") / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"n_embd": 16', '"n_embd": 32'), encoding="utf-8")
    (spoiled("none") / "model.safetensors").unlink()
    for name in ("missing", "cut", "shape", "none"):
        with pytest.raises(BadInput) as caught:
            GPT.from_pretrained(str(tmp_path / name))
        assert len(str(caught.value).splitlines()) == 3 and name in str(caught.value)
        assert name != "missing" or "h.1.mlp.c_fc.weight" in str(caught.value)


def test_hub_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """没有缓存、hub 接了连接却不作声：不反复重试，说出本地的办法。替身只是那台沉默的服务器。"""
    from huggingface_hub import constants

    from nanogpt import pretrained

    monkeypatch.setattr(pretrained, "HUB_TIMEOUT_S", 1.0)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(BadInput) as caught:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        GPT.from_pretrained("gpt2-medium")
    assert caught.value.code == "gpt2_unavailable" and time.monotonic() - began < 8
    assert "hub does not answer" in caught.value.what
    assert "hf download gpt2-medium --local-dir ./gpt2-medium" in caught.value.hint


def test_folder_is_finetuned(hf_folders: Path, fork_train: Any, workspace: Path) -> None:
    """从本地目录起步：载入、剪短上下文、训练两步。数据里的 id 超出它的词表时，先被拒绝。"""
    (np.arange(200, dtype="<u2") % 31).tofile(workspace / "train.bin")
    folder = workspace / "data" / "small"
    folder.mkdir()
    for split in ("train", "val"):
        shutil.copy(workspace / "train.bin", folder / f"{split}.bin")
    scaled = ("--block_size=8", "--device=cpu", "--max_iters=2", "--eval_iters=1", "--out_dir=out", "--batch_size=2",
              "--gradient_accumulation_steps=1", f"--init_from={hf_folders / 'gelu_new'}")
    run = fork_train("finetune_shakespeare", *scaled, "--dataset=small", tiny=False)
    assert run.returncode == 0 and "iter 2: loss" in run.output, run.output
    run = fork_train("finetune_shakespeare", *scaled, "--dataset=tiny", "--overwrite", tiny=False)
    assert run.returncode == 2 and "vocab_size is 31" in run.output
