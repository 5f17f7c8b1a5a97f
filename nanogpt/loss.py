"""输出层与交叉熵合在一起，一段一段地算：不留下全部位置的 logits。

`GPT.forward` 只要损失时调用它。124M 的模型上 1,024 个位置的 logits 与它的两份梯度有 600 MB，分段之后是 64 MB 一份。
每段的梯度在前向里当场算好，反向只乘一个数，所以浮点运算不比不分段的多。
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# 一段的 logits 至多这么多个数（float32 时 64 MiB）；不超过的不分段，与普通的算法逐位相同
CHUNK_ELEMENTS = 1 << 24
# GPU 的矩阵乘法要大块才满载，显存也比 CPU 的缓存宽裕（512 MiB）
CUDA_CHUNK_ELEMENTS = 1 << 27


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """`x` (N, C) 经输出层 `weight` (V, C) 对 `targets` (N,) 的平均交叉熵，以 nat 计；-1 的位置不计。"""
    limit = CUDA_CHUNK_ELEMENTS if x.is_cuda else CHUNK_ELEMENTS
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    # float16 的梯度要先放大再算，而这里还不知道放大多少
    if x.size(0) * weight.size(0) <= limit or dtype == torch.float16:
        return F.cross_entropy(F.linear(x, weight), targets, ignore_index=-1)
    chunk = max(limit // weight.size(0), 1)
    total = _ChunkedSum.apply(x, weight, targets, chunk, dtype, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return total / (targets != -1).sum()


class _ChunkedSum(torch.autograd.Function):
    """各位置交叉熵之和，连同它对 `x` 与 `weight` 的梯度。"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, chunk: int, dtype: torch.dtype,
                wants_grad: bool) -> Tensor:
        total = torch.zeros((), device=x.device)
        matrix = weight.to(dtype)
        grad_x, grad_weight = (torch.empty_like(x), torch.zeros_like(weight)) if wants_grad else (None, None)
        for start in range(0, x.size(0), chunk):
            part, target = x[start:start + chunk].to(dtype), targets[start:start + chunk]
            log_probs = (part @ matrix.t()).float().log_softmax(dim=1)  # (n, V)
            total += F.nll_loss(log_probs, target, ignore_index=-1, reduction="sum")
            if grad_x is None or grad_weight is None:
                continue
            # 交叉熵对 logits 的梯度是概率减去目标的独热向量
            grad = log_probs.exp_()
            grad.scatter_add_(1, target.clamp(min=0)[:, None], torch.full_like(grad[:, :1], -1.0))
            grad = grad.masked_fill_((target == -1)[:, None], 0.0).to(dtype)
            grad_x[start:start + chunk] = grad @ matrix
            grad_weight.addmm_(grad.t(), part) if dtype == weight.dtype else grad_weight.add_(grad.t() @ part)
        if wants_grad:
            ctx.save_for_backward(grad_x, grad_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x * grad_total, grad_weight.mul_(grad_total), None, None, None, None
