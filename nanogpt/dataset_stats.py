"""从数据集里看出来的事实：读随机窗口、数 token、找两份之间相同的段落；不下判断。

`nanogpt.dataset_doctor` 使用。文件再大，看的也只是固定数量的窗口，内存不超过几个窗口。
"""

from dataclasses import dataclass, field

import numpy as np

from nanogpt.dataset import Dataset
from nanogpt.dataset_write import TOKEN_TYPE
from nanogpt.tokenizer import GPT2Tokenizer, Tokenizer, tokenizer_from_dict

# 一份至多看这么多窗口、每窗这么多 token：数一遍 16M token 约 0.2 s。
WINDOWS, WINDOW_TOKENS = 16, 1 << 20
# 解码来看文字的窗口。
TEXT_WINDOWS, TEXT_TOKENS = 32, 2000
# 找泄漏：从验证里取这么多段，在训练里至多找这么多 token。
PROBES, SEARCHED_TOKENS = 256, 64 << 20
HEAD_TOKENS = 16
SEED = 1337


@dataclass
class SplitStats:
    """一份数据的统计。`counts[i]` 是看过的窗口里 id `i` 的次数；`texts` 是随机几处解码出来的文字。"""

    tokens: int
    seen: int = 0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(1 << 16, dtype=np.int64))
    texts: list[str] = field(default_factory=list)
    text_tokens: int = 0
    tail_repeats: int = 0

    @property
    def chars_per_token(self) -> float | None:
        return sum(map(len, self.texts)) / self.text_tokens if self.text_tokens else None


def tokenizer_of(dataset: Dataset) -> Tokenizer | None:
    """数据集的分词器；没有元数据的按 nanoGPT 的惯例是 GPT-2。有词表大小而没有分词器的是 None。"""
    if dataset.tokenizer is not None:
        return tokenizer_from_dict(dataset.tokenizer)
    return GPT2Tokenizer() if dataset.vocab_size is None else None


def read_tokens(dataset: Dataset, split: str, start: int, count: int) -> np.ndarray:
    """`split` 从第 `start` 个起的至多 `count` 个 id。"""
    with open(dataset.path(split), "rb") as file:
        file.seek(start * TOKEN_TYPE.itemsize)
        return np.fromfile(file, dtype=TOKEN_TYPE, count=count)


def window_starts(tokens: int, size: int, count: int) -> list[int]:
    """至多 `count` 个窗口的起点：放得下就从头排到尾，放不下就是首、尾与随机几处（种子固定）。"""
    if tokens <= size * count:
        return list(range(0, tokens, size))
    middle = np.random.default_rng(SEED).integers(0, tokens - size, count - 2)
    return [0, *sorted(int(start) for start in middle), tokens - size]


def split_stats(dataset: Dataset, split: str, tokenizer: Tokenizer | None) -> SplitStats:
    """看过的窗口里每个 id 的次数、末尾重复的长度、随机几处的文字。"""
    stats = SplitStats(dataset.tokens(split))
    for start in window_starts(stats.tokens, WINDOW_TOKENS, WINDOWS):
        ids = read_tokens(dataset, split, start, WINDOW_TOKENS)
        stats.counts += np.bincount(ids, minlength=1 << 16)
        stats.seen += ids.size
    last = read_tokens(dataset, split, max(0, stats.tokens - WINDOW_TOKENS), WINDOW_TOKENS)
    if last.size:
        different = np.flatnonzero(last != last[-1])
        stats.tail_repeats = int(last.size if not different.size else last.size - 1 - different[-1])
    if tokenizer is not None:
        starts = np.random.default_rng(SEED).integers(0, max(1, stats.tokens - TEXT_TOKENS), TEXT_WINDOWS)
        for start in sorted({int(start) for start in starts}):
            ids = read_tokens(dataset, split, start, TEXT_TOKENS)
            stats.texts.append(_whole_text(tokenizer, [int(i) for i in ids]))
            stats.text_tokens += ids.size
    return stats


def _whole_text(tokenizer: Tokenizer, ids: list[int]) -> str:
    """一个窗口的文字。窗口两头会切在字符中间，那几个字节不算数。"""
    data = b"".join(map(tokenizer.token_bytes, ids))
    start = next((i for i, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            # 首字节说这个字符该有几个字节；不够就是被切断了
            needed = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            data = data if needed <= back else data[:-back]
            break
    return data[start:].decode("utf-8", "replace")


def leaked_share(dataset: Dataset, length: int) -> tuple[float, int | None]:
    """验证里随机的段（各 `length` >= 16 个 token）有几成在训练里一字不差；再给出其中一段在验证里的位置。"""
    tokens = dataset.tokens("val")
    if tokens < 2 * length:
        return 0.0, None
    starts = np.unique(np.random.default_rng(SEED).integers(0, tokens - length, PROBES))
    probes = np.stack([read_tokens(dataset, "val", int(start), length) for start in starts])
    # 一段全是同一个 token 的（空行、空格）哪里都有，不算泄漏
    varied = (probes != probes[:, :1]).any(axis=1)
    starts, probes = starts[varied], probes[varied]
    found = np.zeros(len(probes), dtype=bool)
    heads = _heads(probes[:, :HEAD_TOKENS])[:, 0]
    order = np.argsort(heads)
    total = dataset.tokens("train")
    count = max(2, SEARCHED_TOKENS // WINDOW_TOKENS)
    for start in window_starts(total, WINDOW_TOKENS, count):
        ids = read_tokens(dataset, "train", start, WINDOW_TOKENS + length)
        if len(ids) < length:
            continue
        _search(ids, probes, heads[order], order, found)
    places = starts[found]
    return (float(found.mean()) if len(found) else 0.0), int(places[0]) if len(places) else None


def _heads(ids: np.ndarray) -> np.ndarray:
    """从每个位置起的 16 个 token 的散列：比较一个数，就排除了几乎全部不同的位置。"""
    wide = ids.astype(np.uint64)
    four = wide[..., :-3].copy()
    for i in range(1, 4):
        four |= wide[..., i : four.shape[-1] + i] << np.uint64(16 * i)
    count = ids.shape[-1] - HEAD_TOKENS + 1
    hashed = np.zeros((*ids.shape[:-1], count), dtype=np.uint64)
    for i in range(0, HEAD_TOKENS, 4):
        hashed = (hashed ^ four[..., i : count + i]) * np.uint64(0x9E3779B97F4A7C15)
        hashed ^= hashed >> np.uint64(29)
    return hashed


def _search(ids: np.ndarray, probes: np.ndarray, heads: np.ndarray, order: np.ndarray, found: np.ndarray) -> None:
    """在一个窗口里找每一段；找到的在 `found` 里标出。`heads` 已排序，`order` 是它们原来的序号。"""
    length = probes.shape[1]
    packed = _heads(ids)[: len(ids) - length + 1]
    places = np.searchsorted(heads, packed)
    places[places == len(heads)] = 0
    candidates = np.flatnonzero(heads[places] == packed)
    for first in range(0, len(candidates), 1 << 14):
        some = candidates[first : first + (1 << 14)]
        windows = ids[some[:, None] + np.arange(length)]
        for offset in range(len(heads)):
            # 开头相同的段可能不止一个，它们在 `heads` 里相邻
            where = places[some] + offset
            live = (where < len(heads)) & (heads[np.minimum(where, len(heads) - 1)] == packed[some])
            if not live.any():
                break
            numbers = order[where[live]]
            found[numbers[(windows[live] == probes[numbers]).all(axis=1)]] = True
