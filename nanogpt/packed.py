"""采样与打分时，CPU 上大模型的矩阵换成 oneDNN 打包的排列：逐个 token 写的时候，读权重快一半到一倍。

`nanogpt.loading` 建好模型之后调用 `pack_linears`。数学相同，只是加法的次序不同（float32 里差 1e-6）；装得进缓存的小模型
不换，所以与 nanoGPT 逐字相同。用的是 `torch.compile` 冻结权重时所用的那两个算子；没有它们、或处理器不认这种精度时不换。
"""

import torch
from torch import Tensor, nn

from nanogpt.model import GPT

# 矩阵合计小于它的不换：它们多半留在缓存里，打包没有好处
MIN_BYTES = 32 << 20


class PackedLinear(nn.Linear):
    """`nn.Linear`，另有打包的权重 `packed`；不求梯度。"""

    packed: Tensor

    def forward(self, x: Tensor) -> Tensor:
        packed: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return packed


def pack_linears(model: GPT) -> bool:
    """换掉每块里的矩阵与输出层；返回换了没有。之后 `model` 只能前向，`state_dict` 不再有意义。"""
    linears = [module for module in model.modules() if type(module) is nn.Linear]
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if sum(linear.weight.nbytes for linear in linears) < MIN_BYTES or not has_onednn:
        return False
    try:
        first = linears[0]
        row = torch.zeros(1, first.in_features, dtype=first.weight.dtype)
        torch.ops.mkldnn._linear_pointwise(row, _packed(first), None, "none", [], "")
    except (AttributeError, RuntimeError):  # 这个 torch 没有，或处理器没有 bfloat16 的指令
        return False
    for linear in linears:
        packed = _packed(linear)
        linear.__class__ = PackedLinear
        linear.packed = packed  # type: ignore[assignment]
        # 输出层原来的权重还要用：它也是词嵌入，打分时损失也直接读它
        if linear is not model.lm_head:
            linear.weight = nn.Parameter(packed, requires_grad=False)
    return True


def _packed(linear: nn.Linear) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
    return packed
