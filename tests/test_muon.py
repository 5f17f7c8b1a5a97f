"""Muon：与 numpy 的 float64 逐步重算相比，AdamW 的部分与 torch 自己的相比。约 2 s。"""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from nanogpt.device import has_fast_bfloat16
from nanogpt.model import GPT, GPTConfig
from nanogpt.muon import _POLYNOMIALS, MuonAdamW, orthogonalize


def closest_to_one(low: float, high: float) -> tuple[np.ndarray, float]:
    """[low, high] 上与 1 的最大差最小的奇五次多项式的三个系数，与那个差（Remez 交换法）。"""
    points = np.linspace(low, high, 4)
    for _round in range(50):
        equations = np.column_stack([points, points**3, points**5, [1, -1, 1, -1]])
        a, b, c, difference = np.linalg.solve(equations, np.ones(4))
        turns = np.sqrt(np.sort(np.roots([5 * c, 3 * b, a]).real))
        points = np.array([low, *turns, high])
    return np.array([a, b, c]), abs(difference)


def polynomials() -> list[np.ndarray]:
    """`nanogpt.muon` 的四个，由定义算出。"""
    found, low, high = [], 0.002, 1.0
    for step in range(4):
        coefficients, difference = closest_to_one(low, high)
        found.append(coefficients / (np.power(1.02, [1, 3, 5]) if step < 3 else 1))
        low, high = 1 - difference, 1 + difference
    return found


def reference_orthogonalize(matrix: np.ndarray) -> np.ndarray:
    """同样的多项式作用在奇异值上：SVD 里算，不做矩阵迭代。"""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    s = s / (s**4).sum() ** 0.25
    for a, b, c in _POLYNOMIALS:
        s = a * s + b * s**3 + c * s**5
    return u @ np.diag(s) @ vt


def test_every_large_enough_value_comes_close_to_one() -> None:
    """上界不松时（秩为一）也不放大；[0.003, 1] 里的都到 1 附近。"""
    np.testing.assert_allclose(_POLYNOMIALS, polynomials(), atol=1e-4)
    s = np.geomspace(0.003, 1.01, 5000)
    for a, b, c in _POLYNOMIALS:
        s = a * s + b * s**3 + c * s**5
    assert s.min() > 0.65 and s.max() < 1.35
    one = torch.outer(torch.randn(64), torch.randn(64))[None]
    for dtype in (torch.float32, torch.bfloat16):
        assert 0.6 < torch.linalg.matrix_norm(orthogonalize(one, dtype), 2) < 1.4
    assert not orthogonalize(torch.zeros(1, 4, 4)).any()


@pytest.mark.parametrize("shape", [(3, 12, 12), (2, 8, 12), (2, 8, 24), (1, 24, 8), (1, 8, 16)])
def test_orthogonalize_acts_on_the_singular_values(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64)
    found = orthogonalize(matrices, torch.float64)
    for one, before in zip(found, matrices, strict=True):
        np.testing.assert_allclose(one.numpy(), reference_orthogonalize(before.numpy()), atol=1e-6)
        values = torch.linalg.svdvals(one)
        assert values.min() > 0.6 and values.max() < 1.34
    # 单精度与半精度的迭代只差舍入
    assert (orthogonalize(matrices.float()) - found).abs().max() < 1e-4
    half = orthogonalize(matrices.float(), torch.bfloat16).double()
    assert (half - found).abs().max() < 0.2
    values = torch.linalg.svdvals(half)
    assert values.min() > 0.45 and values.max() < 1.45


def test_nearly_singular_matrices_stay_bounded() -> None:
    """秩不足的矩阵：零的方向不该被舍入放大成更新，大的方向照样到 1 左右；长方的与方的都是。"""
    torch.manual_seed(7)
    for rows, columns in ((32, 128), (32, 32)):
        matrix = torch.randn(1, rows, 4) @ torch.randn(1, 4, columns)
        values = torch.linalg.svdvals(orthogonalize(matrix)[0].double())
        assert values[:4].min() > 0.66 and values.max() < 1.34 and values[4:].max() < 0.05


def test_steps_equal_a_reference() -> None:
    """三步：动量、Nesterov、按形状的倍数与权重衰减。同形的矩阵合成一批、叠着的三个拆开，都与各自算的一样。"""
    torch.manual_seed(1)
    parameters = [nn.Parameter(torch.randn(shape)) for shape in ((6, 4), (4, 6), (6, 4), (12, 4))]
    expected = [p.detach().numpy().astype(np.float64) for p in parameters]
    momenta = [np.zeros_like(p) for p in expected]
    muon = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.5}
    optimizer = MuonAdamW([{"params": parameters[:3], "parts": 1, **muon},
                           {"params": parameters[3:], "parts": 3, **muon}], torch.float32)
    for _step in range(3):
        for i, p in enumerate(parameters):
            p.grad = torch.randn_like(p)
            gradient = p.grad.numpy().astype(np.float64)
            momenta[i] = 0.9 * momenta[i] + 0.1 * gradient
            blocks = np.split(0.9 * momenta[i] + 0.1 * gradient, 3 if i == 3 else 1)
            update = np.concatenate([reference_orthogonalize(block) for block in blocks])
            expected[i] = expected[i] * (1 - 0.1 * 0.5) - 0.1 * max(1, len(blocks[0]) / p.shape[1]) ** 0.5 * update
        optimizer.step()
    for p, e in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), e, atol=2e-5)


def test_the_rest_is_adamw() -> None:
    """嵌入、输出层、归一化与偏置走的就是 AdamW，逐位相同；块里的矩阵走 Muon，一个不落。"""
    config = GPTConfig(block_size=8, vocab_size=11, n_layer=2, n_head=2, n_embd=8, bias=True, untied_head=True)
    torch.manual_seed(2)
    a, b = GPT(config), GPT(config)
    b.load_state_dict(a.state_dict())
    with_muon = a.configure_optimizers(0.1, 1e-2, (0.9, 0.99), "cpu", muon_lr=0.02, muon_momentum=0.9)
    adamw = b.configure_optimizers(0.1, 1e-2, (0.9, 0.99), "cpu")
    assert isinstance(adamw, torch.optim.AdamW)
    counted = [p for group in with_muon.param_groups for p in group["params"]]
    assert len(counted) == len(list(a.parameters())) and {id(p) for p in counted} == {id(p) for p in a.parameters()}
    x, y = torch.randint(11, (2, 3, 8))
    for model, optimizer in ((a, with_muon), (b, adamw)):
        for _step in range(2):
            # 损失不同，第二步的梯度也就不同：只比第一步的梯度走两次
            if _step == 0:
                model(x, y)[1].backward()
            optimizer.step()
    moved_otherwise = {name for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True)
                       if not torch.equal(p, q)}
    assert moved_otherwise == {f"transformer.h.{i}.{name}.weight" for i in (0, 1)
                               for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}


def test_state_survives_saving() -> None:
    """存取状态之后接着走，与没有存过的逐位相同；没有梯度的参数不动。"""
    config = GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=1, n_embd=8, bias=False, untied_head=True)
    torch.manual_seed(3)
    a = GPT(config)
    x, y = torch.randint(11, (2, 3, 8))

    def step(model: GPT, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(x, y)[1].backward()
        optimizer.step()

    one = a.configure_optimizers(0.0, 1e-2, (0.9, 0.99), "cpu", muon_lr=0.02)
    before = [p.clone() for p in a.parameters()]
    one.step()
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), before, strict=True))
    step(a, one)
    b = GPT(config)
    b.load_state_dict(a.state_dict())
    other = b.configure_optimizers(0.0, 1e-2, (0.9, 0.99), "cpu", muon_lr=0.02)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    step(a, one)
    step(b, other)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_precision_follows_the_processor() -> None:
    """有 bfloat16 指令的处理器上才用它；CPU 之外只有新的 CUDA 算有。"""
    model = GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=1, n_embd=8))
    optimizer = model.configure_optimizers(0.0, 1e-2, (0.9, 0.99), "cpu", muon_lr=0.02)
    assert isinstance(optimizer, MuonAdamW)
    assert optimizer.dtype == (torch.bfloat16 if has_fast_bfloat16("cpu") else torch.float32)
    assert not has_fast_bfloat16("mps")
