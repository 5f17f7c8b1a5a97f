"""删掉一个运行目录：只在工作区里，只删没人占着的，从不顺着符号链接出去。应用在确认之后调用。"""

import fcntl
import os
import shutil
from pathlib import Path

from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.rundir import LOCK


def delete_run(workspace: Path, out_dir: Path) -> None:
    """不能删时抛出 `BadInput` 或 `OSError`。"""
    root = workspace.resolve()
    place = out_dir.parent.resolve() / out_dir.name
    if out_dir.is_symlink():
        raise BadInput("is_link", _("this run is a symbolic link"), str(out_dir), _("remove the link by hand"))
    is_listed = place.parent == root / "runs" or (place.parent == root and place.name.startswith("out"))
    if not (is_listed and place.is_dir()):
        raise BadInput("outside", _("only runs inside the workspace can be deleted"), str(out_dir),
                       _("remove it by hand"))
    lock = _take_lock(place)
    try:
        # `rmtree` 用目录描述符往下走，中途被换成链接也不会跟出去
        shutil.rmtree(place)
    finally:
        if lock >= 0:
            os.close(lock)


def _take_lock(place: Path) -> int:
    """占住锁再删，免得正有训练器要开始；没有锁文件则 -1。"""
    try:
        fd = os.open(place / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise BadInput("is_live", _("a trainer is using this run"), str(place), _("stop it first")) from error
    return fd
