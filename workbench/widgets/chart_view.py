"""图：在线程里画成字符，只重画变了的格子；看不见时什么也不做。

数据来自 `WatchedRun`，画法在 `workbench.chart`。监视界面与列表的预览使用。
"""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.segment import Segment
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip

from workbench.terminal import has_color, is_ascii_only
from workbench.widgets.lines import LineView, style_of

if TYPE_CHECKING:
    from workbench.chart import Curve, View
    from workbench.watched_run import WatchedRun

# 新数据至多这么密地重画，并且画图至多占一个核的这么大一份；用户按键的立即画
DRAW_SECONDS, REMOTE_DRAW_SECONDS, DRAW_SHARE = 1.0, 2.0, 0.04
_COLOR = re.compile("\x1b\\[38;5;(\\d+)m|\x1b\\[0m")
# plotext 的画布是全局的：同时只能有一个人画
_PLOTEXT = threading.Lock()


class ChartView(LineView):
    """`look(runs, view)` 换内容，`data_changed()` 报告新数据；画好之后发 `Drawn`。"""

    class Drawn(Message):
        """新的一幅已经画好。"""

    def __init__(self, *, id: str | None = None):
        super().__init__(id=id)
        self.runs: list[WatchedRun] = []
        self.view: View | None = None
        self.curves: list[Curve] = []
        self.legend: list[tuple[str, int, str]] = []
        self.span = (0.0, 1.0)
        self.cursor: float | None = None
        self.draw_count = 0
        self._canvas = (0, 0)
        self._is_dirty = self._is_drawing = self._is_waiting = False
        self._last_draw, self._last_cost, self._is_partial = -1e9, 0.0, False

    # ---- 换内容 ----

    def look(self, runs: list[WatchedRun], view: View) -> None:
        if [run.out_dir for run in runs] != [run.out_dir for run in self.runs] or view.x_axis != self._x_axis:
            self.cursor = None
        self.runs, self.view = runs, view
        self._is_dirty = True
        self._draw_soon(0.0)

    def data_changed(self) -> None:
        self._is_dirty = True
        period = REMOTE_DRAW_SECONDS if getattr(self.app, "is_remote", False) else DRAW_SECONDS
        wait_seconds = self._last_draw + max(period, self._last_cost / DRAW_SHARE) - time.monotonic()
        # 长日志刚读完：补上完整的一幅，不等
        is_now_whole = self._is_partial and not is_partial(self.runs)
        self._draw_soon(0.0 if is_now_whole else max(0.0, wait_seconds))

    def on_resize(self) -> None:
        self._is_dirty = True
        self._draw_soon(0.0)

    def on_show(self) -> None:
        self._draw_soon(0.0)

    @property
    def _x_axis(self) -> str:
        return self.view.x_axis if self.view else "iter"

    # ---- 画 ----

    def _draw_soon(self, wait_seconds: float) -> None:
        if self._is_drawing or not self.is_mounted:
            return
        if wait_seconds <= 0:
            self._is_drawing = True
            self.run_worker(self._draw_all(), exclusive=False, group="chart")
        elif not self._is_waiting:
            self._is_waiting = True
            self.set_timer(wait_seconds, self._stop_waiting)

    def _stop_waiting(self) -> None:
        self._is_waiting = False
        self._draw_soon(0.0)

    async def _draw_all(self) -> None:
        """画到没有新的要求为止。"""
        try:
            while self._is_dirty and self.view is not None and self._is_seen():
                self._is_dirty = False
                width, height = self.size
                self._is_partial = is_partial(self.runs)
                drawing = await asyncio.to_thread(build, list(self.runs), self.view, width, height)
                self._last_draw, self._last_cost = time.monotonic(), drawing.cpu_seconds
                self.curves, self.legend, self.span = drawing.curves, drawing.legend, drawing.span
                self._put(drawing.text)
        finally:
            self._is_drawing = False

    def _is_seen(self) -> bool:
        return self.is_on_screen and self.screen.is_active and self.size.width > 20 and self.size.height > 4

    def _put(self, text: str) -> None:
        self.draw_count += 1
        rows = text.split("\n") if text else []
        self.show([_strip_of(row) for row in rows])
        frame = self.lines[0].text if self.lines else ""
        corners = [index for index, char in enumerate(frame) if char in "┌┐+"]
        self._canvas = (corners[0] + 1, corners[-1]) if len(corners) > 1 else (0, 0)
        self.post_message(self.Drawn())

    # ---- 光标、缩放 ----

    def full_span(self) -> tuple[float, float]:
        from workbench.chart import span_of

        return span_of(self.curves) or (0.0, 1.0)

    def move_cursor(self, columns: int) -> None:
        """光标左右移动若干列；没有光标时从最右端的数据开始。"""
        left, right = self._canvas
        if right - left < 2:
            return
        before = self._cursor_column()
        if self.cursor is None or before is None:
            self.cursor = min(self.span[1], self.full_span()[1])
            if columns > 0:
                self.cursor = self.span[0]
        else:
            step = (self.span[1] - self.span[0]) / (right - left - 1)
            self.cursor = max(self.span[0], min(self.span[1], self.cursor + columns * step))
        for column in {before, self._cursor_column()} - {None}:
            self.refresh(Region(column or 0, 0, 1, self.size.height))

    def put_cursor(self, x: float) -> None:
        """光标放到横坐标 `x`；在缩放的那一段之外时看不见。"""
        before, self.cursor = self._cursor_column(), x
        for column in {before, self._cursor_column()} - {None}:
            self.refresh(Region(column or 0, 0, 1, self.size.height))

    def drop_cursor(self) -> None:
        self.cursor = None
        self.refresh()

    def zoomed(self, factor: float) -> tuple[float, float] | None:
        """以光标（没有则中间）为中心缩放之后的一段；全部时为 None。"""
        low, high = self.full_span()
        left, right = self.view.span if self.view and self.view.span else (low, high)
        center = self.cursor if self.cursor is not None else (left + right) / 2
        half = (right - left) * factor / 2
        left, right = max(low, center - half), min(high, center + half)
        if factor > 1 and right - left >= (high - low) * 0.999:
            return None
        return (left, right) if right - left > 1e-9 else self.view.span if self.view else None

    def panned(self, share: float) -> tuple[float, float] | None:
        if self.view is None or self.view.span is None:
            return None
        low, high = self.full_span()
        left, right = self.view.span
        move = max(low - left, min(high - right, share * (right - left)))
        return left + move, right + move

    def readout(self) -> list[tuple[str, float, float]]:
        """光标处各条线的（图例, 横坐标, 值）。"""
        from workbench.chart import values_at

        return [] if self.cursor is None else values_at(self.curves, self.cursor)

    def _cursor_column(self) -> int | None:
        left, right = self._canvas
        if self.cursor is None or right - left < 2 or not self.span[0] <= self.cursor <= self.span[1]:
            return None
        share = (self.cursor - self.span[0]) / max(1e-12, self.span[1] - self.span[0])
        return left + round(share * (right - left - 1))

    def render_line(self, y: int) -> Strip:
        strip = super().render_line(y)
        column = self._cursor_column()
        if column is None or not 0 < y < len(self.lines) - 2:
            return strip
        under = strip.crop(column, column + 1)
        blank = "|" if is_ascii_only() else "│"
        char = under.text if under.text.strip() else blank
        mark = Strip([Segment(char, self.rich_style + style_of("bold reverse" if char != blank else "bold"))], 1)
        return Strip.join([strip.crop(0, column), mark, strip.crop(column + 1, self.size.width)])


@dataclass(frozen=True)
class Drawing:
    """画好的一幅：各条线、图例、横轴两端、字符，以及画它花掉的 CPU 秒数。"""

    curves: list[Curve]
    legend: list[tuple[str, int, str]]
    span: tuple[float, float]
    text: str
    cpu_seconds: float


def build(runs: list[WatchedRun], view: View, width: int, height: int) -> Drawing:
    """取数、平滑、缩减、画成字符；在线程里跑。"""
    from workbench.chart import curves_of, draw_curves, legend_of, span_of

    began = time.thread_time()
    curves = curves_of(runs, view)
    is_live = any(not run.has_ended for run in runs)
    ends = span_of(curves) or (0.0, 1.0)
    most = max((run.state.max_iters or 0 for run in runs), default=0) if view.x_axis == "iter" else 0
    span = view.span or (ends[0], stepped(*ends, most) if is_live else max(ends[1], ends[0] + 1e-9))
    with _PLOTEXT:
        text = draw_curves(curves, replace(view, span=span), width, height, has_color=has_color(),
                           is_ascii=is_ascii_only(), is_steady=True)
    return Drawing(curves, legend_of(curves), span, text, time.thread_time() - began)


def is_partial(runs: list[WatchedRun]) -> bool:
    """有的日志还没读到末尾。"""
    return any(run.follower.is_behind for run in runs)


def stepped(low: float, high: float, most: float = 0.0) -> float:
    """右端向外放到整齐的数，一步一步地长；不超过 `most`（0 为不限）。"""
    if not high > low:
        return low + 1.0
    step = 10.0 ** math.floor(math.log10(high - low)) / 5
    right = math.ceil((high - low) / step - 1e-9) * step + low
    return min(right, most) if most >= high else right


def _strip_of(row: str) -> Strip:
    """plotext 的一行（只有 256 色的前景色）变成 `Strip`。"""
    segments, place, style, length = [], 0, "", 0
    for found in _COLOR.finditer(row):
        if found.start() > place:
            segments.append(Segment(row[place:found.start()], style_of(style)))
            length += found.start() - place
        place, style = found.end(), f"color({found[1]})" if found[1] else ""
    if place < len(row):
        segments.append(Segment(row[place:], style_of(style)))
        length += len(row) - place
    return Strip(segments, length)
