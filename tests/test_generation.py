"""生成：缓存与从头算一致，窗口、各种选项、每个样本各自的随机数。约 5 秒。"""

import pytest
import torch

from nanogpt.generation import Choice, Context, choose, draw, generate, penalized, probabilities
from nanogpt.model import GPT, GPTConfig, KVCache

SHAPE = {"block_size": 12, "vocab_size": 31, "n_layer": 2, "n_head": 2, "n_embd": 16, "bias": True}


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(3)
    model = GPT(GPTConfig(**SHAPE)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # 让分布有高有低
    return model


def texts(model: GPT, idx: torch.Tensor, tokens: int, choice: Choice, generators: list[torch.Generator] | None = None
          ) -> torch.Tensor:
    with torch.inference_mode():
        return torch.stack([token for token, _logits in generate(model, idx, tokens, choice, generators)], dim=1)


@pytest.mark.parametrize("pieces", [[10], [1] * 10, [4, 1, 1, 4], [3, 3, 4]])
def test_cache_equals_the_whole(model: GPT, pieces: list[int]) -> None:
    """分几段喂进缓存，最后一个位置的 logits 与一次算完的相同；多于一个 token 的后续段要用错开的掩码。"""
    idx = torch.randint(31, (3, 10))
    cache = KVCache(model.config, 3, 12, model.lm_head.weight)
    with torch.inference_mode():
        for part in idx.split(pieces, dim=1):
            logits, _loss = model(part, cache=cache)
        torch.testing.assert_close(logits, model(idx)[0], atol=1e-5, rtol=1e-5)
        assert cache.length == 10
        with pytest.raises(ValueError, match="13"):
            model(idx[:, :3], cache=cache)


def test_half_window(model: GPT) -> None:
    """装得下时与 exact 相同；满了之后，每个 token 恰由它该看见的那一段决定，且看得见一半以上。"""
    idx = torch.randint(31, (2, 5))
    greedy = Choice(temperature=0)
    exact, half = texts(model, idx, 40, greedy), texts(model, idx, 40, Choice(temperature=0, window="half"))
    assert torch.equal(exact[:, :8], half[:, :8]) and not torch.equal(exact, half)
    context = Context(model, idx, 40, "half")
    for token in half.unbind(dim=1):
        with torch.inference_mode():
            cached = context.next_logits()
            seen = context.seen()
            assert 6 <= seen.size(1) <= 12 or context.length < 12
            torch.testing.assert_close(cached, model(seen)[0][:, -1], atol=1e-4, rtol=1e-4)
            assert torch.equal(cached.argmax(dim=-1), token)
        context.append(token)


@pytest.mark.parametrize("recipe", [{}, {"rotary": True, "qk_norm": True, "untied_head": True}])
@pytest.mark.parametrize("window", ["exact", "half"])
def test_fixed_shapes_equal_growing_ones(window: str, recipe: dict[str, bool]) -> None:
    """录成 CUDA 图的那一步：形状不变，缓存里还没写的不起作用，去掉写完的行之后也接得上。这里没有 CUDA，只是不录。"""
    torch.manual_seed(3)
    model = GPT(GPTConfig(**{**SHAPE, **recipe})).eval()
    idx = torch.randint(31, (3, 4))
    with torch.inference_mode():
        growing, fixed = (Context(model, idx, 30, window, uses_graph) for uses_graph in (False, True))
        fixed.cache.values.fill_(torch.nan)  # 没有写过的内存什么都可能是
        fixed.cache.keys.fill_(torch.inf)
        for step in range(30):
            expected, found = growing.next_logits(), fixed.next_logits()
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
            assert growing.cache.length == fixed.cache.length
            token = expected.argmax(dim=-1)
            for context in (growing, fixed):
                context.append(token)
            if step == 5:
                growing.keep([0, 2]), fixed.keep([0, 2])
    assert fixed.graph is not None and growing.graph is None


@pytest.mark.parametrize("window", ["exact", "half"])
def test_a_prompt_longer_than_the_context(model: GPT, window: str) -> None:
    """只看末尾的 `block_size` 个。"""
    idx = torch.randint(31, (1, 30))
    choice = Choice(temperature=0, window=window)
    assert torch.equal(texts(model, idx, 1, choice)[0], model(idx[:, -12:])[0][0, -1:].argmax(-1))
    assert torch.equal(texts(model, idx, 20, choice), texts(model, idx[:, -12:], 20, choice))


def test_draw_equals_multinomial() -> None:
    """同一状态下与 `torch.multinomial` 抽到的相同，此后的随机数也接得上。"""
    torch.manual_seed(0)
    for rows in (1, 3):
        probs = torch.softmax(torch.randn(rows, 50), dim=-1)
        for _repeat in range(200):
            state = torch.get_rng_state()
            expected = torch.multinomial(probs, 1)[:, 0]
            after = torch.get_rng_state()
            torch.set_rng_state(state)
            assert torch.equal(draw(probs), expected)
            assert torch.equal(torch.get_rng_state(), after)


def test_each_sequence_has_its_own_random_numbers(model: GPT) -> None:
    """一批里的每个样本，与单独用同一个发生器抽的相同。"""
    idx = torch.randint(31, (1, 4))
    together = texts(model, idx.expand(3, -1), 30, Choice(), [torch.Generator().manual_seed(n) for n in (5, 6, 5)])
    for row, seed in zip(together, (5, 6, 5), strict=True):
        assert torch.equal(texts(model, idx, 30, Choice(), [torch.Generator().manual_seed(seed)])[0], row)
    assert torch.equal(together[0], together[2]) and not torch.equal(together[0], together[1])


def test_min_p() -> None:
    """概率不及最大者 `min_p` 倍的出局；与 `top_p` 一起用时在它之后。"""
    logits = torch.log(torch.tensor([[0.1, 0.5, 0.15, 0.25]]))
    for min_p, expected in {0.1: [0.1, 0.5, 0.15, 0.25], 0.25: [0, 0.5, 0.15, 0.25], 0.45: [0, 0.5, 0, 0.25],
                            1.0: [0, 1.0, 0, 0]}.items():
        row = torch.tensor([expected])
        torch.testing.assert_close(probabilities(logits, Choice(min_p=min_p)), row / row.sum(), atol=1e-6, rtol=0)
    row = torch.tensor([[0.0, 2 / 3, 0.0, 1 / 3]])
    torch.testing.assert_close(probabilities(logits, Choice(top_p=0.7, min_p=0.3)), row, atol=1e-6, rtol=0)


def test_options_equal_transformers() -> None:
    """重复惩罚、温度、`top_k`、`top_p`、`min_p` 的含义与次序，同 transformers 的 logits 处理器。"""
    pytest.importorskip("transformers")
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    torch.manual_seed(2)
    seen, logits = torch.randint(31, (4, 9)), 3 * torch.randn(4, 31)
    theirs = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.3), TemperatureLogitsWarper(0.7),
                                  TopKLogitsWarper(12), TopPLogitsWarper(0.9), MinPLogitsWarper(0.05)])
    expected = torch.softmax(theirs(seen, logits.clone()), dim=-1)
    choice = Choice(0.7, 12, 0.9, 0.05, 1.3)
    torch.testing.assert_close(probabilities(penalized(logits, seen, 1.3), choice), expected, atol=1e-6, rtol=1e-5)
    greedy = Choice(temperature=0, repetition_penalty=1.3)
    assert torch.equal(choose(logits, seen, greedy), theirs[0](seen, logits.clone()).argmax(-1))


def test_repetition_penalty_forbids_loops(model: GPT) -> None:
    """足够大时，贪心也不再写上下文里已有的 token。"""
    idx = torch.randint(31, (1, 3))
    written = texts(model, idx, 9, Choice(temperature=0, repetition_penalty=1e6))[0].tolist()
    assert len(set(written)) == 9 and not set(written) & set(idx[0].tolist())
