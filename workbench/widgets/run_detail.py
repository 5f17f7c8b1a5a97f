"""列表下面的几行：光标下那个运行的状态、备注、叫停的进展与结局。运行列表使用。"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.strip import Strip

from nanogpt.i18n import _
from workbench.outcome import explain
from workbench.plot import status_lines
from workbench.screens.note import read_note
from workbench.terminal import is_ascii_only, wrap
from workbench.widgets.lines import line_of

if TYPE_CHECKING:
    from workbench.watched_run import WatchedRun

MOST_LINES = 8


def detail_lines(run: WatchedRun, width: int, stop_note: str) -> list[Strip]:
    """至多 `MOST_LINES` 行；`stop_note` 待译，没有在叫停则空。"""
    lines = [line_of((("-" if is_ascii_only() else "─") * width, "dim"))]
    lines += [line_of(text, width=width) for text in status_lines(run)[1:5]]
    if note := read_note(run.out_dir):
        lines.append(line_of((_("note: {text}").format(text=note), "cyan"), width=width))
    if stop_note:
        lines.append(line_of((_(stop_note), "bold yellow"), width=width))
    lines += [line_of((part, style), width=width) for text, style in explain(run, 2)
              for part in wrap(text, width)[:2]]
    return lines[:MOST_LINES]
