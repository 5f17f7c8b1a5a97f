"""每篇文档归训练还是验证，哪些是重复的；只看各份的索引，不看文字。

`nanogpt.prepare_build` 使用。归哪边由「种子 + 内容的散列」决定：散列最小的那几篇归验证。
所以内容相同的文档总在同一边，训练里不会有验证的原文；次序与进程数也都不影响结果。
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nanogpt.dataset_write import TOKEN_TYPE
from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.prepare_tokens import TRAIN, VAL, part_path, read_index

DROPPED = 0
# 一遍至多看这么多散列：约 64 MB。文档更多时分几遍，内存不变。
HASHES_AT_ONCE = 4 << 20
STREAM_TOKENS = 4 << 20


@dataclass
class Split:
    """划分的结果。`side` 一篇一个数：0 丢弃，1 训练，2 验证；None 时各段自己标着（单篇文本）。"""

    folder: Path
    units: int
    side: np.ndarray | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    chars: dict[str, int] = field(default_factory=dict)
    documents: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    empty: int = 0

    def parts(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """各份：（序号, 索引, 每段的去处）。"""
        total = 0
        for number in range(self.units):
            index = read_index(self.folder, number)
            sides = index["side"]
            if self.side is not None:
                sides = self.side[total - 1 + np.cumsum(index["is_start"])]
                total += int(index["is_start"].sum())
            yield number, index, sides

    def stream(self, split: str) -> Iterator[np.ndarray]:
        """`train` 或 `val` 的全部 token，按语料的次序，一次至多 8 MiB。"""
        wanted = TRAIN if split == "train" else VAL
        for number, index, sides in self.parts():
            with open(part_path(self.folder, number, "tokens"), "rb") as file:
                for is_wanted, count in _runs(sides == wanted, index["tokens"]):
                    if not is_wanted:
                        file.seek(count * TOKEN_TYPE.itemsize, 1)
                        continue
                    while count > 0:
                        ids = np.fromfile(file, dtype=TOKEN_TYPE, count=min(count, STREAM_TOKENS))
                        count -= ids.size
                        yield ids

    def count(self) -> "Split":
        """数出各边的 token 与字符。"""
        for name, wanted in (("train", TRAIN), ("val", VAL)):
            self.tokens[name] = sum(int(i["tokens"][s == wanted].sum(dtype=np.int64)) for _n, i, s in self.parts())
            self.chars[name] = sum(int(i["chars"][s == wanted].sum(dtype=np.int64)) for _n, i, s in self.parts())
        return self


def _runs(mask: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[bool, int]]:
    """相邻的、去处相同的各段合成一次读写：（要不要, token 数）。"""
    edges = np.flatnonzero(np.diff(mask)) + 1
    for start, end in zip([0, *edges], [*edges, len(mask)], strict=True):
        yield bool(mask[start]), int(lengths[start:end].sum(dtype=np.int64))


def split_by_position(folder: Path, units: int) -> Split:
    """单篇文本：各段已经标着去处。"""
    return Split(folder, units, documents={"train": 1, "val": 1}).count()


def split_by_document(folder: Path, units: int, val_fraction: float, seed: int, drop_duplicates: bool) -> Split:
    """`val_fraction` 的文档（至少一篇）归验证；`drop_duplicates` 时相同的只留第一篇。"""
    ranks, keep = _documents(folder, units, seed)
    repeated = _repeated(ranks)
    split = Split(folder, units, duplicates=int((repeated & keep).sum()), empty=int((~keep).sum()))
    if drop_duplicates:
        keep &= ~repeated
    kept = ranks[keep]
    if not len(kept):
        raise BadInput("empty_text", _("all of the documents are empty"), "", _("give files that hold some text"))
    count = _val_count(len(kept), val_fraction)
    kept.partition(count - 1)
    side = np.where(ranks <= kept[count - 1], VAL, TRAIN).astype(np.uint8)
    side[~keep] = DROPPED
    split.side = side
    split.documents = {"train": int((side == TRAIN).sum()), "val": int((side == VAL).sum())}
    return split.count()


def _val_count(documents: int, val_fraction: float) -> int:
    return min(max(1, round(documents * val_fraction)), documents)


def _documents(folder: Path, units: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """（每篇的名次 uint64, 每篇是不是非空）：一篇九个字节，千万篇 90 MB。"""
    hashes: list[np.ndarray] = []
    filled: list[np.ndarray] = []
    total = 0
    for number in range(units):
        index = read_index(folder, number)
        starts = index["is_start"]
        numbers = total - 1 + np.cumsum(starts)
        hashes.append(index["hash"][starts])
        filled.append(index["tokens"][starts] > 0)
        total += int(starts.sum())
        # 跨段的文档：后面各段的散列依次折进去。这样的段很少，一个单元里至多几段
        for place in np.flatnonzero(~starts):
            _fold(hashes, int(numbers[place]), int(index["hash"][place]))
            array, offset = _locate(filled, int(numbers[place]))
            array[offset] = True
    return _mix(np.concatenate(hashes), seed), np.concatenate(filled)


def _fold(hashes: list[np.ndarray], document: int, other: int) -> None:
    """第 `document` 篇的散列并入 `other`。它总是目前为止的最后几篇之一。"""
    array, place = _locate(hashes, document)
    array[place] = (int(array[place]) * 0x9E3779B97F4A7C15 + other) & 0xFFFFFFFFFFFFFFFF


def _locate(arrays: list[np.ndarray], document: int) -> tuple[np.ndarray, int]:
    base = sum(map(len, arrays))
    for array in reversed(arrays):
        base -= len(array)
        if document >= base:
            return array, document - base
    raise IndexError(document)


def _mix(hashes: np.ndarray, seed: int) -> np.ndarray:
    """散列与种子搅在一起（splitmix64）：换一个种子就是另一种划分。"""
    salt = (seed * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    mixed = hashes ^ np.uint64(salt)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _repeated(ranks: np.ndarray) -> np.ndarray:
    """哪些文档前面已经有过一样的。按散列的范围分几遍，临时内存因此有界。"""
    repeated = np.zeros(len(ranks), dtype=bool)
    passes = -(-len(ranks) // HASHES_AT_ONCE)
    for number in range(passes):
        places = np.flatnonzero(ranks % np.uint64(passes) == number) if passes > 1 else np.arange(len(ranks))
        some = ranks[places]
        order = np.argsort(some, kind="stable")
        same = some[order][1:] == some[order][:-1]
        repeated[places[order[1:][same]]] = True
    return repeated
