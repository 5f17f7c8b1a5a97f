"""跳过初始化之后，随机数与真的初始化过一样。约 2 秒。"""

import pytest
import torch

from nanogpt.init_random import empty_model, jumped, state_after_init
from nanogpt.model import GPT, GPTConfig


@pytest.mark.parametrize("draws", [624, 625, 1000, 1247, 1248, 1249, 3_000_017])
def test_jump_equals_drawing(draws: int) -> None:
    torch.manual_seed(draws)
    fresh = torch.get_rng_state()
    torch.empty(draws).uniform_()
    assert torch.equal(jumped(fresh, draws), torch.get_rng_state())


@pytest.mark.parametrize("shape", [{"n_embd": 256, "n_head": 4, "bias": True}, {"n_embd": 250, "n_head": 5},
                                   {"n_embd": 16, "n_head": 2}])
@pytest.mark.parametrize("seed", [0, 1337])
def test_state_equals_a_real_initialisation(shape: dict[str, int], seed: int) -> None:
    """也有除不尽 16 的张量；小模型不跳。别人的随机数不受打扰。"""
    config = GPTConfig(**{"n_layer": 3, "vocab_size": 5001, "block_size": 77, "bias": False, **shape})
    torch.manual_seed(seed)
    GPT(config)
    expected = torch.get_rng_state()
    model, draws = empty_model(config)
    assert (draws is None) == (config.n_embd == 16)
    assert torch.equal(state_after_init(config, draws, seed), expected)
    assert torch.equal(torch.get_rng_state(), expected)
    assert [tuple(p.shape) for p in model.parameters()] == [tuple(p.shape) for p in GPT(config).parameters()]


def test_the_parameters_of_the_recipe() -> None:
    """初始化成零的也认得：不抽随机数。"""
    if "zero_init" not in GPTConfig.__dataclass_fields__:
        pytest.skip("no recipe in this version")
    config = GPTConfig(n_layer=3, n_embd=256, n_head=4, vocab_size=5001, block_size=77,
                       **{"zero_init": True, "untied_head": True, "rotary": True})
    torch.manual_seed(4)
    GPT(config)
    _model, draws = empty_model(config)
    assert draws is not None and torch.equal(state_after_init(config, draws, 4), torch.get_rng_state())
