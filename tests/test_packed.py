"""打包的矩阵：与普通的算出同样的东西，小模型与不支持的机器上不换。约 5 秒。"""

import copy

import pytest
import torch

from nanogpt import packed
from nanogpt.generation import Choice, generate
from nanogpt.model import GPT, GPTConfig
from nanogpt.packed import PackedLinear, pack_linears

SHAPE = {"block_size": 32, "vocab_size": 301, "n_layer": 2, "n_head": 4, "n_embd": 64}
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def pair(**keys: bool) -> tuple[GPT, GPT]:
    """同样权重的两个模型，后一个打包。"""
    torch.manual_seed(5)
    plain = GPT(GPTConfig(**SHAPE, **keys)).eval().requires_grad_(False)
    other = copy.deepcopy(plain)
    assert pack_linears(other)
    return plain, other


@needs_onednn
@pytest.mark.parametrize("keys", [{"bias": True}, {"bias": False}, {"rotary": True, "untied_head": True}])
def test_same_numbers(keys: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """logits、损失、贪心写出的文字都与不打包的相同；参数个数不变，每块里只留打包的一份。"""
    monkeypatch.setattr(packed, "MIN_BYTES", 0)
    plain, other = pair(**keys)
    idx, targets = torch.randint(301, (2, 3, 20)).unbind()
    with torch.inference_mode():
        for expected, found in zip(plain(idx, targets), other(idx, targets), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(other(idx, targets, loss_only=True)[1], plain(idx, targets)[1])
        a, b = (torch.stack([token for token, _logits in generate(model, idx[:, :4], 20, Choice(temperature=0))])
                for model in (plain, other))
    assert torch.equal(a, b)
    assert other.get_num_params() == plain.get_num_params()
    linears = [module for module in other.modules() if isinstance(module, PackedLinear)]
    assert len(linears) == 9 and all(linear.packed.is_mkldnn for linear in linears)
    assert [linear.weight.is_mkldnn for linear in linears] == [True] * 8 + [False]


def test_small_models_stay_as_they_are() -> None:
    """J1 那样的模型要与 nanoGPT 逐字相同。"""
    model = GPT(GPTConfig(**SHAPE)).eval()
    assert not pack_linears(model)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


@pytest.mark.parametrize("why", ["no oneDNN", "no instructions for this type"])
def test_machines_that_cannot(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """没有 oneDNN 的 torch（这里假装）；oneDNN 不认的精度：照旧算。"""
    monkeypatch.setattr(packed, "MIN_BYTES", 0)
    model = GPT(GPTConfig(**SHAPE)).eval().requires_grad_(False)
    if why == "no oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    else:
        model.double()
    idx = torch.randint(301, (1, 9))
    expected = model(idx)[0]
    assert not pack_linears(model)
    assert torch.equal(model(idx)[0], expected)


@needs_onednn
def test_bfloat16_stays_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """有 bfloat16 指令的处理器上打包，没有的照旧；两种都只差舍入。"""
    monkeypatch.setattr(packed, "MIN_BYTES", 0)
    torch.manual_seed(5)
    model = GPT(GPTConfig(**SHAPE)).eval().requires_grad_(False).bfloat16()
    idx = torch.randint(301, (2, 20))
    expected = model(idx)[0].clone()
    pack_linears(model)
    torch.testing.assert_close(model(idx)[0], expected, atol=0.02, rtol=0.02)
