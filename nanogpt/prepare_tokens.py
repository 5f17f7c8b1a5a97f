"""单元 → 份：每个单元编码成一个 `.tokens`（uint16）与一个 `.index`（每段一行），互不相干，所以能并行、能续做。

`nanogpt.prepare_build` 使用；`nanogpt.prepare_split` 由各份的索引决定每篇文档归哪一边。
一份写完才有正式的名字，被杀死之后只重做没有名字的那几份。
"""

import contextlib
import hashlib
import itertools
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt.dataset_write import TOKEN_TYPE
from nanogpt.prepare_documents import Corpus, Segment
from nanogpt.prepare_pool import run_tasks
from nanogpt.prepare_report import Report
from nanogpt.text_cuts import pieces
from nanogpt.tokenizer import ByteTokenizer, CharTokenizer, GPT2Tokenizer, Tokenizer, tokenizer_from_dict

# `side`：0 待定，1 训练，2 验证。`hash` 是这一段内容的散列。
INDEX_TYPE = np.dtype([("hash", "<u8"), ("tokens", "<u4"), ("chars", "<u4"), ("is_start", "?"), ("side", "u1")])
TRAIN, VAL = 1, 2
# 索引文件的开头：`.tokens` 的 CRC-32。
_CRC_TYPE = np.dtype("<u8")
# 一次编码这么多字符：tiktoken 的临时内存约为文本的十倍。
PIECE_CHARS = 1 << 18

_state: dict[str, Any] = {}


def part_path(folder: Path, number: int, suffix: str) -> Path:
    """第 `number` 份的文件，`suffix` 为 `tokens` 或 `index`。"""
    return folder / f"{number:06d}.{suffix}"


def tokenize(corpus: Corpus, tokenizer: Tokenizer, cuts: list[int] | None, folder: Path, processes: int,
             report: Report) -> int:
    """编码全部单元，已有的份跳过；返回跳过了几份。

    `cuts` 为 None 时按文档划分；否则是一篇文本，`cuts` 给出每个单元里训练的字符数。
    """
    weights = corpus.weights
    todo = [number for number in range(len(corpus.units)) if not is_whole_part(folder, number)]
    report.stage("tokenize", sum(weights), sum(weights) - sum(weights[number] for number in todo))
    arguments = (corpus, tokenizer.to_dict(), cuts, str(folder))
    for number in run_tasks(_tokenize_unit, [(number,) for number in todo], processes, _setup, arguments):
        report.advance(weights[number])
    return len(corpus.units) - len(todo)


def _setup(corpus: Corpus, description: dict[str, Any], cuts: list[int] | None, folder: str) -> None:
    encoder = Encoder(tokenizer_from_dict(description))
    _state.update(corpus=corpus, cuts=cuts, folder=Path(folder), encoder=encoder)


class Encoder:
    """分词器的语料一侧：文本到 uint16 数组，长文本分段编码。"""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self._points: np.ndarray | None = None
        if isinstance(tokenizer, CharTokenizer):
            # 码点到 id 的整张表 2 MB；查表比逐字查字典快几十倍
            self._points = np.zeros(0x110000, dtype=TOKEN_TYPE)
            for i, char in enumerate(tokenizer.tokens):
                if len(char) == 1:
                    self._points[ord(char)] = i
        # 没有文末记号的分词器用换行把文档隔开
        end = tokenizer.eot_id
        if end is None and isinstance(tokenizer, CharTokenizer) and "\n" in tokenizer.tokens:
            end = tokenizer.tokens.index("\n")
        self.end = np.array([] if end is None else [end], dtype=TOKEN_TYPE)

    def encode(self, text: str) -> Iterator[np.ndarray]:
        """`text` 的 id，一段一段的数组。"""
        return map(self._encode_piece, pieces(text, PIECE_CHARS))

    def _encode_piece(self, text: str) -> np.ndarray:
        if self._points is not None:
            return self._points[np.frombuffer(text.encode("utf-32-le"), dtype="<u4")]
        if isinstance(self.tokenizer, ByteTokenizer):
            return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(TOKEN_TYPE)
        if isinstance(self.tokenizer, GPT2Tokenizer):
            return self.tokenizer.encode_array(text).astype(TOKEN_TYPE)
        return np.array(self.tokenizer.encode_ordinary(text), dtype=TOKEN_TYPE)


def _tokenize_unit(number: int) -> int:
    """编码一个单元，写下它的份；返回序号。"""
    encoder: Encoder = _state["encoder"]
    segments = _state["corpus"].read(number)
    is_whole = _state["cuts"] is None
    rows: list[tuple[int, int, int, bool, int]] = []
    crc = 0
    with _renamed(part_path(_state["folder"], number, "tokens")) as path, open(path, "wb") as file:
        sided = ((segment, 0) for segment in segments) if is_whole else _sides(segments, _state["cuts"][number])
        for segment, side in sided:
            # 空白的文档只留一行索引，好数得出来
            is_blank = is_whole and segment.is_start and segment.is_end and not segment.text.strip()
            end = [encoder.end] if is_whole and segment.is_end else []
            count = 0
            for array in () if is_blank else itertools.chain(encoder.encode(segment.text), end):
                crc = zlib.crc32(array.data, crc)
                file.write(array.data)
                count += array.size
            rows.append((content_hash(segment.text), count, len(segment.text), segment.is_start, side))
    # 索引最后才有：有索引的份就是完整的
    with _renamed(part_path(_state["folder"], number, "index")) as path, open(path, "wb") as file:
        file.write(np.array([crc], dtype=_CRC_TYPE).tobytes() + np.array(rows, dtype=INDEX_TYPE).tobytes())
    return number


@contextlib.contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """先写别的名字，写完再改名。不等它落盘：等一次要几十毫秒；断电弄坏的份由 CRC 认出来重做。"""
    temporary = path.with_name(f".{path.name}.tmp")
    yield temporary
    os.replace(temporary, path)


def is_whole_part(folder: Path, number: int) -> bool:
    """第 `number` 份是不是完整：有索引，长度与 CRC 都对。"""
    try:
        index = read_index(folder, number)
        wanted = int(np.fromfile(part_path(folder, number, "index"), dtype=_CRC_TYPE, count=1)[0])
        found = size = 0
        with open(part_path(folder, number, "tokens"), "rb") as file:
            while chunk := file.read(1 << 20):
                found, size = zlib.crc32(chunk, found), size + len(chunk)
    except (OSError, IndexError, ValueError):
        return False
    return found == wanted and size == int(index["tokens"].sum(dtype=np.int64)) * TOKEN_TYPE.itemsize


def _sides(segments: Iterator[Segment], cut: int) -> Iterator[tuple[Segment, int]]:
    """单篇文本的一个单元：前 `cut` 个字符归训练，其余归验证。"""
    for segment in segments:
        for text, side in ((segment.text[:cut], TRAIN), (segment.text[cut:], VAL)):
            if text:
                yield Segment(text), side


def content_hash(text: str) -> int:
    """内容的 64 位散列，首尾的空白不算：它决定一篇文档归哪一边，以及哪些是重复的。"""
    return int.from_bytes(hashlib.blake2b(text.strip().encode("utf-8"), digest_size=8).digest(), "little")


def read_index(folder: Path, number: int) -> np.ndarray:
    """第 `number` 份的索引，每段一行。"""
    return np.fromfile(part_path(folder, number, "index"), dtype=INDEX_TYPE, offset=_CRC_TYPE.itemsize)
