"""GPT：与 nanoGPT 同样的网络、初始化与参数名，从上到下一次读完。

`nanogpt.train` 训练它，`nanogpt.sample` 用它生成，`nanogpt.checkpoint` 保存与载入它。
形状里 B 是批，T 是序列长度，C 是 `n_embd`，nh 是头数，hs 是每头的宽度，V 是词表大小。

出处：GPT-2（Radford 等，2019）、nanoGPT 的 `model.py`。
"""

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F

from nanogpt.adamw import AdamW
from nanogpt.device import has_fast_bfloat16
from nanogpt.loss import linear_cross_entropy
from nanogpt.muon import muon_adamw


@dataclass
class GPTConfig:
    """网络的形状。前七项与 nanoGPT 相同；其后的各项默认不改变数学。"""

    block_size: int = 1024
    vocab_size: int = 50304  # GPT-2 的 50257 补齐到 64 的倍数，矩阵乘法更快
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True        # True：Linear 与 LayerNorm 都有偏置，同 GPT-2；False：略好也略快
    gelu_tanh: bool = False  # True：GELU 的 tanh 近似，OpenAI 的 GPT-2 权重是用它训练的
    rotary: bool = False           # 旋转位置编码，没有 `wpe`（RoPE，Su 等，2021）
    qk_norm: bool = False          # 查询与键各自归一化，点积不会太大（Henry 等，2020）
    squared_relu: bool = False     # 激活函数是 ReLU 的平方（Primer，So 等，2021）
    weightless_norm: bool = False  # LayerNorm 没有可学的权重
    untied_head: bool = False      # 输出层有自己的矩阵
    zero_init: bool = False        # 残差支路的输出层与输出层从零开始：每块起初是恒等（muP，Yang 等，2022）

    def is_gpt2(self) -> bool:
        """是不是 GPT-2 的网络，Hugging Face 的 `GPT2LMHeadModel` 能不能表示它。"""
        return not (self.rotary or self.qk_norm or self.squared_relu or self.weightless_norm or self.untied_head)


def norm(config: GPTConfig) -> nn.Module:
    """残差流上的归一化。"""
    if config.weightless_norm:
        return nn.LayerNorm(config.n_embd, elementwise_affine=False)
    return nn.LayerNorm(config.n_embd, bias=config.bias)


Past = tuple[Tensor, Tensor, int | Tensor, Tensor | None]


class CausalSelfAttention(nn.Module):
    """多头因果自注意力（Vaswani 等，2017），由 SDPA 选最快的核。"""

    def __init__(self, config: GPTConfig):
        super().__init__()
        # q、k、v 的投影合成一次矩阵乘法
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.qk_norm = config.qk_norm

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None = None,
                past: Past | None = None, last_only: bool = False) -> Tensor:
        """`x`：(B, T, C)。`past` 是本层缓存的键、值、其中已有的长度与掩码，见 `KVCache`；新的键与值写在其后。

        `last_only`：只要最后一个位置，返回 (B, 1, C)。
        """
        B, T, C = x.size()
        heads = self.c_attn(x).view(B, T, 3 * self.n_head, C // self.n_head)
        if self.qk_norm or rotation is not None:
            qk, v = heads.split((2 * self.n_head, self.n_head), dim=2)
            if self.qk_norm:
                qk = F.layer_norm(qk, (C // self.n_head,))
            if rotation is not None:
                qk = rotate(qk, rotation)
            q, k = qk.split(self.n_head, dim=2)
        else:
            q, k, v = heads.split(self.n_head, dim=2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, nh, T, hs)
        mask, is_causal = None, True
        if past is not None:
            keys, values, start, mask = past
            if isinstance(start, Tensor):
                keys.index_copy_(2, start, k)
                values.index_copy_(2, start, v)
                k, v = keys, values
            else:
                keys[:, :, start:start + T], values[:, :, start:start + T] = k, v
                k, v = keys[:, :, :start + T], values[:, :, :start + T]
            is_causal = mask is None and T > 1
        if last_only and T > 1:
            q, mask, is_causal = q[:, :, -1:], None, False  # 它看得见全部的键
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal,
                                           dropout_p=self.dropout if self.training else 0.0)
        y = y.transpose(1, 2).contiguous().view(B, -1, C)
        return self.resid_dropout(self.c_proj(y))


def rotations(positions: Tensor, head_size: int) -> tuple[Tensor, Tensor]:
    """位置 (T,) 的旋转：余弦与带符号的正弦，各 (T, 1, hs)。第 i 与第 i + hs/2 维是一对，转速按 10000 的幂递减。"""
    frequencies = 10000.0 ** -(torch.arange(0, head_size, 2, device=positions.device) / head_size)  # (hs / 2,)
    angles = positions[:, None, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=2), torch.cat((-sin, sin), dim=2)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """按位置旋转 (B, T, nh, hs)：之后 q 与 k 的点积只取决于两者的距离（RoPE 论文 3.2 节）。"""
    cos, sin = rotation
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, dims=-1), sin).to(x.dtype)


class SquaredReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return x * x  # CPU 上比 `square()` 的反向快


class MLP(nn.Module):
    """逐位置的两层前馈网络，中间宽 4C。"""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.gelu = SquaredReLU() if config.squared_relu else nn.GELU("tanh" if config.gelu_tanh else "none")
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.gelu(self.c_fc(x))))


class Block(nn.Module):
    """先归一化的残差块。"""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1 = norm(config)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = norm(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None = None,
                past: Past | None = None, last_only: bool = False) -> Tensor:
        x = (x[:, -1:] if last_only else x) + self.attn(self.ln_1(x), rotation, past, last_only)
        return x + self.mlp(self.ln_2(x))


class KVCache:
    """生成时算过的键与值，预先占好 `max_tokens` 个位置：每步只写一列，不重新分配。

    124M 的模型在 float32 下每个位置 72 KiB，1024 个位置 72 MiB，每个样本一份。
    """

    def __init__(self, config: GPTConfig, batch_size: int, max_tokens: int, like: Tensor):
        """类型与设备同 `like`，通常是模型的一个参数。"""
        shape = (config.n_layer, batch_size, config.n_head, max_tokens, config.n_embd // config.n_head)
        self.keys, self.values = like.new_empty(shape), like.new_empty(shape)  # (L, B, nh, T, hs)
        # 已有的 token 数，也是下一个 token 的位置。若是设备上的 (1,)：一次只写一个 token，形状不随长度变，由调用者推进
        self.length: int | Tensor = 0

    def mask(self, T: int) -> Tensor | None:
        """接下来的 T 个查询各看得见哪些键；None：之前没有键，或者全看得见。"""
        if isinstance(self.length, Tensor):
            return torch.arange(self.keys.size(3), device=self.keys.device)[None] <= self.length  # (1, max_tokens)
        if T == 1 or self.length == 0:
            return None
        # SDPA 的因果掩码从左上角对齐，而第一个查询要看得见全部旧的键
        return torch.ones(T, self.length + T, dtype=torch.bool, device=self.keys.device).tril(self.length)


class GPT(nn.Module):
    """整个模型。子模块的名字与次序决定检查点的键与初始化的随机数，都与 nanoGPT 一致。"""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(config.vocab_size, config.n_embd),
            **({} if config.rotary else {"wpe": nn.Embedding(config.block_size, config.n_embd)}),
            "drop": nn.Dropout(config.dropout),
            "h": nn.ModuleList([Block(config) for _ in range(config.n_layer)]),
            "ln_f": norm(config),
        })
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if not config.untied_head:
            # 输入与输出的嵌入共用一个矩阵（Press 与 Wolf，2017）
            self.transformer["wte"].weight = self.lm_head.weight

        self.apply(self._init_weights)
        # 残差支路的输出层按深度缩小，使残差流的方差不随层数增长（GPT-2 论文 2.3 节）
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, mean=0.0, std=0.02 / math.sqrt(2 * config.n_layer))
                if config.zero_init:
                    nn.init.zeros_(parameter)
        if config.zero_init and config.untied_head:
            nn.init.zeros_(self.lm_head.weight)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, mean=0.0, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def get_num_params(self, non_embedding: bool = True) -> int:
        """参数个数。默认不计位置嵌入；词嵌入也是输出层的权重，所以计入。"""
        count = sum(p.numel() for p in self.parameters())
        return count - self.transformer["wpe"].weight.numel() if non_embedding and not self.config.rotary else count

    def forward(self, idx: Tensor, targets: Tensor | None = None, cache: KVCache | None = None,
                loss_only: bool = False) -> tuple[Any, Any]:
        """`idx`、`targets`：(B, T) 的 int64，T 不超过 `block_size`；`targets` 为 -1 的位置不计损失。

        返回（logits, loss）。给了 `targets` 时 logits 为 (B, T, V)，loss 是以 nat 计的平均交叉熵；
        否则 logits 只有最后一个位置，(B, 1, V)，loss 为 None。`loss_only`：不要 logits，省下它的内存，那一项为 None。
        给了 `cache` 时 `idx` 接在它已有的 token 之后，位置从 `cache.length` 数起，算出的键与值记入其中。
        """
        T, start = idx.size(1), 0 if cache is None else cache.length
        if isinstance(start, Tensor):
            positions = start
        elif self.config.block_size < start + T:
            raise ValueError(f"sequence of length {start + T} is longer than block_size {self.config.block_size}")
        else:
            positions = torch.arange(start, start + T, dtype=torch.long, device=idx.device)
        x, rotation = self.transformer["wte"](idx), None  # (B, T, C)
        if self.config.rotary:
            rotation = rotations(positions, self.config.n_embd // self.config.n_head)
        else:
            x = x + self.transformer["wpe"](positions)
        x = self.transformer["drop"](x)
        mask = None if cache is None else cache.mask(T)
        for i, block in enumerate(self.transformer["h"].children()):
            # 生成时只要最后一个位置：最后一块里别的位置只需留下键与值，上下文满了之后每步省下近四分之三块
            last_only = targets is None and i == self.config.n_layer - 1
            past = None if cache is None else (cache.keys[i], cache.values[i], start, mask)
            x = block(x, rotation, past, last_only)
        if cache is not None and isinstance(start, int):
            cache.length = start + T
        x = self.transformer["ln_f"](x)
        if targets is None:
            return self.lm_head(x), None  # (B, 1, V)
        if loss_only:
            return None, linear_cross_entropy(x.flatten(0, 1), self.lm_head.weight, targets.flatten())
        logits = self.lm_head(x)
        loss = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)
        return logits, loss

    def crop_block_size(self, block_size: int) -> None:
        """把上下文缩短到 `block_size`，例如拿 1024 的 GPT-2 当起点做更小的模型。"""
        if block_size > self.config.block_size:
            raise ValueError(f"cannot crop block_size {self.config.block_size} to the larger {block_size}")
        self.config.block_size = block_size
        if self.config.rotary:
            return
        wpe = self.transformer["wpe"]
        wpe.weight = nn.Parameter(wpe.weight[:block_size])
        wpe.num_embeddings = block_size

    @classmethod
    def from_pretrained(cls, model_type: str, override_args: dict[str, Any] | None = None) -> "GPT":
        """载入 GPT-2 权重：`gpt2` 等四个名字，或一个本地的 Hugging Face 目录。只有 `dropout` 可以改。

        没有 `transformers`、下载不到、或目录不是 GPT-2 时抛出 `BadInput`。
        """
        from nanogpt.pretrained import load_gpt2

        args, state = load_gpt2(model_type)
        unknown = set(override_args or {}) - {"dropout"}
        if unknown:
            raise ValueError(f"only dropout can be overridden, not {sorted(unknown)}")
        model = cls(GPTConfig(**{**args, **(override_args or {})}))
        model.load_state_dict(state)
        return model

    def configure_optimizers(self, weight_decay: float, learning_rate: float, betas: tuple[float, float],
                             device_type: str, muon_lr: float | None = None,
                             muon_momentum: float = 0.95) -> torch.optim.Optimizer:
        """AdamW（Loshchilov 与 Hutter，2019）。二维以上的参数（矩阵与嵌入）衰减，偏置与归一化不衰减。

        给了 `muon_lr`，每块里的矩阵就走 Muon，嵌入与输出层仍走 AdamW。
        """
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        # 融合核一次遍历更新全部参数；CPU 上也有
        fused = device_type in ("cuda", "cpu") and "fused" in inspect.signature(torch.optim.AdamW).parameters
        if muon_lr is None:
            groups = [
                {"params": [p for _, p in named if p.dim() >= 2], "weight_decay": weight_decay},
                {"params": [p for _, p in named if p.dim() < 2], "weight_decay": 0.0},
            ]
            return AdamW(groups, lr=learning_rate, betas=betas, **({"fused": True} if fused else {}))
        return muon_adamw(named, weight_decay, {"lr": muon_lr, "momentum": muon_momentum},
                          {"lr": learning_rate, "betas": betas, "fused": fused},
                          torch.bfloat16 if has_fast_bfloat16(device_type) else torch.float32)

    def flops_per_token(self) -> int:
        """前向加反向每个 token 的浮点运算数，6N + 12·L·C·T（PaLM 论文附录 B）。"""
        c = self.config
        # 词嵌入只在兼作输出层时才有矩阵乘法
        n = self.get_num_params() - (self.transformer["wte"].weight.numel() if c.untied_head else 0)
        return 6 * n + 12 * c.n_layer * c.n_embd * c.block_size

    def estimate_mfu(self, fwdbwd_per_iter: float, dt: float, peak_flops: float = 312e12) -> float:
        """模型浮点利用率：每 `dt` 秒处理 `fwdbwd_per_iter` 条序列，与 `peak_flops`（每秒）之比。

        默认的峰值是 A100 的 bfloat16，与 nanoGPT 同；训练器传入手头设备的峰值。
        """
        return self.flops_per_token() * self.config.block_size * fwdbwd_per_iter / dt / peak_flops

    @torch.no_grad()
    def generate(self, idx: Tensor, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None,
                 **options: Any) -> Tensor:
        """接着 `idx` (B, T) 逐个采样，返回 (B, T + max_new_tokens)；超出 `block_size` 时只看末尾一段。

        `temperature` 为 0 时总取最可能的；其余选项见 `nanogpt.generation.Choice`。先调用 `eval()`。
        """
        from nanogpt.generation import Choice, generate

        choice = Choice(temperature=temperature, top_k=top_k or 0, **options)
        tokens = [token[:, None] for token, _logits in generate(self, idx, max_new_tokens, choice)]
        return torch.cat([idx, *tokens], dim=1)
