"""运行的表：一行一个，宽度随终端取舍列；每次更新只重画变了的格子。"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from textual import events
from textual.message import Message
from textual.strip import Strip

from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.plot import duration, figure
from workbench.screens.note import read_note
from workbench.terminal import cells, is_ascii_only, pad
from workbench.watched_run import STATUS_WORDS
from workbench.widgets.lines import LineView, Piece, line_of

if TYPE_CHECKING:
    from workbench.watched_run import WatchedRun

STATUS_STYLES = {"starting": "cyan", "running": "bold green", "stalled": "bold yellow", "finished": "green",
                 "stopped": "yellow", "diverged": "bold red", "failed": "bold red", "interrupted": "red"}
SPARKS, ASCII_SPARKS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
SPARK_CELLS, SPARK_POINTS = 16, 4096
NAME_CELLS = 16


@dataclass(frozen=True)
class Column:
    """一列：表头、宽度、文字；`rank` 小的先被舍弃。"""

    title: str
    width: int
    text: Callable[[WatchedRun], str]
    is_right: bool
    rank: int


def _progress(run: WatchedRun) -> str:
    return "" if run.state.progress is None else f"{run.state.progress:.0%}"


def _age(run: WatchedRun) -> str:
    """最近一次动静距今；还在跑的不写，免得每秒都变。"""
    seconds = run.state.age_seconds(time.time())
    if seconds is None or not run.has_ended:
        return ""
    for size, unit in ((86400, _("d")), (3600, _("h")), (60, _("m"))):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return _("now")


def _eta(run: WatchedRun) -> str:
    return "" if run.has_ended or run.state.eta_seconds is None else duration(run.state.eta_seconds)


def _speed(run: WatchedRun) -> str:
    from workbench.series import short_number

    value = run.state.latest("tokens_per_second")
    return short_number(float(f"{value:.3g}")) if value == value else ""


def _params(run: WatchedRun) -> str:
    from workbench.series import short_number

    return "" if run.state.params is None else short_number(float(f"{run.state.params:.3g}"))


def _number(value: float) -> str:
    return figure(value) if value == value else ""


def sparkline(run: WatchedRun, width: int = SPARK_CELLS) -> str:
    """损失的走势，每格取平均；很长的只隔着取几千点，隔多少是二的幂，免得一变长就全变。"""
    step = 1 << max(0, (run.state.iter_count // SPARK_POINTS).bit_length() - 1)
    values = run.state.column("loss", step)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return ""
    means = [float(part.mean()) for part in np.array_split(values, min(width, len(values)))]
    low, high = min(means), max(means)
    chars = ASCII_SPARKS if is_ascii_only() else SPARKS
    return "".join(chars[int((value - low) / (high - low) * 7.999) if high > low else 0] for value in means)


COLUMNS = (
    Column(N_("status"), 11, lambda run: _(STATUS_WORDS[run.status]), False, 100),
    Column(N_("done"), 5, _progress, True, 90),
    Column(N_("loss"), 8, lambda run: _number(run.state.latest("loss")), True, 80),
    Column(N_("best val"), 8, lambda run: _number(run.state.best_val_loss), True, 70),
    Column(N_("tok/s"), 6, _speed, True, 50),
    Column(N_("ETA"), 8, _eta, True, 60),
    Column(N_("age"), 4, _age, True, 40),
    Column(N_("loss curve"), SPARK_CELLS, sparkline, False, 20),
    Column(N_("params"), 7, _params, True, 15),
    Column(N_("dataset"), 16, lambda run: visible(str(run.state.config.get("dataset", "")), keep=""), False, 12),
    Column(N_("note"), 24, lambda run: read_note(run.out_dir), False, 10),
)


class RunTable(LineView):
    """`fill(runs, ...)` 给出要列的运行；光标与标记按目录记，排序变了也跟着走。"""

    class Opened(Message):
        """鼠标点了已在光标下的一行。"""

    class Moved(Message):
        """光标换了行。"""

    def __init__(self, *, id: str | None = None):
        super().__init__(id=id)
        self.runs: list[WatchedRun] = []
        self.marked: set[Path] = set()
        self.stopping: set[Path] = set()
        self.cursor = 0
        self.top = 0

    @property
    def current(self) -> WatchedRun | None:
        return self.runs[self.cursor] if self.cursor < len(self.runs) else None

    def fill(self, runs: list[WatchedRun], stopping: set[Path]) -> None:
        here = self.current.out_dir if self.current else None
        self.runs, self.stopping = runs, stopping
        places = [index for index, run in enumerate(runs) if run.out_dir == here]
        self.cursor = places[0] if places else max(0, min(self.cursor, len(runs) - 1))
        self.renew()

    def on_resize(self) -> None:
        self.renew()

    def move(self, rows: int) -> None:
        self.cursor = max(0, min(len(self.runs) - 1, self.cursor + rows))
        self.renew()
        self.post_message(self.Moved())

    def toggle_mark(self) -> None:
        if self.current is not None:
            self.marked ^= {self.current.out_dir}
            self.move(1)

    def renew(self) -> None:
        width, height = self.size
        if width < 20 or height < 2:
            return
        columns, name_width = self._columns(width)
        rows = height - 1
        self.top = max(0, min(self.top, self.cursor, len(self.runs) - rows), self.cursor - rows + 1)
        titles = "".join(" " + pad(_(column.title), column.width, right=column.is_right) for column in columns)
        lines = [line_of(("  " + pad(_("run"), name_width) + titles, "bold underline"), width=width)]
        for index, run in enumerate(self.runs[self.top:self.top + rows], self.top):
            lines.append(self._row(run, columns, name_width, index == self.cursor))
        self.show(lines)

    def _columns(self, width: int) -> tuple[list[Column], int]:
        """放得下的列；名字得到剩下的宽度。"""
        wanted = min(36, max([NAME_CELLS, *(cells(run.name) for run in self.runs)]))
        columns = list(COLUMNS)
        while len(columns) > 2 and 2 + wanted + sum(column.width + 1 for column in columns) > width:
            columns.remove(min(columns, key=lambda column: column.rank))
        return columns, max(8, min(60, width - 2 - sum(column.width + 1 for column in columns)))

    def _row(self, run: WatchedRun, columns: list[Column], name_width: int, is_current: bool) -> Strip:
        mark = "*" if run.out_dir in self.marked else ">" if is_current else " "
        pieces: list[Piece] = [(f"{mark} ", "bold"), (pad(run.name, name_width), "bold" if is_current else "")]
        for column in columns:
            text = pad(column.text(run), column.width, right=column.is_right)
            style = STATUS_STYLES[run.status] if column.rank == 100 else ""
            if column.rank == 100 and run.out_dir in self.stopping:
                text, style = pad(_("stopping"), column.width), "bold yellow"
            pieces += [(" ", ""), (text, style)]
        if is_current:
            pieces = [(text, f"{style} reverse".strip()) for text, style in pieces]
        return line_of(*pieces, width=self.size.width)

    def on_click(self, event: events.Click) -> None:
        row = self.top + event.y - 1
        if not 0 <= row < len(self.runs) or event.y == 0:
            return
        if row == self.cursor and event.chain > 1:
            self.post_message(self.Opened())
        else:
            self.move(row - self.cursor)

    def on_mouse_scroll_down(self) -> None:
        self.move(1)

    def on_mouse_scroll_up(self) -> None:
        self.move(-1)
