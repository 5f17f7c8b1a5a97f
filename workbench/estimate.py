"""启动之前的估算：参数、每步的 token、要过几遍数据、训练要多少内存。不需要 `torch`。

启动界面在每次改动后调用 `estimate`。参数个数是精确的；内存是按下面的公式算的估计，
不含 `torch` 自己占用的（CPU 上约 300 MiB，CUDA 上约 500 MiB）与分配器的碎片。
"""

from dataclasses import dataclass
from pathlib import Path

from nanogpt.config import GPT2_NAMES, TrainConfig
from nanogpt.dataset import Dataset
from nanogpt.preflight import scratch_vocab_size
from nanogpt.pretrained import folder_model_args, gpt2_model_args

MIB = 2**20
# 权重、梯度、AdamW 的两个动量，都是 float32；Muon 只有一个动量
STATE_BYTES, MUON_STATE_BYTES = 16, 12
# 检查点没有梯度
CHECKPOINT_BYTES, MUON_CHECKPOINT_BYTES = 12, 8
# 损失分段算，同时在内存里的 logits 至多这么多个数；同 `nanogpt.loss`，那里要载入 torch
LOGITS_AT_ONCE, CUDA_LOGITS_AT_ONCE = 1 << 24, 1 << 27


@dataclass(frozen=True)
class Shape:
    """决定参数个数与激活大小的几项。"""

    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    vocab_size: int
    bias: bool
    rotary: bool = False
    weightless_norm: bool = False
    untied_head: bool = False
    uses_muon: bool = False

    @property
    def all_params(self) -> int:
        """全部参数，位置嵌入也算；词嵌入与输出层默认共用一个矩阵。"""
        width, has_bias = self.n_embd, int(self.bias)
        norms = 0 if self.weightless_norm else (2 * self.n_layer + 1) * width * (1 + has_bias)
        block = 12 * width * width + has_bias * 9 * width
        return self.vocab_size * width * (1 + self.untied_head) + self._positions + self.n_layer * block + norms

    @property
    def _positions(self) -> int:
        return 0 if self.rotary else self.block_size * self.n_embd

    @property
    def muon_params(self) -> int:
        """由 Muon 更新的：每块里的矩阵。"""
        return 12 * self.n_layer * self.n_embd**2 if self.uses_muon else 0

    @property
    def params(self) -> int:
        """与 `GPT.get_num_params()`、`start` 事件的 `params` 相同：不计位置嵌入。"""
        return self.all_params - self._positions


@dataclass(frozen=True)
class Estimate:
    """`epochs` 与 `train_tokens` 在数据集还没准备时为 None。`memory_mib` 是每个 rank 的估计。"""

    params: int
    tokens_per_iter: int
    total_tokens: int
    train_tokens: int | None
    epochs: float | None
    memory_mib: float
    checkpoint_mib: float
    is_vocab_known: bool


def shape_of(config: TrainConfig, dataset: Dataset | None) -> Shape:
    """将要训练的模型的形状；预训练的由它自己定。本地目录不合法时抛出 `BadInput`。"""
    if config.init_from in ("scratch", "resume"):
        return Shape(config.n_layer, config.n_head, config.n_embd, config.block_size, scratch_vocab_size(dataset),
                     config.bias, config.rotary, config.weightless_norm, config.untied_head,
                     config.optimizer == "muon")
    args = (gpt2_model_args(config.init_from) if config.init_from in GPT2_NAMES
            else folder_model_args(Path(config.init_from)))
    return Shape(args["n_layer"], args["n_head"], args["n_embd"], min(config.block_size, args["block_size"]),
                 args["vocab_size"], args["bias"], uses_muon=config.optimizer == "muon")


def memory_mib(shape: Shape, batch_size: int, dropout: float, is_half: bool, is_cuda: bool, ranks: int) -> float:
    """一个 rank 训练一步的内存，MiB。`is_half`：混合精度。

    状态：权重、梯度与两个动量，每个参数 16 字节；多 rank 再加一份梯度的桶，混合精度再加权重的半精度副本。
    激活：每 token 每层，反向要用的张量有 15C（两个归一化的输出 2C、q/k/v 3C、注意力的输出与它换轴后的副本 2C、
    前馈的中间两份 8C），半精度时各 2 字节；残差流 2C 总是 float32。dropout 加两份掩码；CPU 与 MPS 上有
    dropout 时注意力不走融合核，另存三份 (nh, T) 的权重。末尾的归一化 2C。
    logits：V 个数的三份 float32（交叉熵的输出与两份梯度），半精度时再加一份；词表大时分段算，只有一段在内存里，
    另有一份输出层的梯度。
    """
    tokens, width = batch_size * shape.block_size, shape.n_embd
    item = 2 if is_half else 4
    state = shape.all_params * (STATE_BYTES + (4 if ranks > 1 else 0) + (2 if is_half else 0))
    state -= shape.muon_params * (STATE_BYTES - MUON_STATE_BYTES)
    layer = 15 * width * item + 2 * width * 4
    if dropout > 0:
        mask = 1 if is_cuda else 4
        layer += 2 * width * mask + (0 if is_cuda else 3 * shape.n_head * shape.block_size * item)
    at_once = CUDA_LOGITS_AT_ONCE if is_cuda else LOGITS_AT_ONCE
    logits = min(tokens * shape.vocab_size, at_once) * (12 + (2 if is_half else 0))
    if tokens * shape.vocab_size > at_once:
        logits += shape.vocab_size * width * 4
    return (state + tokens * (shape.n_layer * layer + 2 * width * 4) + logits) / MIB


def estimate(config: TrainConfig, dataset: Dataset | None, ranks: int = 1, has_cuda: bool = False) -> Estimate:
    """`dataset` 还没准备时为 None，那时词表按 GPT-2 的算；`ranks` 是全部机器上的总数。"""
    shape = shape_of(config, dataset)
    is_cuda = config.device.startswith("cuda") or (config.device == "auto" and has_cuda)
    is_half = config.dtype in ("bfloat16", "float16") or (config.dtype == "auto" and is_cuda)
    tokens_per_iter = config.gradient_accumulation_steps * config.batch_size * shape.block_size
    train_tokens = dataset.tokens("train") if dataset is not None else None
    total = tokens_per_iter * config.max_iters
    checkpoint = shape.all_params * CHECKPOINT_BYTES - shape.muon_params * (CHECKPOINT_BYTES - MUON_CHECKPOINT_BYTES)
    return Estimate(
        shape.params, tokens_per_iter, total, train_tokens, total / train_tokens if train_tokens else None,
        memory_mib(shape, config.batch_size, config.dropout, is_half, is_cuda, ranks),
        checkpoint / MIB, dataset is not None or config.init_from not in ("scratch", "resume"))
