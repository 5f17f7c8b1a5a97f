"""Parquet 与 Arrow 文件里的一列文本，一部分一部分地读；`pyarrow` 用到时才导入。

`nanogpt.prepare_documents` 使用：Parquet 的一部分是几个 row group，Arrow 的是几个 record batch。
"""

from collections.abc import Iterator
from typing import Any

from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.prepare_convert import no_column, unreadable
from nanogpt.prepare_sources import SourceFile

# 一次变成 Python 字符串的行数：一篇几 KB 时约 2 MB。
BATCH_ROWS = 500


def group_count(source: SourceFile) -> int:
    """parquet 的 row group 数，或 arrow 的批数。"""
    try:
        if source.format == "parquet":
            import pyarrow.parquet

            return int(pyarrow.parquet.ParquetFile(source.path).metadata.num_row_groups)
        return sum(1 for _batch in _arrow_batches(source))
    except ImportError as error:
        raise BadInput("pyarrow_missing", _("Parquet and Arrow files need the pyarrow package, which is not installed"),
                       "", _("pip install pyarrow")) from error
    # pyarrow 的异常种类很多，没有共同的基类
    except Exception as error:
        raise unreadable(source, error) from error


def _arrow_batches(source: SourceFile) -> Iterator[Any]:
    import pyarrow

    with pyarrow.memory_map(source.path) as mapped:
        try:
            yield from pyarrow.ipc.open_stream(mapped)
        except pyarrow.ArrowInvalid:
            mapped.seek(0)
            reader = pyarrow.ipc.open_file(mapped)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))


def column_texts(source: SourceFile, start: int, end: int, column: str) -> Iterator[str]:
    """parquet 或 arrow 的那一列。"""
    import pyarrow

    try:
        for batch in _column_batches(source, start, end, column):
            names = batch.schema.names
            if column not in names:
                raise no_column(source, column, names)
            values = batch.column(names.index(column))
            if not (pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type)):
                raise BadInput("no_column", _("the column {column} of {file} holds {type} instead of text").format(
                    column=repr(column), file=source.name, type=values.type), source.path,
                    _("choose one with --column NAME"))
            if values.null_count:
                raise BadInput("bad_text", _("{file} has rows without a text").format(file=source.name), source.path,
                               _("drop those rows first"))
            for first in range(0, len(values), BATCH_ROWS):
                yield from values.slice(first, BATCH_ROWS).to_pylist()
    except BadInput:
        raise
    except Exception as error:
        raise unreadable(source, error) from error


def _column_batches(source: SourceFile, start: int, end: int, column: str) -> Iterator[Any]:
    if source.format == "arrow":
        for number, batch in enumerate(_arrow_batches(source)):
            if start <= number < end:
                yield batch
        return
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(source.path, memory_map=True) as file:
        if column not in file.schema_arrow.names:
            raise no_column(source, column, file.schema_arrow.names)
        for group in range(start, end):
            yield from file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=[column])
