"""一段文本或一份数据集在模型眼里有多可能：每个 token 的对数概率，与总的困惑度。

`nanogpt.sample --score` 与 `nanogpt.serve` 使用，同一条路。
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from nanogpt.completion import token_scores, token_text
from nanogpt.dataset import open_dataset
from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.loading import Loaded
from nanogpt.prompt import TextStream, read_prompt
from nanogpt.tokenizer import tokenizer_from_dict

# 一次前向大约这么多 token：小的上下文几个窗口一起算；logits 在 GPT-2 的词表上每千个 token 占 200 MB
_TOKENS_TOGETHER = 1024


@dataclass
class Total:
    """算到此处的合计。`nats` 是被预测的 token 的负对数概率之和。"""

    tokens: int = 0
    nats: float = 0.0

    @property
    def loss(self) -> float | None:
        return self.nats / self.tokens if self.tokens else None

    @property
    def perplexity(self) -> float | None:
        if self.loss is None:
            return None
        # 极差的模型会溢出
        return math.exp(self.loss) if self.loss < 700 else math.inf


@dataclass(frozen=True)
class Text:
    """要打分的 token；`bytes` 是文本的 UTF-8 字节数，数据集没有。"""

    ids: Sequence[int] | np.ndarray
    bytes: int | None


def read_text(loaded: Loaded, score: str) -> Text:
    """`--score` 的值：文件的路径，或 `dataset:NAME[/train]`。读不出、有词表外的字符则 `BadInput`。"""
    if not score.startswith("dataset:"):
        text = read_prompt(f"FILE:{score}")
        return Text(loaded.encode(text), len(text.encode("utf-8")))
    name, _slash, split = score.removeprefix("dataset:").partition("/")
    if split not in ("", "train", "val"):
        raise BadInput("bad_value", _("a dataset has the splits train and val, not {name}").format(
            name=repr(split)[:40]), f"--score={score}"[:200], "dataset:NAME, dataset:NAME/train")
    dataset = open_dataset(name)
    path = dataset.path(split or "val")
    theirs = tokenizer_from_dict(dataset.tokenizer) if dataset.tokenizer is not None else None
    if theirs is not None and theirs.to_dict() != loaded.tokenizer.to_dict():
        raise BadInput("tokenizer_mismatch", _("the dataset's tokenizer ({theirs}) is not the model's ({ours})").format(
            theirs=theirs.kind, ours=loaded.tokenizer.kind), str(path), _("score a text file instead"))
    return Text(np.memmap(path, dtype="<u2", mode="r"), None)


def score(loaded: Loaded, ids: Sequence[int] | np.ndarray, stride: int = 0, logprobs: int = 0, max_tokens: int = 0,
          is_cancelled: Callable[[], bool] = lambda: False) -> Iterator[tuple[Total, list[dict[str, Any]]]]:
    """每算完一批窗口给出一次（到此处的合计, 这一批里各 token 的得分）；不要 `logprobs` 时后者为空。

    窗口有 `block_size` 个 token，每个比前一个晚 `stride` 个（0：首尾相接）；除了第一个，每个 token 恰被预测一次。
    """
    T, V = loaded.model.config.block_size, loaded.model.config.vocab_size
    ids = ids[:max_tokens] if max_tokens else ids
    stride = min(stride or T, T)
    together, total = max(1, _TOKENS_TOGETHER // T), Total()
    stream = TextStream(loaded.tokenizer, [])
    head = [_first_token(loaded, stream, int(ids[0]))] if logprobs and len(ids) else []
    starts = list(range(0, max(len(ids) - 1 - (T - stride), 1), stride)) if len(ids) > 1 else []
    for first in range(0, len(starts), together):
        if is_cancelled():
            return
        x, y = _windows(ids, starts[first:first + together], T, stride)
        if max(x.max(), y.max()) >= V:
            raise BadInput("id_out_of_range", _("token id {id} is not below vocab_size={vocab_size}").format(
                id=int(max(x.max(), y.max())), vocab_size=V), "", _("this text belongs to another tokenizer"))
        with torch.inference_mode():
            targets = torch.from_numpy(y).to(loaded.device)
            logits = loaded.model(torch.from_numpy(x).to(loaded.device), targets)[0]
            kept = targets >= 0
            logits, wanted = logits[kept], targets[kept]
            total.nats += F.cross_entropy(logits.float(), wanted, reduction="sum").item()
            total.tokens += len(wanted)
            scores = token_scores(logits, wanted, logprobs, loaded.tokenizer) if logprobs else []
        for entry in scores:
            entry["offset"] = stream.chars
            stream.push(entry["token"])
        yield total, head + scores
        head = []
    if head:
        yield total, head


def _windows(ids: Sequence[int] | np.ndarray, starts: list[int], T: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """起点 `starts` 的输入与目标，各 (B, T) 的 int64；不该计的目标是 -1，超出末尾的输入补 0。"""
    x, y = np.zeros((len(starts), T), np.int64), np.full((len(starts), T), -1, np.int64)
    for row, start in enumerate(starts):
        part = np.asarray(ids[start:start + T + 1], dtype=np.int64)
        x[row, :len(part) - 1], y[row, :len(part) - 1] = part[:-1], part[1:]
        if start:
            y[row, :T - stride] = -1  # 前一个窗口已经算过
    length = max(len(ids[start:start + T + 1]) - 1 for start in starts)
    return x[:, :length], y[:, :length]


def _first_token(loaded: Loaded, stream: TextStream, token: int) -> dict[str, Any]:
    """第一个 token 没有前文，所以没有得分。"""
    stream.push(token)
    return {**token_text(loaded.tokenizer, token), "logprob": None, "rank": None, "top": [], "offset": 0}


def figures(total: Total, size: int | None, began: float) -> dict[str, Any]:
    """结果的各项，键同 `docs/serve.md` 的 `done`；`size` 是文本的字节数，`began` 取自 `time.perf_counter()`。"""
    bits = total.nats / math.log(2) / size if size and total.tokens else None
    return {"tokens": total.tokens, "loss": total.loss, "perplexity": total.perplexity, "bits_per_byte": bits,
            "bytes": size, "score_ms": (time.perf_counter() - began) * 1e3}
