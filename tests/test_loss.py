"""分段的输出层与交叉熵：与不分段的损失、梯度相比。约 5 s，其中一半是编译。"""

import pytest
import torch
from conftest import slow
from torch.nn import functional as F

import nanogpt.loss
from nanogpt.loss import linear_cross_entropy


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x, weight = (torch.randn(50, 16, dtype=torch.float32, requires_grad=True), torch.randn(40, 16, requires_grad=True))
    targets = torch.randint(-1, 40, (50,))
    assert (targets == -1).any()
    return x, weight, targets


# 50 × 40 个 logits：整除的段、不整除的段、一段一个位置、不分段
@pytest.mark.parametrize("elements", [400, 280, 1, 2000])
def test_same_as_in_one_piece(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(nanogpt.loss, "CHUNK_ELEMENTS", elements)
    x, weight, targets = data()
    expected = F.cross_entropy(x.double() @ weight.double().t(), targets, ignore_index=-1)
    found = linear_cross_entropy(x, weight, targets)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    grads, wanted = torch.autograd.grad(3 * found, (x, weight)), torch.autograd.grad(3 * expected, (x, weight))
    for a, b in zip(grads, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        assert linear_cross_entropy(x, weight, targets).item() == found.item()


def test_small_problems_are_untouched() -> None:
    """不超过一段的，与普通的算法逐位相同。"""
    x, weight, targets = data()
    plain = F.cross_entropy(F.linear(x, weight), targets, ignore_index=-1)
    found = linear_cross_entropy(x, weight, targets)
    assert torch.equal(found, plain)
    assert all(map(torch.equal, torch.autograd.grad(found, (x, weight)), torch.autograd.grad(plain, (x, weight))))


def test_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """autocast 之下与不分段的 bfloat16 只差舍入。"""
    monkeypatch.setattr(nanogpt.loss, "CHUNK_ELEMENTS", 400)
    x, weight, targets = data()
    with torch.autocast("cpu", torch.bfloat16):
        half = linear_cross_entropy(x, weight, targets)
        plain = F.cross_entropy(F.linear(x, weight), targets, ignore_index=-1)
    assert half.item() == pytest.approx(plain.item(), rel=2e-3) and half.dtype == torch.float32
    for a, b in zip(torch.autograd.grad(half, (x, weight)), torch.autograd.grad(plain, (x, weight)), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-2)


@slow
def test_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """编译之后也是同样的数。编译约半分钟。"""
    monkeypatch.setattr(nanogpt.loss, "CHUNK_ELEMENTS", 400)
    x, weight, targets = data()
    eager = linear_cross_entropy(x, weight, targets)
    compiled = torch.compile(linear_cross_entropy)(x, weight, targets)
    assert compiled.item() == pytest.approx(eager.item(), rel=1e-6)
    for a, b in zip(torch.autograd.grad(compiled, (x, weight)), torch.autograd.grad(eager, (x, weight)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_float16_is_not_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    """float16 的梯度要先由 GradScaler 放大，所以整块地算。"""
    monkeypatch.setattr(nanogpt.loss, "CHUNK_ELEMENTS", 400)
    x, weight, targets = data()
    with torch.autocast("cpu", torch.float16):
        found = linear_cross_entropy(x, weight, targets)
        plain = F.cross_entropy(F.linear(x, weight), targets, ignore_index=-1)
    assert torch.equal(found, plain)
