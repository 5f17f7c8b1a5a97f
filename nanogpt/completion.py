"""让载入的模型接着一段提示写：几个样本一起抽，各自变成文本，遇到停止串、文末或长度为止。

`nanogpt.sample` 打印它，`nanogpt.serve` 把它变成消息，训练途中的样本（`nanogpt.training_samples`）也由它写出。
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanogpt.config import SampleConfig
from nanogpt.generation import Choice, Context, choose
from nanogpt.loading import Loaded, available_memory
from nanogpt.prompt import TextStream, read_stops
from nanogpt.tokenizer import Tokenizer

# 一批的缓存至多占空闲内存的这一份；更多的样本分几批
CACHE_SHARE = 0.25


@dataclass
class Sample:
    """一个样本写到了哪里。`finish` 为空时还没有写完。"""

    number: int
    stream: TextStream
    text: str = ""
    tokens: int = 0
    finish: str = ""                # length、stop、end_of_text 或 cancelled
    context_tokens: int = 0         # 写完时上下文用去了多少

    def push(self, token: int, config: SampleConfig, eot_id: int | None) -> str:
        """收下一个 token，返回新的可显示文本。"""
        self.tokens += 1
        new = ""
        if config.end_of_text and token == eot_id:
            self.finish = "end_of_text"
        else:
            new = self.stream.push(token)
            if self.stream.is_stopped:
                self.finish = "stop"
            elif self.tokens == config.max_new_tokens:
                self.finish = "length"
        if self.finish and self.finish != "stop":
            new += self.stream.finish()
        self.text += new
        return new

    def cancel(self) -> str:
        """停在这里；返回还留着没有显示的文本。"""
        new = self.stream.finish()
        self.text, self.finish = self.text + new, "cancelled"
        return new


@dataclass(frozen=True)
class Step:
    """一个样本的一步：新的文本（可以为空），与要了 `logprobs` 时这个 token 的得分。"""

    sample: Sample
    text: str
    score: dict[str, Any] | None = None


def complete(loaded: Loaded, ids: list[int], config: SampleConfig,
             is_cancelled: Callable[[], bool] = lambda: False) -> Iterator[Step]:
    """接着 `ids` 写 `config.num_samples` 个样本；同一步里各样本依次给出。`is_cancelled` 每个 token 问一次。

    第 k 个样本的随机数与 nanoGPT 逐个抽到它时的相同，所以一起算不改变文本。
    """
    ids = ids[-loaded.model.config.block_size:]
    stops = read_stops(config.stop)
    samples = [Sample(number, TextStream(loaded.tokenizer, stops)) for number in range(config.num_samples)]
    # 贪心不用随机数
    is_greedy = config.temperature == 0
    generators = None if is_greedy else loaded.generators(config.seed, config.num_samples, config.max_new_tokens)
    together = samples_together(loaded, len(ids) + config.max_new_tokens)
    for first in range(0, len(samples), together):
        part = slice(first, first + together)
        yield from _batch(loaded, ids, config, samples[part], generators and generators[part], is_cancelled)


def samples_together(loaded: Loaded, tokens: int) -> int:
    """一批几个样本：缓存不超过空闲内存的一份，也至多 64 个。"""
    c, weight = loaded.model.config, loaded.model.lm_head.weight
    each = 2 * c.n_layer * c.n_embd * min(tokens, c.block_size) * weight.element_size()
    if loaded.device.startswith("cuda"):
        free: int | None = torch.cuda.mem_get_info(loaded.device)[0]
    else:
        free = available_memory()
    return 64 if free is None else max(1, min(64, int(free * CACHE_SHARE) // each))


def _batch(loaded: Loaded, ids: list[int], config: SampleConfig, live: list[Sample],
           generators: list[torch.Generator] | None, is_cancelled: Callable[[], bool]) -> Iterator[Step]:
    choice = Choice(config.temperature, config.top_k, config.top_p, config.min_p, config.repetition_penalty,
                    config.window)
    idx = torch.tensor([ids], dtype=torch.long, device=loaded.device).expand(len(live), -1)
    context = Context(loaded.model, idx, config.max_new_tokens, choice.window, loaded.uses_graph)
    eot_id = loaded.tokenizer.eot_id
    while live:
        if is_cancelled():
            for sample in live:
                new, sample.context_tokens = sample.cancel(), context.seen().size(1)
                yield Step(sample, new)
            return
        # 每步各进出一次，而不是罩住整个循环：生成器交出控制时，模式不该留给调用者
        with torch.inference_mode():
            logits = context.next_logits()
            tokens = choose(logits, context.seen(), choice, generators)
            context.append(tokens)
            scores = token_scores(logits, tokens, config.logprobs, loaded.tokenizer) if config.logprobs else None
        for row, (sample, token) in enumerate(zip(live, tokens.tolist(), strict=True)):
            score = None
            if scores is not None:
                score = {**scores[row], "offset": sample.stream.chars}
            new = sample.push(token, config, eot_id)
            if sample.finish:
                sample.context_tokens = context.seen().size(1)
            yield Step(sample, new, score)
        rows = [row for row, sample in enumerate(live) if not sample.finish]
        if len(rows) < len(live):
            live = [live[row] for row in rows]
            generators = [generators[row] for row in rows] if generators is not None else None
            with torch.inference_mode():
                context.keep(rows)


def token_scores(logits: Tensor, tokens: Tensor, count: int, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """(N, V) 的 logits 与 (N,) 的 token：各自的对数概率、名次与最可能的 `count` 个备选。

    都是模型自己的：温度为 1，在任何选项之前。
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    chosen = logprobs.gather(-1, tokens[:, None])
    ranks = (logprobs > chosen).sum(dim=-1) + 1
    top = torch.topk(logprobs, min(count, logits.size(-1)), dim=-1)
    rows = zip(tokens.tolist(), chosen[:, 0].tolist(), ranks.tolist(), top.indices.tolist(), top.values.tolist(),
               strict=True)
    return [{**token_text(tokenizer, token), "logprob": logprob, "rank": rank,
             "top": [{**token_text(tokenizer, other), "logprob": value}
                     for other, value in zip(others, values, strict=True)]}
            for token, logprob, rank, others, values in rows]


def token_text(tokenizer: Tokenizer, token: int) -> dict[str, Any]:
    """一个 token 的 id 与文本；不是完整的 UTF-8 时另有 `hex`。"""
    raw = tokenizer.token_bytes(token)
    try:
        return {"token": token, "text": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"token": token, "text": raw.decode("utf-8", "replace"), "hex": raw.hex()}
