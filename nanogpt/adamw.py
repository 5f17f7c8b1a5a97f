"""AdamW：`torch.optim.AdamW` 原样，只是起动快。

`GPT.configure_optimizers` 建立它；`nanogpt.muon` 的优化器也从 `LightOptimizer` 来。

torch 的优化器为了能放进 `torch.compile` 的图里，一建立就导入 `torch._dynamo`，要一两秒。这里的优化器从不放进图里，
所以拿掉那层包装；数学、状态与检查点都不变。
"""

from inspect import unwrap

import torch
from torch.optim import Optimizer


class LightOptimizer(Optimizer):
    """不导入 `torch._dynamo` 的 `Optimizer`。"""

    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)


class AdamW(LightOptimizer, torch.optim.AdamW):
    """Loshchilov 与 Hutter，2019。参数与状态同 `torch.optim.AdamW`，所以 nanoGPT 的检查点能来回。"""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
