"""估算对照真的模型：参数要一个不差，内存与检查点的大小在说好的误差之内。约四秒（载入 torch）。"""

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nanogpt.config import TrainConfig
from nanogpt.dataset import open_dataset
from nanogpt.errors import BadInput
from nanogpt.model import GPT, GPTConfig
from workbench.estimate import MIB, Shape, estimate, memory_mib, shape_of

SHAPES = [Shape(2, 2, 16, 16, 97, False), Shape(3, 4, 64, 32, 500, True), Shape(1, 1, 8, 4, 2, True),
          Shape(2, 2, 16, 16, 97, False, rotary=True, weightless_norm=True, untied_head=True),
          Shape(2, 2, 16, 16, 97, True, weightless_norm=True), Shape(2, 2, 16, 16, 97, True, untied_head=True)]


def model_of(shape: Shape, dropout: float = 0.0) -> GPT:
    return GPT(GPTConfig(block_size=shape.block_size, vocab_size=shape.vocab_size, n_layer=shape.n_layer,
                         n_head=shape.n_head, n_embd=shape.n_embd, bias=shape.bias, dropout=dropout,
                         rotary=shape.rotary, weightless_norm=shape.weightless_norm, untied_head=shape.untied_head))


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_exact(shape: Shape) -> None:
    model = model_of(shape)
    assert shape.params == model.get_num_params() and shape.all_params == model.get_num_params(non_embedding=False)


@pytest.mark.parametrize(("dropout", "is_half"), [(0.0, False), (0.2, False), (0.0, True)])
def test_activations_are_what_autograd_keeps(dropout: float, is_half: bool) -> None:
    """公式里的激活，与反向真正留着的张量（CPU 上）相差不到一成五。"""
    shape, batch = Shape(4, 4, 128, 128, 97, False), 8
    model = model_of(shape, dropout).train()
    kept: dict[int, torch.Tensor] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    idx = torch.randint(0, shape.vocab_size, (batch, shape.block_size))
    amp = torch.autocast("cpu", torch.bfloat16) if is_half else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), amp:
        _logits, loss = model(idx, idx)
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / MIB
    assert loss is not None
    state = shape.all_params * (18 if is_half else 16) / MIB
    assert memory_mib(shape, batch, dropout, is_half, False, 1) - state == pytest.approx(found, rel=0.15)


@pytest.mark.parametrize("optimizer_name", ["adamw", "muon"])
def test_checkpoint_size(optimizer_name: str) -> None:
    """权重与动量写成文件，与估计相差不到一成。"""
    config = TrainConfig(n_layer=4, n_head=4, n_embd=128, block_size=64, bias=True, optimizer=optimizer_name)
    shape = replace(shape_of(config, None), vocab_size=2000)
    model = model_of(shape)
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu",
                                           muon_lr=0.02 if optimizer_name == "muon" else None)
    idx = torch.randint(0, shape.vocab_size, (1, 8))
    _logits, loss = model(idx, idx)
    assert loss is not None
    loss.backward()
    optimizer.step()
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    assert shape.all_params * 12 - shape.muon_params * 4 == pytest.approx(file.tell(), rel=0.1)
    assert bool(shape.muon_params) == (optimizer_name == "muon")


def test_large_vocabularies_are_chunked() -> None:
    """同时在内存里的 logits 有上限，与训练器的一样。"""
    import nanogpt.loss
    from workbench.estimate import CUDA_LOGITS_AT_ONCE, LOGITS_AT_ONCE

    assert nanogpt.loss.CHUNK_ELEMENTS == LOGITS_AT_ONCE and nanogpt.loss.CUDA_CHUNK_ELEMENTS == CUDA_LOGITS_AT_ONCE
    gpt2 = shape_of(TrainConfig(block_size=256), None)
    small = replace(gpt2, vocab_size=50)

    def growth(shape: Shape) -> float:
        return memory_mib(shape, 8, 0.0, False, False, 1) - memory_mib(shape, 4, 0.0, False, False, 1)

    # 多出来的四条序列只多了激活
    assert growth(gpt2) == pytest.approx(growth(small), rel=0.01) and growth(gpt2) > 100


def test_epochs_and_tokens(workspace: Path) -> None:
    dataset = open_dataset("tiny", workspace)
    config = TrainConfig(dataset="tiny", batch_size=4, block_size=16, gradient_accumulation_steps=2, max_iters=1000,
                         n_layer=2, n_head=2, n_embd=16)
    found = estimate(config, dataset)
    assert found.tokens_per_iter == 128 and found.total_tokens == 128_000 and found.train_tokens == 13000
    assert found.epochs == pytest.approx(128_000 / 13000) and found.is_vocab_known
    assert found.params == model_of(shape_of(config, dataset)).get_num_params()


def test_an_unprepared_dataset_counts_as_gpt2() -> None:
    """词表还不知道时照 GPT-2 的算，并说出来；预训练的模型不看数据集。"""
    found = estimate(TrainConfig(), None)
    assert found.epochs is None and not found.is_vocab_known
    assert found.params == pytest.approx(124e6, rel=0.01)
    xl = estimate(replace(TrainConfig(), init_from="gpt2-xl", block_size=512), None)
    assert xl.params == pytest.approx(1558e6, rel=0.01) and xl.is_vocab_known
    assert shape_of(replace(TrainConfig(), init_from="gpt2", block_size=512), None).block_size == 512


def test_more_ranks_and_less_precision_show() -> None:
    config = TrainConfig()
    plain, two = estimate(config, None), estimate(config, None, ranks=2)
    assert two.memory_mib - plain.memory_mib == pytest.approx(4 * shape_of(config, None).all_params / MIB)
    assert estimate(config, None, has_cuda=True).memory_mib < plain.memory_mib


def test_a_bad_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"GPT-2|config\.json"):
        estimate(replace(TrainConfig(), init_from=str(tmp_path)), None)
