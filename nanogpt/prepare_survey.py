"""编码之前的第一遍：字符词表、每个单元的字符数，或者训练 BPE；只在用得着时才走。

`nanogpt.prepare_build` 使用；结果决定分词器，以及单篇文本在哪个字符切成训练与验证。
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from nanogpt.bpe import train_bpe
from nanogpt.prepare_documents import Corpus
from nanogpt.prepare_pool import run_tasks
from nanogpt.prepare_report import Report
from nanogpt.tokenizer import Tokenizer, tokenizer_from_dict

# 训练 BPE 至多看这么多：`tokenizers` 记住每个不同的词，英文每字节约占 10 字节内存；没有空白的文字几乎句句不同，
# 每字节约 100 字节，所以非 ASCII 的字节按 12 倍计。合计约 400 MB。
TRAINING_BUDGET = 40 << 20
NON_ASCII_COST = 12
# 一次看这么多字符：临时数组约 12 MB。
CHUNK_CHARS = 1 << 20

_state: dict[str, Any] = {}


def _setup(corpus: Corpus) -> None:
    _state["corpus"] = corpus


def survey(corpus: Corpus, processes: int, report: Report) -> tuple[list[int], list[str]]:
    """（每个单元的字符数, 出现过的全部字符按码点排序）。"""
    report.stage("survey", sum(corpus.weights))
    seen = np.zeros(0x110000, dtype=bool)
    chars = [0] * len(corpus.units)
    tasks = [(number,) for number in range(len(corpus.units))]
    for number, count, points in run_tasks(_survey_unit, tasks, processes, _setup, (corpus,)):
        chars[number] = count
        seen[points] = True
        report.advance(corpus.weights[number])
    return chars, [chr(point) for point in np.flatnonzero(seen)]


def _survey_unit(number: int) -> tuple[int, int, np.ndarray]:
    """一个单元：（序号, 字符数, 出现过的码点）。"""
    seen, count = np.zeros(0x110000, dtype=bool), 0
    for segment in _state["corpus"].read(number):
        # 小端 UTF-32 的四个字节就是码点
        for start in range(0, len(segment.text), CHUNK_CHARS):
            chunk = segment.text[start : start + CHUNK_CHARS].encode("utf-32-le")
            seen[np.frombuffer(chunk, dtype="<u4")] = True
        count += len(segment.text)
    return number, count, np.flatnonzero(seen)


def train_tokenizer(corpus: Corpus, vocab_size: int, report: Report) -> Tokenizer:
    """在语料上训练 BPE；语料大时从每个单元的开头各取一些。大语料在另一个进程里做，做完内存就还给系统。"""
    report.stage("train_tokenizer", 0)
    is_large = len(corpus.units) > 1
    description = next(run_tasks(_train, [(vocab_size,)], 1, _setup, (corpus,), always_apart=is_large))
    return tokenizer_from_dict(description)


def _train(vocab_size: int) -> dict[str, Any]:
    return train_bpe(_sample(_state["corpus"]), vocab_size).to_dict()


def _sample(corpus: Corpus) -> Iterator[str]:
    """每个单元分到同样的额度；前面没有用完的留给后面。"""
    left = TRAINING_BUDGET
    for number in range(len(corpus.units)):
        quota = left // (len(corpus.units) - number)
        for segment in corpus.read(number):
            text = segment.text[:quota]
            size = len(text.encode("utf-8"))
            # 每个字符多出来的字节都来自非 ASCII
            cost = len(text) if size == len(text) else size * NON_ASCII_COST
            if cost > quota:
                text = text[: int(len(text) * quota / cost)]
            yield text
            quota, left = quota - cost, left - min(cost, quota)
            if quota <= 0:
                break
