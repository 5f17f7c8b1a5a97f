"""一段文字的各个 token，按模型给它的概率着色；没有颜色时，每行下面用 0–9 写出概率的十分位。

`InspectScreen` 使用。全部文字在这里净化。
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.strip import Strip

from nanogpt.text import visible
from workbench.terminal import cells, is_ascii_only
from workbench.widgets.lines import Piece, line_of
from workbench.widgets.segment_view import Segment, SegmentView

if TYPE_CHECKING:
    from workbench.playground.requests import Token

# （概率至少, 样式）
SHADES = ((0.8, "color(40)"), (0.5, "color(148)"), (0.2, "color(220)"), (0.05, "color(208)"), (0.0, "color(196)"))
UNLIKELY = 0.05


def probability(logprob: float | None) -> float | None:
    return None if logprob is None else min(1.0, math.exp(min(0.0, logprob)))


def shade(chance: float | None) -> str:
    return "dim" if chance is None else next(style for least, style in SHADES if chance >= least)


def digit(chance: float | None) -> str:
    """`.` 是没有算的。"""
    return "." if chance is None else str(min(9, int(chance * 10)))


def shown_token(text: str) -> str:
    """一个 token 在文中的样子：换行写出记号再换行。"""
    sign = "\\n" if is_ascii_only() else "↵"
    return visible(text, keep="\n").replace("\n", sign + "\n") or "·"


class TokenView(SegmentView):
    """`cursor` 是选中的 token 的编号。"""

    def __init__(self, *, id: str | None = None):
        super().__init__(id=id)
        self.tokens: Sequence[Token] = ()
        self.has_digits = False
        self.is_following = False

    def look(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        if self.cursor is None and tokens:
            self.cursor = 0
        segments: list[Segment] = [(shown_token(token.text), shade(probability(token.logprob)), index)
                                   for index, token in enumerate(tokens)]
        self.put(segments)

    @property
    def page(self) -> int:
        return max(1, self.size.height // (2 if self.has_digits else 1))

    def rows_of(self, start: int, end: int) -> list[Strip]:
        pieces: list[Piece] = []
        digits: list[Piece] = []
        for text, style, index in self.owned(start, end):
            text = text.removesuffix("\n")
            is_here = index == self.cursor
            pieces.append((text, f"reverse {style}" if is_here else style))
            mark = digit(probability(self.tokens[index].logprob))
            digits.append((mark.ljust(cells(text))[:cells(text)], "bold" if is_here else "dim"))
        lines = [line_of(*pieces, width=self.size.width)]
        return [*lines, line_of(*digits, width=self.size.width)] if self.has_digits else lines

    def toggle_digits(self) -> None:
        self.has_digits = not self.has_digits
        self.renew()

    # ---- 移动 ----

    def go(self, index: int) -> None:
        if self.tokens:
            self.cursor = max(0, min(len(self.tokens) - 1, index))
            self.show_row(self.row_of(self.cursor))

    def move(self, step: int) -> None:
        self.go((self.cursor or 0) + step)

    def move_row(self, step: int) -> None:
        """上下一行，左右的位置大致不变。"""
        if self.cursor is None or not self.spans:
            return
        row = self.row_of(self.cursor)
        here = self.owned(*self.spans[row])
        before = 0
        for text, _style, index in here:
            if index == self.cursor:
                break
            before += cells(text)
        target = self.owned(*self.spans[max(0, min(len(self.spans) - 1, row + step))])
        at = 0
        for text, _style, index in target:
            chosen = index
            at += cells(text)
            if at > before:
                break
        if target:
            self.go(chosen)

    def next_unlikely(self, step: int) -> bool:
        """下一个（上一个）概率低的；没有就不动。"""
        order = range((self.cursor or 0) + step, len(self.tokens) if step > 0 else -1, step)
        for index in order:
            chance = probability(self.tokens[index].logprob)
            if chance is not None and chance < UNLIKELY:
                self.go(index)
                return True
        return False
