"""原子地写文件：别人看到的要么是旧的，要么是新的，断电与被杀都不例外。

检查点（`nanogpt.checkpoint`）、运行目录（`nanogpt.rundir`）与工作台的小文件都这样写；
数据集一次换掉几个文件，另见 `nanogpt.dataset_write`。
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEMP_SUFFIX = ".tmp"
# 写不下的几种说法：没有空间、超出配额、超出文件大小的上限
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def fsync_dir(folder: Path) -> None:
    """让刚改的目录项落盘：`rename` 之后必须有这一步，断电才不会退回去。"""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Any]:
    """写 `path` 的二进制文件对象：写临时文件、fsync、改名、fsync 目录；出错则什么也不留下。"""
    temp = path.with_name(f"{path.name}.{os.getpid()}{TEMP_SUFFIX}")
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with open(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.rename(temp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temp)
        raise
    fsync_dir(path.parent)


def write_atomic(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode("utf-8", "replace"))


def sweep_temp_files(folder: Path) -> None:
    """清掉上一次死在保存途中留下的临时文件；只在持锁时调用。"""
    for path in folder.glob(f"*{TEMP_SUFFIX}"):
        # 只认 `atomic_file` 起的名字，用户自己的 `.tmp` 不动
        if re.search(rf"\.\d+\{TEMP_SUFFIX}$", path.name):
            with contextlib.suppress(OSError):
                path.unlink()
