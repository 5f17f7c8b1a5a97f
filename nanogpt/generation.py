"""逐个生成 token：用缓存算下一步的 logits，按选项变成概率，抽一个。

`GPT.generate`、`nanogpt.sample` 与训练途中的样本都走这里。一个进程、一个种子、CPU 的 float32 上，
抽出的 token 与 nanoGPT 的 `generate` 相同。
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nanogpt.model import GPT, KVCache


@dataclass(frozen=True)
class Choice:
    """怎样由 logits 选出 token；次序为重复惩罚、温度、`top_k`、`top_p`、`min_p`。默认都不起作用。"""

    temperature: float = 1.0          # 0：总取最可能的
    top_k: int = 0                    # 留最可能的 k 个；0：全部
    top_p: float = 1.0                # nucleus sampling（Holtzman 等，2020）
    min_p: float = 0.0                # 去掉概率不及最大者这一比例的（Nguyen 等，2024）
    repetition_penalty: float = 1.0   # 见过的 token 的 logit 除以它，负的则乘以它（CTRL，Keskar 等，2019）
    window: str = "exact"             # 上下文满了之后：exact 每步重算末尾的 `block_size` 个，half 丢掉较旧的一半


class Context:
    """一批序列与它们的缓存：`next_logits` 只算还没算过的 token。"""

    def __init__(self, model: GPT, idx: Tensor, max_new_tokens: int, window: str = "exact",
                 uses_graph: bool = False):
        """`idx`：(B, T) 的提示。`model` 要在 `eval()`。`uses_graph`：每次一个 token 的步录成 CUDA 图。"""
        self.model, self.window = model, window
        B, T = idx.shape
        self.block_size = model.config.block_size
        self.idx = idx.new_empty(B, T + max_new_tokens)  # 一次占好，每步只写一列
        self.idx[:, :T] = idx
        self.length = T
        self.first = max(T - self.block_size, 0)  # 缓存里的第 0 个位置是序列的第几个 token
        self.cache = KVCache(model.config, B, min(T - self.first + max_new_tokens, self.block_size),
                             model.lm_head.weight)
        self.uses_graph = uses_graph
        self.graph: OneTokenGraph | None = None

    def append(self, token: Tensor) -> None:
        """`token`：(B,)。"""
        self.idx[:, self.length] = token
        self.length += 1

    def keep(self, rows: list[int]) -> None:
        """只留下这几个序列；写完的不必再陪着算。"""
        self.idx = self.idx[rows]
        self.cache.keys, self.cache.values = self.cache.keys[:, rows], self.cache.values[:, rows]
        self.graph = None  # 它认得的是原来的张量

    def seen(self) -> Tensor:
        """模型下一步看得见的 token，(B, T)，T 不超过 `block_size`。"""
        first = max(self.first, self.length - self.block_size) if self.window == "exact" else self.first
        return self.idx[:, first:self.length]

    def next_logits(self) -> Tensor:
        """序列之后那个 token 的 logits，(B, V)。"""
        if self.length - self.first > self.block_size:
            if self.window == "exact":
                # 每个 token 的位置都变了，缓存无用：与 nanoGPT 一样从头算末尾的 `block_size` 个
                return self.model(self.seen())[0][:, -1]
            self.first, self.cache.length = self.length - max(self.block_size // 2, 1), 0
        new = self.idx[:, self.first + self.cache.length:self.length]
        if not self.uses_graph or new.size(1) > 1:
            return self.model(new, cache=self.cache)[0][:, -1]
        if self.graph is None:
            self.graph = OneTokenGraph(self.model, self.cache)
        return self.graph.step(new)


class OneTokenGraph:
    """一个 token 的前向录成一张 CUDA 图：两百多个小核一次发出，不再等 CPU 一个个地发。

    图里的地址与形状都不变：长度放在设备上，注意力看整个缓存而遮住还没有写的。别的设备上照样走，只是不录。
    """

    def __init__(self, model: GPT, cache: KVCache):
        self.model, self.cache = model, cache
        self.fixed = copy(cache)  # 同样的键与值，长度在设备上
        self.token = torch.zeros(cache.keys.size(1), 1, dtype=torch.long, device=cache.keys.device)
        self.position = self.fixed.length = torch.zeros(1, dtype=torch.long, device=cache.keys.device)
        for stored in (cache.keys, cache.values):
            stored[:, :, :, cache.length:] = 0.0  # 遮住的也要乘以零，不能是 NaN
        self.graph: torch.cuda.CUDAGraph | None = None

    def step(self, token: Tensor) -> Tensor:
        """`token`：(B, 1)，写进缓存，缓存长一；返回 (B, V)。"""
        self.token.copy_(token)
        self.position.fill_(self.cache.length)
        if self.token.is_cuda and self.graph is None:
            self._record()
        if self.graph is None:
            self._forward()
        else:
            self.graph.replay()
        self.cache.length += 1
        return self.logits[:, -1].clone()

    def _forward(self) -> None:
        self.logits = self.model(self.token, cache=self.fixed)[0]

    def _record(self) -> None:
        # 先在旁边的流上走几遍（写的是同样的值）：cuBLAS 的工作区之类不能在录的时候才分配
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _repeat in range(3):
                self._forward()
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        # 采样服务另有线程；它们用 GPU 不该让录制失败
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self._forward()


def generate(model: GPT, idx: Tensor, max_new_tokens: int, choice: Choice,
             generators: list[torch.Generator] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """接着 `idx` (B, T) 写；每步给出 (抽到的 token (B,), 模型自己的 logits (B, V))。

    `generators` 每个序列一个，各抽各的；没有则整批用默认的随机数，与 nanoGPT 相同。
    调用者负责 `torch.no_grad()` 或 `inference_mode()`。
    """
    context = Context(model, idx, max_new_tokens, choice.window)
    for _step in range(max_new_tokens):
        logits = context.next_logits()
        token = choose(logits, context.seen(), choice, generators)
        context.append(token)
        yield token, logits


def choose(logits: Tensor, seen: Tensor, choice: Choice, generators: list[torch.Generator] | None = None) -> Tensor:
    """由 (B, V) 的 logits 抽下一个 token，(B,)；`seen` (B, T) 是重复惩罚所看的 token。"""
    if choice.repetition_penalty != 1.0:
        logits = penalized(logits, seen, choice.repetition_penalty)
    if choice.temperature == 0:
        return logits.argmax(dim=-1)
    return draw(probabilities(logits, choice), generators)


def penalized(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """让 `seen` 里有的 token 更不可能；写法同 transformers，所以可以对照。"""
    scores = logits.gather(-1, seen)
    return logits.scatter(-1, seen, torch.where(scores < 0, scores * penalty, scores / penalty))


def probabilities(logits: Tensor, choice: Choice) -> Tensor:
    """(B, V) 的 logits 变成 float32 的概率，和为 1。"""
    logits = logits.float() / choice.temperature
    if choice.top_k:
        kth = torch.topk(logits, min(choice.top_k, logits.size(-1))).values[:, [-1]]
        logits = logits.masked_fill(logits < kth, -float("inf"))
    probs = F.softmax(logits, dim=-1)
    if choice.top_p < 1:
        ordered, order = probs.sort(dim=-1, descending=True)
        # 某一项之前的累计概率已达 top_p，它就出局；第一项总在
        ordered = ordered.masked_fill(ordered.cumsum(dim=-1) - ordered >= choice.top_p, 0.0)
        probs = torch.zeros_like(probs).scatter(-1, order, ordered)
    if choice.min_p > 0:
        probs = probs.masked_fill(probs < choice.min_p * probs.amax(dim=-1, keepdim=True), 0.0)
    return probs if choice.top_p >= 1 and choice.min_p <= 0 else probs / probs.sum(dim=-1, keepdim=True)


def draw(probs: Tensor, generators: list[torch.Generator] | None = None) -> Tensor:
    """按 (B, V) 的概率各抽一个，(B,)。

    与 `torch.multinomial` 同一算法、同一串随机数：每项概率除以一个指数分布的数，取最大的；
    只是不查概率的合法，一步省下几十微秒。
    """
    noise = torch.empty_like(probs)
    if generators is None:
        noise.exponential_()
    else:
        for row, generator in zip(noise, generators, strict=True):
            row.exponential_(generator=generator)
    return (probs / noise).argmax(dim=-1)
