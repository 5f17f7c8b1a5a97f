"""找到工作区里的运行：`runs/*` 与 `out*`，不论谁启动的。

`RunStore` 用它；只看目录里有没有约定的文件，不读内容。
"""

import os
from pathlib import Path

from nanogpt.rundir import CHECKPOINT, CONSOLE, EVENTS, RUN

_SIGNS = (EVENTS, RUN, CHECKPOINT, CONSOLE)


def find_runs(workspace: Path) -> list[Path]:
    """运行目录，新的在前；读不了的目录跳过。"""
    folders: list[tuple[float, Path]] = []
    for parent, prefix in ((workspace / "runs", ""), (workspace, "out")):
        try:
            entries = list(os.scandir(parent))
        except OSError:
            continue
        for entry in entries:
            if entry.name.startswith(prefix) and (found := _newest(Path(entry.path))) is not None:
                folders.append((found, Path(entry.path)))
    return [folder for _time, folder in sorted(folders, reverse=True)]


def _newest(folder: Path) -> float | None:
    """目录里约定文件最晚的修改时间；不是运行目录则 None。"""
    times = []
    for name in _SIGNS:
        try:
            times.append((folder / name).stat().st_mtime)
        except (OSError, ValueError):
            continue
    return max(times, default=None)
