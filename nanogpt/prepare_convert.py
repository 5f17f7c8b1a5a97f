"""不能按字节切开的来源（CSV、别的编码、gzip、JSON 数组），先流式转成 UTF-8 的文本或 JSON 行。

`nanogpt.prepare_build` 使用；转好的文件放在工作目录里，此后与本来就是 UTF-8 的一样处理。内存只占一块。
"""

import codecs
import csv
import gzip
import itertools
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from nanogpt.dataset_write import replace_together
from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.prepare_sources import SourceFile

CHUNK_BYTES = 1 << 20
# CSV 的一格、JSON 数组的整个文件，至多这么大：它们只能整个读进内存。
MAX_CELL_CHARS = 1 << 26
MAX_ARRAY_BYTES = 1 << 26


def needs_conversion(source: SourceFile) -> bool:
    """能不能直接按字节切开。"""
    if source.format in ("parquet", "arrow"):
        return False
    return source.format == "csv" or source.encoding != "utf-8" or source.is_gzip or _is_array(source)


def _is_array(source: SourceFile) -> bool:
    """`.json` 里是一个数组而不是一行一个对象。"""
    if source.format != "jsonl" or source.is_gzip:
        return False
    with open(source.path, "rb") as file:
        file.seek(source.bom_bytes)
        return file.read(64).lstrip()[:1] == b"["


def convert(source: SourceFile, index: int, folder: Path, column: str) -> SourceFile:
    """`source` 转成 `folder` 里的一个文件；上次转好的直接用。"""
    suffix, fmt = (".txt", "text") if source.format == "text" else (".jsonl", "jsonl")
    target = folder / f"{index:06d}{suffix}"
    if not target.exists():
        with replace_together(folder) as open_new:
            file = open_new(target.name)
            for text in converted_texts(source, column):
                file.write(text.encode("utf-8"))
    return replace(source, path=str(target), format=fmt, encoding="utf-8", bytes=target.stat().st_size, bom_bytes=0,
                   is_gzip=False)


def converted_texts(source: SourceFile, column: str) -> Iterator[str]:
    """转换的结果，一段一段地给：文本，或一行行 JSON。"""
    if source.format == "csv":
        rows = _csv_rows(source, column)
    elif _is_array(source):
        rows = _array_rows(source)
    else:
        yield from _texts(source)
        return
    for row in rows:
        yield json.dumps(row, ensure_ascii=False) + "\n"


def _texts(source: SourceFile) -> Iterator[str]:
    """解码后的文本，一块一块地给；解不开时抛出 `BadInput`，指出字节的位置。"""
    decoder = codecs.getincrementaldecoder(source.encoding)()
    fed, pending, is_first = source.bom_bytes, 0, True
    try:
        with _open(source) as file:
            file.seek(source.bom_bytes)
            while True:
                chunk = file.read(CHUNK_BYTES)
                pending = len(decoder.getstate()[0])
                text = decoder.decode(chunk, final=not chunk)
                if text:
                    # 明说了字节序的 UTF-16 会把 BOM 留给正文
                    yield text.removeprefix("\ufeff") if is_first else text
                    is_first = False
                fed += len(chunk)
                if not chunk:
                    return
    except UnicodeDecodeError as error:
        offset = fed - pending + error.start
        raise BadInput("bad_encoding", _("{file} is not {encoding}: byte 0x{byte:02x}").format(
            file=source.name, encoding=source.encoding, byte=error.object[error.start]),
            _("{file}, byte {offset}").format(file=source.path, offset=offset),
            _("name its encoding with --encoding, for example gb18030")) from error
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(source, error) from error


def _open(source: SourceFile) -> IO[bytes]:
    return gzip.open(source.path, "rb") if source.is_gzip else open(source.path, "rb")  # type: ignore[return-value]


def _lines(texts: Iterator[str]) -> Iterator[str]:
    """按 `\\n` 切成行，行尾原样：引号里的换行才不会变。"""
    rest = ""
    for text in texts:
        *lines, rest = (rest + text).split("\n")
        if len(rest) > MAX_CELL_CHARS:
            raise csv.Error(f"line longer than {MAX_CELL_CHARS} characters")
        yield from (line + "\n" for line in lines)
    if rest:
        yield rest


def _csv_rows(source: SourceFile, column: str) -> Iterator[dict[str, str]]:
    """CSV 的那一列，一行一个。分隔符从标题行看出：逗号、分号或制表符。"""
    lines = _lines(_texts(source))
    header = next(lines, "")
    delimiter = max(",;\t", key=header.count)
    csv.field_size_limit(MAX_CELL_CHARS)
    reader = csv.reader(itertools.chain([header], lines), delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        if column not in names:
            raise no_column(source, column, names)
        place = names.index(column)
        for row in reader:
            if len(row) != len(names) and row:
                raise BadInput("bad_csv", _("a row of {file} has {found} fields, its header {expected}").format(
                    file=source.name, found=len(row), expected=len(names)),
                    _("{file}, line {line}").format(file=source.path, line=reader.line_num),
                    _("quote the fields that hold {delimiter} or line breaks").format(delimiter=repr(delimiter)))
            if row:
                yield {column: row[place]}
    except csv.Error as error:
        raise BadInput("bad_csv", _("{file} is not valid CSV: {why}").format(file=source.name, why=error),
                       _("{file}, line {line}").format(file=source.path, line=reader.line_num),
                       _("mend that line, or export the file again")) from error


def _array_rows(source: SourceFile) -> Iterator[Any]:
    """`.json` 里的一个数组：只能整个读，所以限于 64 MiB。"""
    if source.bytes > MAX_ARRAY_BYTES:
        raise BadInput("bad_json", _("{file} is one JSON array, too large to be read at once").format(file=source.name),
                       source.path, _("write it as JSON lines: one object on each line"))
    try:
        rows = json.loads("".join(_texts(source)))
    except (ValueError, RecursionError) as error:
        raise BadInput("bad_json", _("{file} is not valid JSON: {why}").format(file=source.name, why=str(error)[:100]),
                       source.path, _("mend it, or export the file again")) from error
    yield from rows


def no_column(source: SourceFile, column: str, names: list[str]) -> BadInput:
    """没有那一列：说出有哪些。"""
    shown = ", ".join(str(name)[:40] for name in names[:20]) or _("none")
    return BadInput("no_column", _("{file} has no column {column}; it has: {names}").format(
        file=source.name, column=repr(column), names=shown), source.path, _("choose one with --column NAME"))


def unreadable(source: SourceFile, error: BaseException) -> BadInput:
    why = (error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split()))[:200]
    return BadInput("bad_text", _("{file} cannot be read: {why}").format(file=source.name, why=why), source.path,
                    _("check its permissions, and whether it is whole") if os.path.exists(source.path)
                    else _("it was deleted meanwhile"))
