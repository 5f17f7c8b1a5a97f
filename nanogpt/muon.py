"""Muon：隐藏层的矩阵走正交化的动量，其余的参数走 AdamW，合成一个优化器。

`GPT.configure_optimizers` 建立它；`nanogpt.training` 存取它的状态，`nanogpt.train` 每步给每组定学习率。
每个 rank 都从同步过的梯度算出全部的更新，权重因此相同，不另外通信。

出处：Jordan 等，Muon: An optimizer for hidden layers in neural networks（2024）；权重衰减见 Liu 等，Muon is
Scalable for LLM Training（2025）。
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from nanogpt.adamw import LightOptimizer

# 每步一个五次多项式 aX + b(XXᵀ)X + c(XXᵀ)²X，取前一步的值域上与 1 相差最少的：[0.002, 1] 里的奇异值四步之后都在
# 1 ± 0.32 里。前三个按 1.02 放宽：舍入把奇异值推过 1 一点，也不至于放大
_POLYNOMIALS = ((8.2616, -23.4979, 16.7492), (4.0310, -2.8826, 0.5208), (3.6418, -2.6179, 0.4917),
                (2.7820, -2.0749, 0.4635))


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """一批矩阵 (N, m, n) 的 UΣVᵀ 各自换成近似的 UVᵀ，即全部奇异值变成 1 左右（Polar Express，Amsel 等，2025）。

    `dtype` 是迭代的精度；每个矩阵每步的代价约 4m²n + 2m³ 次浮点运算，m 是短的一边；长的一边不小于两倍时是 8m³。
    """
    is_tall = matrices.size(1) > matrices.size(2)
    x = matrices.mT if is_tall else matrices  # 短的一边在前，XXᵀ 才小
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    gram = x @ x.mT
    # 谱范数不大于 1 才收敛：它不大于 ‖XXᵀ‖ 的平方根，后者比 ‖X‖ 紧得多，等于白得一步
    bound = gram.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    gram, x = gram / bound, x * bound.rsqrt()
    if dtype != torch.bfloat16 and x.size(2) >= 2 * x.size(1):
        x = _gram_polynomial(gram) @ x
        return (x.mT if is_tall else x).to(matrices.dtype)
    for step, (a, b, c) in enumerate(_POLYNOMIALS):
        if step > 0:
            gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)


def _gram_polynomial(gram: Tensor) -> Tensor:
    """同样的迭代，每步的 X ← P(XXᵀ)X 里只动 m×m 的 G = XXᵀ：各步的 P 相乘，G ← P·G·P，P 与 G 可交换。

    长的一边只在首尾各乘一次。G 的舍入比 X 的大，所以半精度不用它。
    """
    product = None
    for step, (a, b, c) in enumerate(_POLYNOMIALS):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        product = polynomial if product is None else polynomial @ product
        if step < len(_POLYNOMIALS) - 1:
            gram = polynomial @ (gram @ polynomial)
    assert product is not None
    return product


class MuonAdamW(LightOptimizer):
    """有 `momentum` 的组走 Muon（只能是矩阵），有 `betas` 与 `fused` 的组走 AdamW；两者的权重衰减都与梯度分开。

    Muon 的组里 `parts` 是一个参数由几个矩阵上下叠成：q、k、v 合成的 `c_attn` 要各自正交化。
    状态：Muon 每个参数一份 `momentum_buffer`，AdamW 是 `step`、`exp_avg` 与 `exp_avg_sq`。
    """

    def __init__(self, groups: list[dict[str, Any]], dtype: torch.dtype):
        super().__init__(groups, {"lr": 1e-3, "weight_decay": 0.0})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """没有梯度的参数不动。"""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if "momentum" in group:
                # 同样形状的一起算：几十个小的矩阵乘法合成一个
                parameters.sort(key=lambda p: p.shape)
                for _shape, same in groupby(parameters, key=lambda p: p.shape):
                    self._muon(group, list(same))
            elif parameters:
                self._adamw(group, parameters)
        return loss

    def _muon(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """动量取 Nesterov 的形式；更新乘 √max(1, 行数/列数)，使输出每一维的变化不因形状而异。"""
        gradients = [p.grad for p in parameters if p.grad is not None]
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        rows, columns = parameters[0].size(0) // group["parts"], parameters[0].size(1)
        updates = torch.stack(torch._foreach_lerp(gradients, buffers, group["momentum"]))
        updates = orthogonalize(updates.view(-1, rows, columns), self.dtype).view(updates.shape)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, updates.unbind(), alpha=-group["lr"] * max(1, rows / columns) ** 0.5)

    def _adamw(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """与 `torch.optim.AdamW` 同一个函数。"""
        for p in parameters:
            if not self.state[p]:
                # 融合核要求步数与参数在同一设备上
                self.state[p] = {"step": torch.zeros((), device=p.device if group["fused"] else "cpu"),
                                 "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        states = [self.state[p] for p in parameters]
        adamw(parameters, [p.grad for p in parameters if p.grad is not None], [s["exp_avg"] for s in states],
              [s["exp_avg_sq"] for s in states], [], [s["step"] for s in states], fused=group["fused"], amsgrad=False,
              beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"], weight_decay=group["weight_decay"],
              eps=1e-8, maximize=False)


def muon_adamw(named: Sequence[tuple[str, Tensor]], weight_decay: float, muon: dict[str, Any], adamw: dict[str, Any],
               dtype: torch.dtype) -> MuonAdamW:
    """`GPT` 的参数分成四组：每块里的矩阵走 Muon，嵌入与输出层、不衰减的走 AdamW；`muon` 与 `adamw` 是各自组里的键。"""
    hidden = [(name, p) for name, p in named if p.dim() == 2 and name.startswith("transformer.h.")]
    others = [p for name, p in named if p.dim() >= 2 and not name.startswith("transformer.h.")]
    return MuonAdamW([
        {"params": [p for name, p in hidden if "c_attn" in name], "parts": 3, "weight_decay": weight_decay, **muon},
        {"params": [p for name, p in hidden if "c_attn" not in name], "parts": 1, "weight_decay": weight_decay, **muon},
        {"params": others, "weight_decay": weight_decay, **adamw},
        {"params": [p for _, p in named if p.dim() < 2], "weight_decay": 0.0, **adamw},
    ], dtype)
