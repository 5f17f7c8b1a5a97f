"""训练途中的样本：每次评估时，让当时的模型接着配置里的几个提示写，记为 `sample` 事件。

`nanogpt.preflight` 先查提示，`nanogpt.train` 在评估之后调用 `write_samples`。有自己的发生器，不碰训练的随机数；
只由 rank 0 做，不涉及别的 rank，所以续训与分布式照旧。
"""

from typing import TYPE_CHECKING, Any

from nanogpt.config import TrainConfig
from nanogpt.dataset import Dataset
from nanogpt.prompt import check_prompt, read_stops
from nanogpt.tokenizer import GPT2Tokenizer, Tokenizer, tokenizer_from_dict

if TYPE_CHECKING:
    from nanogpt.training import Training


def check_prompts(config: TrainConfig, dataset: Dataset) -> None:
    """提示不是 Unicode、有词表外的字符时 `BadInput`，赶在建模型之前。"""
    prompts = read_prompts(config)
    tokenizer = _tokenizer(dataset.tokenizer) if prompts else None
    for prompt in prompts:
        check_prompt(prompt, "--sample_prompts")
        assert tokenizer is not None
        tokenizer.encode(prompt)


def read_prompts(config: TrainConfig) -> list[str]:
    """一段文字，或一张 JSON 表。"""
    return read_stops(config.sample_prompts, "sample_prompts")


def _tokenizer(description: dict[str, Any] | None) -> Tokenizer:
    """没有元数据的数据集按惯例是 GPT-2 的 BPE。"""
    return GPT2Tokenizer() if description is None else tokenizer_from_dict(description)


def write_samples(t: "Training") -> None:
    """每个提示一个样本。每次都用同一种子，所以各次评估之间只有模型在变。"""
    prompts = read_prompts(t.config)
    if not prompts or not t.ranks.is_master or t.config.eval_only:
        return
    import torch

    from nanogpt.generation import Choice, generate

    tokenizer = _tokenizer(t.tokenizer)
    choice = Choice(t.config.sample_temperature, t.config.sample_top_k)
    t.raw_model.eval()
    for prompt in prompts:
        ids = tokenizer.encode(prompt)[-t.raw_model.config.block_size:]
        idx = torch.tensor([ids], dtype=torch.long, device=t.device)
        generators = [torch.Generator(t.device).manual_seed(t.config.sample_seed)]
        with torch.no_grad():
            written = [int(token) for token, _logits in
                       generate(t.raw_model, idx, t.config.sample_tokens, choice, generators)]
        t.emit("sample", iter=t.iter_num, prompt=prompt, text=tokenizer.decode(written))
    t.raw_model.train()
