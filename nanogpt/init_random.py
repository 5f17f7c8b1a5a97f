"""建一个不必初始化的模型，与初始化之后的随机数：采样要从那里接着抽，才与 nanoGPT 逐字相同。

nanoGPT 先定种子，再建模型（初始化用掉几亿个随机数），随后载入权重、开始抽样。这里不真的初始化：数出它要用多少个，
让梅森旋转（mt19937，PyTorch 在 CPU 上的发生器）一步跳过去。124M 的模型因此省下两秒多，而且每换一个种子都省一次。
`nanogpt.loading` 使用。

出处：Haramoto、Matsumoto、Nishimura、Panneton、L'Ecuyer《Efficient Jump Ahead for F2-Linear Random Number
Generators》（2008）；特征多项式见 Matsumoto 与 Nishimura《Mersenne Twister》（1998）附录。
"""

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nanogpt.model import GPT, GPTConfig

N, M, W, R = 624, 397, 32, 31      # mt19937 的状态字数、递推的间隔、字长、首字里不属于状态的位数
A = 0x9908B0DF
DEGREE = N * W - R                 # 19937
# 小模型真的初始化一次也只要几毫秒，而且 16 个数以下的张量另有一种抽法
SMALL = 2_000_000
_DRAWS_ONE_EACH = ("normal_", "uniform_", "kaiming_uniform_")


class _SkipDraws(TorchFunctionMode):
    """其间的初始化不真的做，只数出它要从发生器取多少个 32 位数；认不得的随机函数使 `is_known` 为假。"""

    def __init__(self) -> None:
        super().__init__()
        self.draws, self.is_known = 0, True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _DRAWS_ONE_EACH:
            tensor = args[0] if args else kwargs["tensor"]
            count = tensor.numel()
            # `normal_` 一次生成 16 个；除不尽时末尾的 16 个重抽
            self.draws += count + (16 if name == "normal_" and count % 16 else 0)
            self.is_known &= count >= 16
            return tensor
        self.is_known &= not (name.endswith("_") and ("normal" in name or "uniform" in name)) and "rand" not in name
        return func(*args, **(kwargs or {}))


def empty_model(config: GPTConfig) -> tuple[GPT, int | None]:
    """（权重未定的模型, 初始化本该用掉多少个随机数）；后者为 None 时模型已照常初始化过，见 `state_after_init`。"""
    if 12 * config.n_layer * config.n_embd**2 + config.vocab_size * config.n_embd >= SMALL:
        with _SkipDraws() as skipped:
            model = GPT(config)
        if skipped.is_known:
            return model, skipped.draws
    with torch.random.fork_rng(devices=[]):
        return GPT(config), None


def state_after_init(config: GPTConfig, draws: int | None, seed: int) -> Tensor:
    """`torch.manual_seed(seed)` 之后建一个 `GPT(config)`，CPU 的发生器会是什么状态。"""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if draws is None:
            GPT(config)
            return torch.get_rng_state()
        return jumped(torch.get_rng_state(), draws)


def jumped(fresh: Tensor, draws: int) -> Tensor:
    """刚定过种子的发生器状态 `fresh`，取走 `draws`（至少 624）个 32 位数之后的样子。

    状态的布局是 PyTorch 的 `CPUGeneratorImplStateLegacy`：种子、余数、下标与 624 个字，都是小端 64 位。
    """
    words = fresh.numpy().copy().view("<u8")
    blocks = -(-draws // N)                    # 已经整块换过几次状态
    used = draws - N * (blocks - 1)            # 当前这一块里用过几个，1 到 624
    state = _advance(words[3:3 + N].astype(np.uint32), N * blocks)
    words[3:3 + N] = state
    words[1] = (words[1] & ~np.uint64(0xFFFFFFFF)) | np.uint64(N - used + 1)
    words[2] = used
    return torch.from_numpy(words.view(np.uint8).copy())


def _advance(state: np.ndarray, steps: int) -> np.ndarray:
    """递推 `steps`（至少 624）步之后的 624 个字：x^steps 除以特征多项式的余式，就是该把哪些字异或起来。"""
    # 首字有 31 位不属于状态，先实走一块，此后每一位都服从递推
    words = np.empty(N + DEGREE + N, dtype=np.uint32)
    words[:N] = state
    for start in range(N, len(words), N - M):  # 一次可算 227 个：再往后就要用到本次的结果
        stop = min(start + N - M, len(words))
        upper, lower = words[start - N:stop - N] & 0x80000000, words[start - N + 1:stop - N + 1] & 0x7FFFFFFF
        mixed = upper | lower
        words[start:stop] = words[start - N + M:stop - N + M] ^ (mixed >> 1) ^ np.where(mixed & 1, A, 0).astype("u4")
    result = np.zeros(N, dtype=np.uint32)
    remainder = _power(steps - N)
    for i, bit in enumerate(reversed(bin(remainder)[2:])):
        if bit == "1":
            result ^= words[N + i:N + i + N]
    return result


@functools.lru_cache(maxsize=4)
def _power(exponent: int) -> int:
    """x^exponent 除以特征多项式的余式；二元域上的多项式，第 i 位是 x^i 的系数。约 0.2 秒。"""
    terms = [i for i, bit in enumerate(reversed(bin(_characteristic())[2:])) if bit == "1"][:-1]
    mask, result = (1 << DEGREE) - 1, 1
    for bit in bin(exponent)[2:]:
        result = int("0".join(bin(result)[2:]), 2)  # 平方：各位之间插一个 0
        if bit == "1":
            result <<= 1
        while high := result >> DEGREE:
            result &= mask
            for term in terms:
                result ^= high << term
    return result


@functools.cache
def _characteristic() -> int:
    """mt19937 的特征多项式，19937 次，135 项。"""
    first, second = (1 << N) | (1 << M), (1 << (N - 1)) | (1 << (M - 1))
    a = [A >> i & 1 for i in range(W)]
    total = _times(_to_the(first, W - R), _to_the(second, R))
    for i in range(R):
        if a[i]:
            total ^= _times(_to_the(first, W - R), _to_the(second, R - 1 - i))
    for i in range(R, W):
        if a[i]:
            total ^= _to_the(first, W - 1 - i)
    return total


def _to_the(base: int, exponent: int) -> int:
    result = 1
    for _ in range(exponent):
        result = _times(result, base)
    return result


def _times(a: int, b: int) -> int:
    """二元域上多项式的乘积；`b` 只有少数几项。"""
    result = 0
    while b:
        low = b & -b
        result ^= a << (low.bit_length() - 1)
        b ^= low
    return result
