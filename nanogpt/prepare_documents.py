"""文件表 → 单元 → 文档：把语料切成差不多大的单元，任何一个单元都能独立地读出它的文档。

`nanogpt.prepare_survey` 与 `nanogpt.prepare_tokens` 的工作进程使用。一篇文档可以跨好几个单元，也可以比内存还大，
所以读出来的是「段」：文档的一部分，带着「是不是一篇的开头、结尾」。
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.prepare_columns import column_texts, group_count
from nanogpt.prepare_convert import no_column, unreadable
from nanogpt.prepare_sources import SourceFile
from nanogpt.text_cuts import first_cut, last_cut

# 一个单元约有多少字节的文本：分词约 1 s，被杀死时每个进程至多白做一个。
UNIT_BYTES = 8 << 20
# 找安全切点时往后看这么远；还没有就硬切。
CUT_WINDOW = 1 << 16
# Parquet 压缩过：文本约是文件的三倍。
PARQUET_RATIO = 3
MAX_LINE_BYTES = 64 << 20
# 一段至多这么多字符。
SEGMENT_CHARS = 4 << 20


@dataclass(frozen=True)
class Span:
    """文件 `file`（在表里的序号）的一部分。`text`、`jsonl` 以字节计，`parquet` 以 row group 计，`arrow` 以批计。"""

    file: int
    start: int
    end: int


@dataclass(frozen=True)
class Segment:
    """一篇文档，或太长的文档的一部分。"""

    text: str
    is_start: bool = True
    is_end: bool = True


@dataclass(frozen=True)
class Corpus:
    """看过的语料。`weights` 是每个单元约有多少字节文本；`is_single`：只有一篇，按位置划分。

    `separator` 非空时，文本文件在它出现之处分成几篇。能序列化，所以工作进程各拿一份。
    """

    sources: list[SourceFile]
    units: list[list[Span]]
    weights: list[int]
    column: str
    separator: str
    is_single: bool

    def read(self, number: int) -> Iterator[Segment]:
        """第 `number` 个单元的各段。"""
        return read_unit(self.units[number], self.sources, self.column, self.separator)


def plan_corpus(sources: list[SourceFile], column: str, separator: str) -> Corpus:
    """文件表切成单元。"""
    units = plan_units(sources)
    weights = [sum(span.end - span.start if sources[span.file].format in ("text", "jsonl")
                   else sources[span.file].bytes * PARQUET_RATIO // len(units) for span in unit) for unit in units]
    is_single = len(sources) == 1 and sources[0].format == "text" and not separator
    return Corpus(sources, units, weights, column, separator, is_single)


def plan_units(sources: list[SourceFile], unit_bytes: int = UNIT_BYTES) -> list[list[Span]]:
    """全部单元，次序就是语料的次序；由文件表唯一确定。小文件几个合成一个单元。"""
    units: list[list[Span]] = []
    size = unit_bytes
    for number, source in enumerate(sources):
        for span, weight in _spans(number, source, unit_bytes):
            if size + weight > unit_bytes or not units:
                units.append([])
                size = 0
            units[-1].append(span)
            size += weight
    return units


def _spans(number: int, source: SourceFile, unit_bytes: int) -> Iterator[tuple[Span, int]]:
    """一个文件的各部分与各自的分量（字节）。"""
    if source.format in ("parquet", "arrow"):
        count = group_count(source)
        weight = max(1, source.bytes // max(1, count))
        step = max(1, unit_bytes // weight)
        for start in range(0, count, step):
            yield Span(number, start, min(count, start + step)), weight * step
        return
    for start in range(source.bom_bytes, source.bytes, unit_bytes):
        end = min(source.bytes, start + unit_bytes)
        yield Span(number, start, end), end - start


def read_unit(unit: list[Span], sources: list[SourceFile], column: str, separator: str) -> Iterator[Segment]:
    """一个单元的各段。`separator` 非空时，文本文件在它出现之处分成几篇。"""
    for span in unit:
        source = sources[span.file]
        try:
            if source.format == "jsonl":
                yield from _cut(_json_texts(source, span, column))
            elif source.format in ("parquet", "arrow"):
                yield from _cut(column_texts(source, span.start, span.end, column))
            elif separator:
                yield from _separated(source, span, separator)
            else:
                yield from _whole_file(source, span)
        except OSError as error:
            raise unreadable(source, error) from error


def _cut(texts: Iterable[str]) -> Iterator[Segment]:
    """整篇的文档，太长的切成几段。"""
    for text in texts:
        start = 0
        while len(text) - start > SEGMENT_CHARS:
            cut = last_cut(text, start, start + SEGMENT_CHARS)
            yield Segment(text[start:cut], start == 0, False)
            start = cut
        yield Segment(text[start:], start == 0, True)


def _whole_file(source: SourceFile, span: Span) -> Iterator[Segment]:
    """一个文件就是一篇：这一部分的文字，两头都移到安全的切点。"""
    with open(source.path, "rb") as file:
        start = cut_after(file, span.start, source)
        end = cut_after(file, span.end, source)
        if start >= end:
            return
        file.seek(start)
        text = decode(file.read(end - start), source, start)
    yield Segment(one_newline(text), start == source.bom_bytes, end == source.bytes)


def cut_after(file: Any, position: int, source: SourceFile) -> int:
    """文件里 `position` 处或其后的第一个安全切点（字节）。只由内容决定，所以前后两个单元算得一样。"""
    if position <= source.bom_bytes or position >= source.bytes:
        return max(source.bom_bytes, min(position, source.bytes))
    file.seek(position)
    window = file.read(CUT_WINDOW)
    skip = next((i for i, byte in enumerate(window[:4]) if byte & 0xC0 != 0x80), 0)
    text = window[skip:].decode("utf-8", "surrogateescape")
    cut = first_cut(text)
    if cut is None and position + len(window) >= source.bytes:
        return source.bytes
    if cut is None:
        # 找不到就硬切，只是不切开 `\r\n`
        cut = 1 if text.startswith("\n") else 0
    return position + skip + len(text[:cut].encode("utf-8", "surrogateescape"))


def one_newline(text: str) -> str:
    """三种换行成一种，与 Python 的文本模式相同。"""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def decode(data: bytes, source: SourceFile, offset: int) -> str:
    """`data` 是文件里 `offset` 处的字节；不是 UTF-8 时抛出 `BadInput`，指出字节的位置。"""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput("bad_encoding", _("{file} is not UTF-8: byte 0x{byte:02x}").format(
            file=source.name, byte=error.object[error.start]),
            _("{file}, byte {offset}").format(file=source.path, offset=offset + error.start),
            _("name its encoding with --encoding, for example gb18030")) from error


def _separated(source: SourceFile, span: Span, separator: str) -> Iterator[Segment]:
    """以 `separator` 隔开的各篇；一篇归它开头所在的单元，所以会读到单元之外去。"""
    mark = separator.encode("utf-8")
    with open(source.path, "rb") as file:
        position, is_start = span.start, True
        if position > source.bom_bytes:
            # 恰好在这里开始的一篇也算这个单元的
            position = _find(file, mark, max(source.bom_bytes, position - len(mark)), source.bytes)
        while position < span.end and position < source.bytes:
            file.seek(position)
            window = file.read(SEGMENT_CHARS + len(mark))
            found = window.find(mark)
            if found >= 0:
                body, is_end = window[:found], True
                step = _after_marks(file, mark, position + found + len(mark)) - position
            elif position + len(window) >= source.bytes:
                body, step, is_end = window, len(window), True
            else:
                step = _text_end(window[:SEGMENT_CHARS])
                body, is_end = window[:step], False
            text = one_newline(decode(body, source, position))
            # 分隔符前后的换行属于分隔符，不属于文档
            text = text.lstrip("\n") if is_start else text
            yield Segment(text.rstrip("\n") if is_end else text, is_start, is_end)
            position, is_start = position + step, is_end
            if not is_start:
                # 太长的一篇要读完，哪怕已经出了单元
                span = Span(span.file, span.start, max(span.end, position + 1))


def _find(file: Any, mark: bytes, position: int, size: int) -> int:
    """`position` 之后第一个 `mark` 的后一个字节；没有则 `size`。"""
    while position < size:
        file.seek(position)
        window = file.read(CUT_WINDOW + len(mark))
        found = window.find(mark)
        if found >= 0:
            return _after_marks(file, mark, position + found + len(mark))
        position += CUT_WINDOW
    return size


def _after_marks(file: Any, mark: bytes, end: int) -> int:
    """在 `end` 结束的 `mark` 若与后面的重叠（`\\n\\n\\n` 里有两个 `\\n\\n`），一直走到最后一个的末尾。

    从哪里开始看都得到同一处，所以前后两个单元对「一篇从哪里开始」的看法相同。
    """
    while True:
        start = end - len(mark) + 1
        file.seek(start)
        found = file.read(2 * len(mark) - 2).find(mark)
        if found < 0:
            return end
        end = start + found + len(mark)


def _text_end(data: bytes) -> int:
    """`data` 里最靠后的安全切点（字节）。"""
    text = data.decode("utf-8", "surrogateescape")
    # 末尾可能是半个字符
    end = len(text) - next((i for i in range(4) if not "\udc80" <= text[-1 - i] <= "\udcff"), 0)
    return len(text[: last_cut(text, 0, end - 1)].encode("utf-8", "surrogateescape"))


def _json_texts(source: SourceFile, span: Span, column: str) -> Iterator[str]:
    """从这一部分里开始的各行，每行一个对象。"""
    with open(source.path, "rb") as file:
        file.seek(span.start)
        if span.start > source.bom_bytes:
            file.seek(span.start - 1)
            while (line := file.readline(MAX_LINE_BYTES)) and not line.endswith(b"\n"):
                pass
        position = file.tell()
        while position < span.end and (line := file.readline(MAX_LINE_BYTES)):
            if len(line) == MAX_LINE_BYTES:
                raise _bad_line(source, position, _("it is longer than {mib} MiB").format(mib=MAX_LINE_BYTES >> 20))
            if line.strip():
                yield _row_text(line, source, position, column)
            position += len(line)


def _row_text(line: bytes, source: SourceFile, position: int, column: str) -> str:
    try:
        row = json.loads(decode(line, source, position))
    except (ValueError, RecursionError) as error:
        why = getattr(error, "msg", str(error)[:80])
        if not line.endswith(b"\n"):
            why = _("{why}; the file seems to be cut short").format(why=why)
        raise _bad_line(source, position, why) from error
    if not isinstance(row, dict):
        raise _bad_line(source, position, _("it is not an object"))
    if column not in row:
        raise no_column(source, column, list(row))
    text = row[column]
    if not isinstance(text, str):
        raise _bad_line(source, position, _("{column} is not a text").format(column=repr(column)))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        why = _("it holds half of a surrogate pair, which is not a character")
        raise _bad_line(source, position, why) from error
    return text


def _bad_line(source: SourceFile, position: int, why: str) -> BadInput:
    """JSON 的一行不合法。行号要从头数换行，所以只在出错时才数。"""
    with open(source.path, "rb") as file:
        number, left = 1, position
        while left > 0 and (chunk := file.read(min(left, 1 << 20))):
            number += chunk.count(b"\n")
            left -= len(chunk)
    return BadInput("bad_json", _("a line of {file} is not usable: {why}").format(file=source.name, why=why),
                    _("{file}, line {line}").format(file=source.path, line=number),
                    _("mend or delete that line"))
