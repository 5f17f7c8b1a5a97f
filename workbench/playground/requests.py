"""一个请求与它的结果：`load`、`generate`、`score`、`tokenize`。每个对象只由 `apply_event` 改写。

`Engine` 把服务进程的事件交给它们；对话与各屏只读。
"""

import time
from dataclasses import dataclass, field
from typing import Any

# 一个样本至多留这么多字符与这么多 token 的概率；再多的不要
KEPT_CHARACTERS, KEPT_TOKENS = 1_000_000, 50_000
LEAST_RATE_S = 0.5
WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"


@dataclass(frozen=True)
class Problem:
    """服务或进程报的错。`indices`：文本里不合法的字符的位置，不知道则为空。"""

    code: str
    what: str
    where: str = ""
    hint: str = ""
    indices: tuple[int, ...] = ()

    def lines(self) -> list[str]:
        return [part for part in (self.what, self.where, self.hint) if part]


@dataclass(frozen=True)
class Token:
    """`top` 是（文字, 对数概率），可能性大的在前。`logprob` 为 None：没有算。"""

    text: str
    offset: int
    logprob: float | None
    rank: int | None
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Model:
    """载入了的模型，取自 `ready`。"""

    iter: int | None
    val_loss: float | None
    params: int | None
    block_size: int | None
    vocab_size: int | None
    tokenizer: str
    end_of_text: str
    device: str
    dtype: str


class Request:
    """`status`：waiting、running、done、failed 之一。"""

    op = ""

    def __init__(self, keys: dict[str, Any]):
        self.keys = keys
        self.id = 0
        self.status = WAITING
        self.problem: Problem | None = None
        self.stage = ""
        self.is_cancelled = False

    @property
    def has_ended(self) -> bool:
        return self.status in (DONE, FAILED)

    def apply_event(self, event: dict[str, Any]) -> None:
        """唯一的写者；结束之后来的不理。"""
        kind = event.get("event")
        if self.has_ended:
            return
        if kind == "error":
            self.problem = problem_of(event)
            self.status = FAILED
            return
        if kind == "progress":
            self.stage = _text(event.get("stage"))
        if kind in ("progress", "begin", "delta", "ready"):
            self.status = RUNNING
        self.take(str(kind), event)
        if kind == "done":
            self.status = DONE

    def take(self, kind: str, event: dict[str, Any]) -> None:
        """各请求自己的事件。"""


class Load(Request):
    op = "load"
    model: Model | None = None
    load_ms: float | None = None

    def take(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "ready" and isinstance(found := event.get("model"), dict):
            self.model = Model(_count(found.get("iter")), _number(found.get("val_loss")), _count(found.get("params")),
                               _count(found.get("block_size")), _count(found.get("vocab_size")),
                               _text(found.get("tokenizer")), _text(found.get("end_of_text")),
                               _text(found.get("device")), _text(found.get("dtype")))
        elif kind == "done":
            self.load_ms = _number(event.get("load_ms"))


@dataclass
class Sample:
    """一个样本：边生成边长。`parts` 拼起来就是文字。"""

    parts: list[str] = field(default_factory=list)
    size: int = 0
    tokens: list[Token] = field(default_factory=list)
    finish: str = ""
    new_tokens: int = 0
    context_tokens: int | None = None

    @property
    def text(self) -> str:
        if len(self.parts) > 1:
            self.parts[:] = ["".join(self.parts)]
        return self.parts[0] if self.parts else ""

    def add(self, text: str, tokens: list[Token]) -> None:
        text = text[:KEPT_CHARACTERS - self.size]
        if text:
            self.parts.append(text)
            self.size += len(text)
        self.tokens += tokens[:KEPT_TOKENS - len(self.tokens)]


class Generation(Request):
    """`samples` 的个数从一开始就是要的那么多。"""

    op = "generate"

    def __init__(self, keys: dict[str, Any]):
        super().__init__(keys)
        self.samples = [Sample() for _number in range(max(1, int(keys.get("num_samples") or 1)))]
        self.prompt_tokens: int | None = None
        self.cropped_tokens = self.cropped_chars = 0
        self.context_tokens: int | None = None
        self.new_tokens: int | None = None
        self.first_token_ms: float | None = None
        self.tokens_per_second: float | None = None
        # 第一次有文字到来的（时刻, 到那时的 token 数）：此后的速度由此算
        self._first: tuple[float, int] | None = None

    @property
    def live_rate(self) -> float | None:
        """每秒几个 token，从第一次有文字起；不到半秒的不算。"""
        if self._first is None or (seconds := time.monotonic() - self._first[0]) < LEAST_RATE_S:
            return None
        return (sum(sample.new_tokens for sample in self.samples) - self._first[1]) / seconds

    def take(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "begin":
            self.prompt_tokens, self.context_tokens = _count(event.get("prompt_tokens")), _count(
                event.get("context_tokens"))
            self.cropped_tokens = _count(event.get("cropped_tokens")) or 0
            self.cropped_chars = _count(event.get("cropped_chars")) or 0
        elif kind == "delta":
            number = _count(event.get("sample")) or 0
            if number < len(self.samples):
                sample = self.samples[number]
                sample.add(_text(event.get("text")), tokens_of(event.get("tokens")))
                sample.new_tokens = _count(event.get("new_tokens")) or sample.new_tokens
                if self._first is None:
                    self._first = time.monotonic(), sample.new_tokens
        elif kind == "done":
            self._finish(event)

    def _finish(self, event: dict[str, Any]) -> None:
        self.new_tokens = _count(event.get("new_tokens"))
        self.first_token_ms = _number(event.get("first_token_ms"))
        self.tokens_per_second = _number(event.get("tokens_per_second"))
        found = event.get("samples")
        rows = found if isinstance(found, list) else []
        self.is_cancelled = self.is_cancelled or not rows
        for sample, row in zip(self.samples, rows, strict=False):
            if isinstance(row, dict):
                sample.finish = _text(row.get("finish"))
                sample.context_tokens = _count(row.get("context_tokens"))
                self.context_tokens = sample.context_tokens
                self.is_cancelled = self.is_cancelled or sample.finish == "cancelled"

    @property
    def is_full(self) -> bool:
        """超出留得下的字符：该叫停了。"""
        return any(sample.size >= KEPT_CHARACTERS for sample in self.samples)


class Score(Request):
    """困惑度；要了 `logprobs` 时还有各 token。"""

    op = "score"

    def __init__(self, keys: dict[str, Any]):
        super().__init__(keys)
        self.tokens: list[Token] = []
        self.done_tokens = self.total_tokens = 0
        self.loss: float | None = None
        self.perplexity: float | None = None
        self.bits_per_byte: float | None = None

    def take(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "delta":
            self.tokens += tokens_of(event.get("tokens"))[:KEPT_TOKENS - len(self.tokens)]
            return
        if kind not in ("progress", "done"):
            return
        self.done_tokens = _count(event.get("tokens")) or 0
        self.total_tokens = _count(event.get("total_tokens")) or self.total_tokens
        self.loss = _number(event.get("loss"))
        if kind == "done":
            self.perplexity, self.bits_per_byte = _number(event.get("perplexity")), _number(event.get("bits_per_byte"))
            self.is_cancelled = event.get("is_cancelled") is True


class TokenCount(Request):
    op = "tokenize"
    tokens: int | None = None
    cropped_tokens = 0
    cropped_chars = 0

    def take(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "done":
            self.tokens = _count(event.get("tokens"))
            self.cropped_tokens = _count(event.get("cropped_tokens")) or 0
            self.cropped_chars = _count(event.get("cropped_chars")) or 0


def problem_of(event: dict[str, Any]) -> Problem:
    index, many = event.get("index"), event.get("indices")
    places = many if isinstance(many, list) else [index]
    return Problem(_text(event.get("code")), _text(event.get("message")), _text(event.get("where")),
                   _text(event.get("hint")), tuple(place for place in places if type(place) is int and place >= 0))


def tokens_of(found: Any) -> list[Token]:
    """`tokens` 一栏；读不懂的项跳过。"""
    tokens = []
    for item in found if isinstance(found, list) else []:
        if not isinstance(item, dict):
            continue
        top = [(_text(row.get("text")), _number(row.get("logprob"))) for row in item.get("top") or ()
               if isinstance(row, dict)]
        tokens.append(Token(_text(item.get("text")), _count(item.get("offset")) or 0, _number(item.get("logprob")),
                            _count(item.get("rank")), tuple((text, value) for text, value in top if value is not None)))
    return tokens


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    try:
        return float(value) if type(value) in (int, float) else None
    except OverflowError:
        return None


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
