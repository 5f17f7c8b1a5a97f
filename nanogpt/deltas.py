"""采样服务流出的文本：一步步的新文本攒成 `delta` 事件，提示被截去多少。

`nanogpt.serve` 使用。
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nanogpt.prompt import TextStream
from nanogpt.requests import INTERVAL_MS, Request

if TYPE_CHECKING:
    from nanogpt.loading import Loaded


class Deltas:
    """每个样本各攒各的；`send(**字段)` 发出一个 `delta`。"""

    def __init__(self, request: Request, send: Callable[..., None]):
        self.request, self.send = request, send
        self.interval_s = request.own.get("interval_ms", INTERVAL_MS) / 1e3
        self.tokens = 0
        self.first: float | None = None  # 第一个 token 到来的时刻
        self._samples: dict[int, Any] = {}
        self._text: dict[int, list[str]] = {}
        self._scores: dict[int, list[dict[str, Any]]] = {}
        self._sent: dict[int, float] = {}

    def add(self, step: Any) -> None:
        number, now = step.sample.number, time.perf_counter()
        if step.sample.finish != "cancelled":
            self.tokens += 1
            self.first = self.first or now
        self._samples[number] = step.sample
        self._text.setdefault(number, []).append(step.text)
        if step.score is not None:
            self._scores.setdefault(number, []).append(step.score)
        if step.sample.finish or now - self._sent.get(number, 0.0) >= self.interval_s:
            self._send(number)
            self._sent[number] = now

    def _send(self, number: int) -> None:
        text = "".join(self._text.pop(number, []))
        scores = self._scores.pop(number, [])
        if text or scores or self.interval_s == 0:
            tokens = {"tokens": scores} if self.request.config.logprobs else {}
            self.send(sample=number, text=text, new_tokens=self._samples[number].tokens, **tokens)

    def samples(self) -> list[dict[str, Any]]:
        return [{"text": sample.text, "tokens": sample.tokens, "finish": sample.finish,
                 "context_tokens": sample.context_tokens} for _number, sample in sorted(self._samples.items())]


def cropping(loaded: "Loaded", ids: list[int]) -> dict[str, int]:
    """提示装不下时开头被截去多少。"""
    context = min(len(ids), loaded.model.config.block_size)
    stream = TextStream(loaded.tokenizer, [])
    for token in ids[:len(ids) - context]:
        stream.push(token)
    return {"context_tokens": context, "cropped_tokens": len(ids) - context, "cropped_chars": stream.chars}
