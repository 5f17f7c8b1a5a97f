"""载入一个可以采样或打分的模型：检查点、官方的 GPT-2，或 Hugging Face 目录，连同它的分词器。

`nanogpt.sample`、`nanogpt.serve` 与 `nanogpt.export` 使用。分两步：`read_source` 读出权重与分词器并查过，
`build` 才建模型，所以坏的提示在其间就有答复。
"""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpt import device as devices
from nanogpt.checkpoint import load_checkpoint, model_config
from nanogpt.config import SampleConfig
from nanogpt.dataset import check_dataset_name, open_dataset, open_folder
from nanogpt.errors import BadInput, OutOfResources
from nanogpt.i18n import _
from nanogpt.init_random import empty_model, state_after_init
from nanogpt.model import GPT, GPTConfig
from nanogpt.packed import pack_linears
from nanogpt.pretrained import GPT2_SHAPES, folder_tokenizer, gpt2_model_args, load_gpt2
from nanogpt.text import visible
from nanogpt.tokenizer import GPT2Tokenizer, Tokenizer, tokenizer_from_dict

Say = Callable[[str], None]


def _silent(_stage: str) -> None:
    """不关心进展。"""


@dataclass
class Source:
    """读出并查过、还没有建成模型的东西。"""

    where: str                      # 文件、目录或官方的名字，报错用
    config: GPTConfig
    weights: dict[str, Tensor]
    tokenizer: Tokenizer
    iter_num: int | None = None     # 不是检查点时为 None
    best_val_loss: float | None = None

    def encode(self, text: str) -> list[int]:
        """`text` 的 id；有词表外的字符、或 id 超出模型的词表时 `BadInput`。"""
        ids = self.tokenizer.encode(text)
        if ids and max(ids) >= self.config.vocab_size:
            raise BadInput(
                "tokenizer_mismatch", _("the tokenizer gives ids up to {n}, but the model knows {v}").format(
                    n=max(ids), v=self.config.vocab_size), self.where, _("the model belongs to another tokenizer"))
        return ids


@dataclass
class Loaded:
    """可以用的模型，已在 `eval()`、在设备上。"""

    source: Source                  # 其中的 `weights` 已经清空
    model: GPT
    device: str
    dtype: str
    is_compiled: bool
    uses_graph: bool                # 见 `nanogpt.generation.OneTokenGraph`
    init_draws: int | None          # 见 `nanogpt.init_random`

    @property
    def tokenizer(self) -> Tokenizer:
        return self.source.tokenizer

    def encode(self, text: str) -> list[int]:
        return self.source.encode(text)

    def generators(self, seed: int, count: int, draws_each: int) -> list[torch.Generator]:
        """`count` 个样本各自的发生器：第 k 个恰从前 k 个各抽过 `draws_each` 次之后接着。

        所以一批里的每个样本，都与 nanoGPT 一个接一个抽的相同。CPU 上连初始化模型用掉的随机数也算在内。
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        if self.device == "cpu":
            generator.set_state(state_after_init(self.source.config, self.init_draws, seed))
        found = [generator]
        while len(found) < count:
            following = torch.Generator(self.device)
            following.set_state(found[-1].get_state())
            _draw_times(following, draws_each, self.source.config.vocab_size, self.device)
            found.append(following)
        return found


def _draw_times(generator: torch.Generator, times: int, vocab_size: int, device: str) -> None:
    """走过 `times` 次对整个词表的抽样。"""
    noise = torch.empty(vocab_size, device=device)
    if device == "cpu":
        # MKL 的指数分布每次调用只取一个种子，与长短无关：那就用最短的
        before = generator.get_state()
        noise.exponential_(generator=generator)
        after = generator.get_state()
        generator.set_state(before)
        noise[:1].exponential_(generator=generator)
        noise = noise[:1] if torch.equal(generator.get_state(), after) else noise
        generator.set_state(before)
    for _time in range(times):
        noise.exponential_(generator=generator)


def read_source(config: SampleConfig, say: Say = _silent) -> Source:
    """按 `init_from` 读出权重与分词器；不能用则 `BadInput`，内存装不下则 `OutOfResources`。"""
    say("reading")
    with memory_explained(config.init_from):
        if config.init_from != "resume":
            return _read_gpt2(config.init_from, say)
        path = Path(config.out_dir) / config.checkpoint
        if path.is_file():
            _check_memory(path.stat().st_size, str(path))
        checkpoint = load_checkpoint(path)
        return Source(str(path), model_config(checkpoint, dropout=0.0), checkpoint["model"],
                      checkpoint_tokenizer(checkpoint), checkpoint.get("iter_num"),
                      # nanoGPT 在第一次评估之前写 1e9
                      checkpoint["best_val_loss"] if checkpoint["best_val_loss"] < 1e9 else None)


def _read_gpt2(name: str, say: Say) -> Source:
    tokenizer: Tokenizer = GPT2Tokenizer() if name in GPT2_SHAPES else folder_tokenizer(Path(name))
    tokenizer.encode_ordinary("")  # 先试试分词器在不在：它小，权重大
    if name in GPT2_SHAPES:
        shape = GPTConfig(**gpt2_model_args(name))
        _check_memory(4 * (12 * shape.n_layer * shape.n_embd**2 + shape.vocab_size * shape.n_embd), name)
    args, weights = load_gpt2(name, lambda: say("downloading"))
    return Source(name, GPTConfig(**args), weights, tokenizer)


def build(source: Source, config: SampleConfig, say: Say = _silent) -> Loaded:
    """建成模型，放到设备上。`source.weights` 就此交出。"""
    say("building")
    device = devices.choose_device(config.device)
    dtype = devices.choose_dtype(config.dtype, device)
    if config.cuda_graph and not device.startswith("cuda"):
        raise BadInput("bad_value", _("{key} cannot be {value}").format(key="cuda_graph", value=True), device,
                       _("only a CUDA device has it"))
    with memory_explained(source.where):
        devices.seed(config.seed)
        model, draws = empty_model(source.config)
        is_tied = model.transformer["wte"].weight is model.lm_head.weight
        weights, source.weights = source.weights, {}
        # 直接换上读来的张量，不再抄一遍；共用的嵌入要重新绑在一起
        model.load_state_dict({name: tensor.contiguous() for name, tensor in weights.items()}, assign=True)
        if is_tied:
            model.transformer["wte"].weight = model.lm_head.weight
        model.eval().requires_grad_(False).to(device=device, dtype=devices.TORCH_DTYPES[dtype])
    is_compiled = devices.choose_compile(config.compile, device)
    if is_compiled:
        model.forward = torch.compile(model.forward, dynamic=True)  # type: ignore[method-assign]
    elif device == "cpu":
        pack_linears(model)
    return Loaded(source, model, device, dtype, is_compiled, config.cuda_graph, draws)


def load(config: SampleConfig, say: Say = _silent) -> Loaded:
    """`read_source` 与 `build` 一次做完。"""
    return build(read_source(config, say), config, say)


def checkpoint_tokenizer(checkpoint: dict[str, Any]) -> Tokenizer:
    """检查点自带的分词器；nanoGPT 的检查点没有，就看它的数据集目录，再不然是 GPT-2。"""
    description = checkpoint.get("tokenizer")
    if description is not None:
        return tokenizer_from_dict(description)
    name = checkpoint.get("config", {}).get("dataset") if isinstance(checkpoint.get("config"), dict) else None
    vocab_size = checkpoint["model_args"]["vocab_size"]
    if isinstance(name, str):
        try:
            folder = Path("data", check_dataset_name(name))
            # nanoGPT 只看 meta.pkl 在不在；没有 .bin 也读得了
            has_meta = any((folder / meta).is_file() for meta in ("meta.json", "meta.pkl"))
            dataset = open_folder(folder, name) if has_meta else open_dataset(name)
        except BadInput as error:
            # 没有那个目录时与 nanoGPT 一样当作 GPT-2；词表小得不可能是 GPT-2 的，就得有那个目录
            if vocab_size < GPT2Tokenizer.vocab_size:
                raise BadInput("no_tokenizer", _("the checkpoint carries no tokenizer, and its dataset is not here"),
                               visible(name[:80]), error.hint) from error
        else:
            if dataset.tokenizer is not None:
                return tokenizer_from_dict(dataset.tokenizer)
    print(_("no tokenizer in the checkpoint, taking GPT-2's"), file=sys.stderr)
    return GPT2Tokenizer()


@contextmanager
def memory_explained(what: str) -> Iterator[None]:
    """其间的内存不够变成 `OutOfResources`。"""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())
        is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text
        if not is_memory:
            raise
        gc.collect()
        raise _out_of_memory(what, text[:160] or type(error).__name__) from error


def _check_memory(need: int, what: str) -> None:
    """要读 `need` 字节，而空着的内存不到这么多：在被内核杀掉之前就说。不知道有多少则放行。"""
    have = available_memory()
    if have is not None and need > have:
        raise _out_of_memory(what, _("it needs about {need} MiB, {have} MiB are free").format(
            need=need >> 20, have=have >> 20))


def available_memory() -> int | None:
    """还能用的内存，字节：机器的，与所在 cgroup 的上限，取小的；别的系统上为 None。"""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) << 10)
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            found.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):
        pass
    return min(found, default=None)


def _out_of_memory(what: str, why: str) -> OutOfResources:
    return OutOfResources("out_of_memory", _("not enough memory: {why}").format(why=why), what,
                          _("choose a smaller model, --dtype=bfloat16, or close other programs"))
