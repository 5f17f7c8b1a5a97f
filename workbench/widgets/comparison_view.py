"""并排的几栏：每个模型一栏，上面是名字与数字，下面是它写的文字。放得下几栏就几栏，其余的往旁边翻。

`CompareScreen` 使用。全部文字在这里净化。
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.strip import Strip

from nanogpt.i18n import _
from nanogpt.text import visible
from workbench.playground.requests import FAILED, WAITING
from workbench.terminal import cells, fit, is_ascii_only, pad
from workbench.widgets.lines import LineView, Piece, line_of
from workbench.widgets.segment_view import wrap_spans

if TYPE_CHECKING:
    from workbench.playground.comparison import Comparison, Entry

# 一栏至少这么宽
COLUMN_CELLS = 36
HEAD_LINES = 4
# 一栏里折行的至多这么多字符
SHOWN_CHARACTERS = 20_000


class ComparisonView(LineView, can_focus=True):
    """`cursor` 是选中的一栏；`top` 是各栏共同的滚动。"""

    DEFAULT_CSS = "ComparisonView { height: 1fr; width: 1fr; }"

    def __init__(self, *, id: str | None = None):
        super().__init__(id=id)
        self.found: Comparison | None = None
        self.cursor = self.left = self.top = 0
        self._wrapped: dict[tuple[int, int, int], list[str]] = {}

    def look(self, found: Comparison) -> None:
        self.found = found
        self.renew()

    def on_resize(self) -> None:
        self.renew()

    @property
    def columns(self) -> int:
        count = len(self.found.entries) if self.found else 1
        return max(1, min(count, self.size.width // COLUMN_CELLS))

    def renew(self) -> None:
        if self.found is None or self.size.width < 10 or self.size.height < 2:
            return
        count = self.columns
        self.left = max(0, min(self.left, self.cursor, len(self.found.entries) - count))
        self.left = max(self.left, self.cursor - count + 1)
        width = self.size.width // count - 1
        shown = range(self.left, min(len(self.found.entries), self.left + count))
        bodies = [self._body(index, width) for index in shown]
        room = max(1, self.size.height - HEAD_LINES)
        self.top = max(0, min(self.top, max(map(len, bodies), default=0) - room))
        heads = [self._head(index, width) for index in shown]
        bar = "|" if is_ascii_only() else "│"
        lines = [_joined([head[row] for head in heads], width, bar) for row in range(HEAD_LINES)]
        for row in range(self.top, self.top + room):
            lines.append(_joined([(body[row] if row < len(body) else "", "") for body in bodies], width, bar))
        self.show(lines)

    def _head(self, index: int, width: int) -> list[Piece]:
        assert self.found is not None
        entry = self.found.entries[index]
        is_here = index == self.cursor
        step = entry.iter if entry.iter is not None else entry.choice.iter
        name = entry.choice.name if step is None or "ckpt-" in entry.choice.name else f"{entry.choice.name} @{step:,}"
        loss = entry.val_loss if entry.val_loss is not None else entry.choice.val_loss
        figures = [] if loss is None else [f"val {loss:.4f}"]
        if entry.own is not None and entry.own.perplexity is not None:
            figures.append(_("ppl of text {n}").format(n=f"{entry.own.perplexity:.4g}"))
        second = [] if entry.prompt is None or entry.prompt.perplexity is None else [
            _("of prompt {n}").format(n=f"{entry.prompt.perplexity:.4g}")]
        if entry.generation is not None and entry.generation.tokens_per_second is not None:
            second.append(_("{n} tok/s").format(n=f"{entry.generation.tokens_per_second:,.0f}"))
        return [(pad(f" {index + 1} {name}", width), "bold reverse" if is_here else "bold"),
                ("  ".join(figures) or _state(entry), ""), ("  ".join(second), "dim"), ("", "")]

    def _body(self, index: int, width: int) -> list[str]:
        assert self.found is not None
        entry = self.found.entries[index]
        problem = entry.problem
        text = entry.text[:SHOWN_CHARACTERS] if problem is None else "\n".join(problem.lines())
        key = (index, width, len(text))
        if key not in self._wrapped:
            self._wrapped = {old: lines for old, lines in self._wrapped.items() if old[0] != index}
            shown = visible(text).expandtabs(4)
            self._wrapped[key] = [shown[start:end] for start, end in wrap_spans(shown, width)]
        return self._wrapped[key]

    def move(self, step: int) -> None:
        if self.found is not None:
            self.cursor = max(0, min(len(self.found.entries) - 1, self.cursor + step))
            self.renew()

    def scroll_rows(self, rows: int) -> None:
        self.top += rows
        self.renew()


def _joined(parts: list[Piece], width: int, bar: str) -> Strip:
    pieces: list[Piece] = []
    for number, (text, style) in enumerate(parts):
        if number:
            pieces.append((bar, "dim"))
        text = fit(text, width)
        pieces.append((text + " " * (width - cells(text)), style))
    return line_of(*pieces)


def _state(entry: Entry) -> str:
    if entry.generation is None:
        return _("waiting")
    if entry.generation.status == FAILED:
        return _("failed")
    return _("loading") if entry.generation.status == WAITING else _("writing")
