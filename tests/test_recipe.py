"""现代配方：每个键的数学与 numpy 写的另一份网络相比；续训、采样与拒绝。约 20 s。"""

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from conftest import TINY, make_tiny_dataset
from fault_campaign import events_of, load, same

from nanogpt import sample
from nanogpt.config import RECIPE_MODEL_KEYS, TrainConfig, check_config, load_config
from nanogpt.errors import BadInput
from nanogpt.generation import Choice, generate
from nanogpt.model import GPT, GPTConfig, KVCache, rotate, rotations
from nanogpt.train import get_lr

SHAPE = {"block_size": 12, "vocab_size": 19, "n_layer": 2, "n_head": 2, "n_embd": 16, "bias": False}
ALL = dict.fromkeys(RECIPE_MODEL_KEYS, True)
MODERN = ("--optimizer=muon", "--lr_schedule=linear", "--min_lr=0", *(f"--{key}=True" for key in RECIPE_MODEL_KEYS))
LONG = ("--out_dir=out", "--eval_interval=3", "--max_iters=8", "--lr_decay_iters=8", *MODERN)


def reference(state: dict[str, np.ndarray], c: GPTConfig, idx: np.ndarray) -> np.ndarray:
    """另一份网络，float64，逐个位置、逐个头地算；返回 (T, V) 的 logits。"""
    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * state.get(f"{name}.weight", 1.0)

    def turned(x: np.ndarray, position: int) -> np.ndarray:
        # 复数的写法：第 i 与第 i + hs/2 维是实部与虚部
        half = len(x) // 2
        z = (x[:half] + 1j * x[half:]) * np.exp(1j * position * 10000.0 ** (-np.arange(half) / half))
        return np.concatenate((z.real, z.imag))

    def activation(x: np.ndarray) -> np.ndarray:
        if c.squared_relu:
            return np.maximum(x, 0) ** 2
        return x * np.vectorize(lambda v: 0.5 * (1 + math.erf(v / math.sqrt(2))))(x)

    T, C, hs = len(idx), c.n_embd, c.n_embd // c.n_head
    x = state["transformer.wte.weight"][idx]
    if not c.rotary:
        x = x + state["transformer.wpe.weight"][:T]
    for layer in range(c.n_layer):
        name = f"transformer.h.{layer}"
        qkv = norm(x, f"{name}.ln_1") @ state[f"{name}.attn.c_attn.weight"].T
        out = np.zeros((T, C))
        for head in range(c.n_head):
            q, k, v = (qkv[:, part * C + head * hs:part * C + (head + 1) * hs] for part in range(3))
            if c.qk_norm:
                q, k = norm(q, ""), norm(k, "")
            if c.rotary:
                q, k = (np.array([turned(row, i) for i, row in enumerate(a)]) for a in (q, k))
            for i in range(T):
                weights = np.exp(q[i] @ k[:i + 1].T / math.sqrt(hs))
                out[i, head * hs:(head + 1) * hs] = weights / weights.sum() @ v[:i + 1]
        x = x + out @ state[f"{name}.attn.c_proj.weight"].T
        x = x + activation(norm(x, f"{name}.ln_2") @ state[f"{name}.mlp.c_fc.weight"].T) \
            @ state[f"{name}.mlp.c_proj.weight"].T
    return norm(x, "transformer.ln_f") @ state["lm_head.weight"].T


def shaken(**keys: bool) -> GPT:
    """零初始化的矩阵换成随机的，用错一处才看得出来。"""
    torch.manual_seed(4)
    model = GPT(GPTConfig(**SHAPE, **keys)).eval()
    for p in model.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return model


@pytest.mark.parametrize("keys", [{}, *({key: True} for key in RECIPE_MODEL_KEYS), ALL],
                         ids=["none", *RECIPE_MODEL_KEYS, "all"])
def test_forward_equals_the_reference(keys: dict[str, bool]) -> None:
    model = shaken(**keys)
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    idx = torch.randint(19, (3, 12))
    logits, loss = model(idx, idx)
    expected = np.stack([reference(state, model.config, row) for row in idx.numpy()])
    np.testing.assert_allclose(logits.detach().numpy(), expected, atol=2e-5, rtol=1e-4)
    nothing, same_loss = model(idx, idx, loss_only=True)
    assert nothing is None and torch.equal(same_loss, loss)


def test_only_the_distance_counts() -> None:
    """旋转之后，两个位置的点积只取决于它们的距离。"""
    torch.manual_seed(5)
    q, k = torch.randn(2, 1, 1, 1, 8)
    rows = [rotate(x.expand(1, 40, 1, 8), rotations(torch.arange(40), 8))[0, :, 0] for x in (q, k)]
    products = rows[0] @ rows[1].T
    for distance in (0, 1, 7):
        line = products.diagonal(distance)
        assert line.numel() > 30
        torch.testing.assert_close(line, line[:1].expand_as(line), atol=1e-5, rtol=0)
    assert not torch.allclose(products[0, 0], products[0, 1])


def test_zero_init_starts_at_the_uniform_guess() -> None:
    """每块起初是恒等，分开的输出层给每个 token 同样的概率。"""
    model = GPT(GPTConfig(**SHAPE, **ALL))
    idx = torch.randint(19, (2, 12))
    assert model(idx, idx)[1].item() == pytest.approx(math.log(19), abs=1e-6)
    tied = GPT(GPTConfig(**SHAPE, zero_init=True))
    # 与词嵌入共用的矩阵不能是零，那样什么也学不到
    assert tied.lm_head.weight.abs().max() > 0 and tied.lm_head.weight is tied.transformer["wte"].weight
    assert not any(p.abs().max() for name, p in tied.named_parameters() if name.endswith("c_proj.weight"))


def test_number_of_parameters_and_flops() -> None:
    """没有位置嵌入就不减；只查表的词嵌入没有浮点运算。"""
    classic, modern = GPT(GPTConfig(**SHAPE)), GPT(GPTConfig(**SHAPE, **ALL))
    blocks = 2 * 12 * 16 * 16
    assert classic.get_num_params() == blocks + 19 * 16 + 5 * 16
    assert modern.get_num_params() == modern.get_num_params(non_embedding=False) == blocks + 2 * 19 * 16
    assert modern.flops_per_token() == 6 * (blocks + 19 * 16) + 12 * 2 * 16 * 12


def test_linear_decay() -> None:
    config = TrainConfig(learning_rate=0.5, min_lr=0.1, warmup_iters=4, lr_decay_iters=14, lr_schedule="linear")
    assert [get_lr(config, it) for it in (0, 3, 4, 9, 14, 20)] == pytest.approx([0.1, 0.4, 0.5, 0.3, 0.1, 0.1])


@pytest.mark.parametrize("window", ["exact", "half"])
def test_cached_sampling_equals_uncached(window: str) -> None:
    """有缓存与每步从头算，抽出同样的 token，越过 `block_size` 之后也是。"""
    model = shaken(**ALL)
    idx = torch.randint(19, (2, 5))
    torch.manual_seed(6)
    with torch.no_grad():
        tokens = torch.stack([token for token, _ in generate(model, idx, 15, Choice(top_k=7, window=window))], dim=1)
    row = idx
    torch.manual_seed(6)
    with torch.no_grad():
        first = 0
        for i in range(15):
            if row.size(1) - first > 12:
                first = row.size(1) - (12 if window == "exact" else 6)
            probs = model(row[:, first:])[0][:, -1]
            probs = probs.masked_fill(probs < probs.topk(7).values[:, [-1]], -math.inf).softmax(-1)
            row = torch.cat((row, (probs / torch.empty_like(probs).exponential_()).argmax(-1, keepdim=True)), dim=1)
            assert torch.equal(row[:, -1], tokens[:, i]), i
    # 提示之外一段一段地接上去，位置接着数
    cache = KVCache(model.config, 2, 12, model.lm_head.weight)
    for part in (idx[:, :2], idx[:, 2:4], idx[:, 4:]):
        logits, _ = model(part, cache=cache)
    torch.testing.assert_close(logits, model(idx)[0], atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def whole(trainer_server, tmp_path_factory):
    """现代配方从未中断的运行。"""
    folder = tmp_path_factory.mktemp("whole")
    make_tiny_dataset(folder / "data" / "tiny")
    run = trainer_server.train(folder, *TINY, *LONG)
    assert run.returncode == 0, run.output
    return folder / "out"


@pytest.mark.parametrize("at", [1, 4, 8])
def test_resume_is_exact(whole, workspace, fork_train, at):
    """停在第 `at` 步再续：损失、梯度、学习率、权重、Muon 与 AdamW 的状态都逐位相同；续训只说目录就够。"""
    assert fork_train(*LONG, inject={"kind": "stop_file", "at": at}).returncode == 0
    run = fork_train("--out_dir=out", "--init_from=resume", tiny=False)
    assert run.returncode == 0, run.output
    kept = ("loss", "grad_norm", "lr", "val_loss")
    one, other = ({(e["event"], e["iter"]): [e.get(key) for key in kept]
                   for e in events_of(out) if e["event"] in ("iter", "eval")} for out in (whole, workspace / "out"))
    assert one == other and len(one) == 9 + 3
    a, b = load(whole / "ckpt.pt"), load(workspace / "out" / "ckpt.pt")
    assert all(same(a[key], b[key]) for key in ("model", "optimizer", "iter_num", "best_val_loss", "rank_states"))
    assert a["model_args_extra"] == {**ALL, "gelu_tanh": False}
    assert {frozenset(s) for s in a["optimizer"]["state"].values()} == {
        frozenset({"momentum_buffer"}), frozenset({"step", "exp_avg", "exp_avg_sq"})}


def test_sampled_from_the_checkpoint_alone(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert sample.main([f"--out_dir={whole}", "--num_samples=1", "--max_new_tokens=30", "--device=cpu"]) == 0
    assert len(capsys.readouterr().out) > 30


@pytest.mark.parametrize("change", ["--rotary=False", "--untied_head=False", "--optimizer=adamw", "--qk_norm=False"])
def test_another_recipe_is_refused(whole, workspace, fork_train, change):
    import shutil

    shutil.copytree(whole, workspace / "out")
    run = fork_train("--out_dir=out", "--init_from=resume", "--max_iters=12", change, tiny=False)
    key, _, now = change[2:].partition("=")
    before = "muon" if key == "optimizer" else "True"
    assert run.returncode == 2 and f"{key}: {before} -> {now}" in run.output, run.output


def test_a_rate_of_zero_is_said(whole, workspace, fork_train):
    """跑完的运行只加大 `max_iters`，学习率仍是零：照做，但说出来；`lr_decay_iters` 一起加大就不说。"""
    import shutil

    shutil.copytree(whole, workspace / "out")
    assert fork_train("--out_dir=out", "--init_from=resume", "--max_iters=10", tiny=False).returncode == 0
    assert [e["code"] for e in events_of(workspace / "out") if e["event"] == "warning"] == ["lr_is_zero"]
    assert fork_train("--out_dir=out", "--init_from=resume", "--max_iters=12", "--lr_decay_iters=12",
                      tiny=False).returncode == 0
    codes = [e["code"] for e in events_of(workspace / "out") if e["event"] == "warning"]
    assert codes == ["lr_is_zero", "resume_not_exact"]


def test_is_gpt2() -> None:
    """只有零初始化不改变网络；其余任何一项都不是 GPT-2。"""
    assert GPTConfig().is_gpt2() and GPTConfig(zero_init=True).is_gpt2()
    assert not any(GPTConfig(**{key: True}).is_gpt2() for key in RECIPE_MODEL_KEYS if key != "zero_init")
    # 键的名字在两边相同，默认都关着
    assert all(asdict(GPTConfig())[key] is False is asdict(TrainConfig())[key] for key in RECIPE_MODEL_KEYS)


@pytest.mark.parametrize(("flags", "says"), [
    (["--rotary=True", "--n_embd=6", "--n_head=2"], "rotary"), (["--optimizer=muon", "--learning_rate=0"], "Muon"),
    (["--init_from=gpt2", "--qk_norm=True"], "gpt2"), (["--lr_schedule=step"], "cosine, linear"),
])
def test_impossible_combinations(flags: list[str], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        check_config(load_config(TrainConfig, flags, "", "")[0])
