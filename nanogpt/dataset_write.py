"""把 token 流写成数据集目录：要么整个换成新的，要么原来的一个字节不动。

`data/*/prepare.py` 经 `nanogpt.dataset.write_dataset` 使用它。
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nanogpt.atomic import DISK_FULL, fsync_dir
from nanogpt.dataset_meta import write_meta_json, write_meta_pkl
from nanogpt.errors import BadInput, OutOfResources
from nanogpt.i18n import _
from nanogpt.tokenizer import CharTokenizer, Tokenizer

TOKEN_TYPE = np.dtype("<u2")
# 元数据与文件系统自身的余量。
SPARE_BYTES = 1 << 20

TokenStream = np.ndarray | Iterable[np.ndarray]


def write_dataset(
    folder: Path,
    tokenizer: Tokenizer,
    splits: Mapping[str, TokenStream],
    *,
    expected_tokens: int | None = None,
    **meta: Any,
) -> dict[str, Any]:
    """写出 `train.bin`、`val.bin`、（字符级的）`meta.pkl` 与 `meta.json`，返回 `meta.json` 的内容。

    `splits` 的值是一个整数数组，或依次给出整数数组的迭代器；迭代器只走一遍，内存只占一块。
    `expected_tokens` 是总数（知道时），用来先查磁盘空间；`meta` 是要一并记下的字段（如 `source`）。
    全部写完并落盘才改名，`meta.json` 最后；出任何错都不留半成品。
    """
    make_folder(folder)
    arrays = [stream for stream in splits.values() if isinstance(stream, np.ndarray)]
    if expected_tokens is None and len(arrays) == len(splits):
        expected_tokens = sum(array.size for array in arrays)
    if expected_tokens is not None:
        check_free_space(folder, expected_tokens * TOKEN_TYPE.itemsize + SPARE_BYTES)
    counts: dict[str, int] = {}
    with replace_together(folder) as open_new:
        for split, stream in splits.items():
            counts[split] = _write_tokens(open_new(f"{split}.bin"), stream, tokenizer.vocab_size, split)
        if isinstance(tokenizer, CharTokenizer):
            open_new("meta.pkl").write(write_meta_pkl(tokenizer.tokens))
        description = {"tokenizer": tokenizer.to_dict(), "vocab_size": tokenizer.vocab_size}
        description |= {f"{split}_tokens": count for split, count in counts.items()} | meta
        open_new("meta.json").write(write_meta_json(description))
    if not isinstance(tokenizer, CharTokenizer):
        # 上一次若是字符级的，它的词表已不属于这份数据。
        (folder / "meta.pkl").unlink(missing_ok=True)
    return description


@contextlib.contextmanager
def replace_together(folder: Path) -> Iterator[Any]:
    """给出函数 `open_new(name)`：打开 `folder/name` 的替身；正常离开时落盘并依次改名，出错时全部删掉。

    替身是 0600 的临时文件，由 flock 占着；强行杀死的写者留下的替身没有人占，下一次先扫掉。
    """
    _sweep(folder)
    files: list[tuple[BinaryIO, Path, Path]] = []

    def open_new(name: str) -> BinaryIO:
        target = folder / name
        if target.exists() and not target.is_file():
            raise BadInput("not_a_file", _("{file} is in the way").format(file=name), str(target), _("move it away"))
        file, temporary = _open_temporary(folder, name)
        files.append((file, temporary, target))
        return file

    try:
        yield open_new
        for file, _temporary, _target in files:
            file.flush()
            os.fsync(file.fileno())
        for _file, temporary, target in files:
            os.replace(temporary, target)
        fsync_dir(folder)
    except OSError as error:
        raise explain_os_error(error, folder) from error
    finally:
        for file, temporary, _target in files:
            # 磁盘已满时 `close` 会再冲一次缓冲并再失败一次；要紧的是删掉替身。
            with contextlib.suppress(OSError):
                file.close()
            temporary.unlink(missing_ok=True)


def _open_temporary(folder: Path, name: str) -> tuple[BinaryIO, Path]:
    """新的、已上锁的临时文件。建好到上锁之间可能被别人的 `_sweep` 当作遗物删掉，那就再建一个。"""
    while True:
        handle, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=folder)
        file = os.fdopen(handle, "wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return file, Path(temporary)
        file.close()


def explain_os_error(error: OSError, folder: Path) -> BadInput | OutOfResources:
    """往 `folder` 里写时的系统错误，变成能向用户解释的一种。"""
    if error.errno in DISK_FULL:
        free = shutil.disk_usage(folder).free
        what = _("disk full while writing the dataset; {free} MiB are free").format(free=free >> 20)
        return OutOfResources("disk_full", what, str(folder), _("free some space, or write elsewhere with --out DIR"))
    what = _("cannot write here: {why}").format(why=error.strerror or error)
    return BadInput("not_writable", what, str(error.filename or folder), _("write elsewhere with --out DIR"))


def check_free_space(folder: Path, needed: int) -> None:
    """`folder` 所在的磁盘放不下 `needed` 字节时抛出 `OutOfResources`。"""
    free = shutil.disk_usage(folder).free
    if free < needed:
        what = _("not enough disk space: need {need} MiB, have {have} MiB").format(need=needed >> 20, have=free >> 20)
        raise OutOfResources("disk_full", what, str(folder), _("free some space, or write elsewhere with --out DIR"))


def make_folder(folder: Path) -> None:
    """建立 `folder`（0700）；建不了时抛出 `BadInput`。"""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, folder) from error


def _write_tokens(file: BinaryIO, stream: TokenStream, vocab_size: int, split: str) -> int:
    """写完 `stream`，返回 token 数；越界的 id 在转成 uint16 之前就拒绝，否则会悄悄回绕成别的 token。"""
    count = 0
    for ids in [stream] if isinstance(stream, np.ndarray) else stream:
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
            worst = int(ids.max()) if int(ids.max()) >= vocab_size else int(ids.min())
            what = _("token id {id} is outside the vocabulary of {vocab_size}").format(id=worst, vocab_size=vocab_size)
            raise BadInput("id_out_of_range", what, _("{split}, after token {count}").format(split=split, count=count))
        file.write(np.ascontiguousarray(ids, dtype=TOKEN_TYPE).data)
        count += ids.size
    return count


def _sweep(folder: Path) -> None:
    """删去没有人占着的替身。锁随进程结束而释放，所以锁得上就说明写者已不在。"""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
