"""由带样式的段拼成的长文字：边长边折，只折最后一行；往上滚就停住。

`TranscriptView` 与 `TokenView` 基于它。给进来的文字要已经净化。
"""

from __future__ import annotations

import bisect

from textual.strip import Strip

from workbench.terminal import cells, char_cells
from workbench.widgets.lines import LineView, Piece, line_of

# （文字, 样式, 属于谁：一轮或一个 token 的编号）
Segment = tuple[str, str, int]


def wrap_spans(text: str, width: int, start: int = 0) -> list[tuple[int, int]]:
    """从 `start` 起按格折行，给出各行的起止；尽量在空格后断。后面再添字，只有最后一行会变。"""
    spans: list[tuple[int, int]] = []
    size = len(text)
    while True:
        newline = text.find("\n", start)
        end = size if newline < 0 else newline
        while (cut := _fitting(text, start, end, width)) < end:
            space = text.rfind(" ", start, cut)
            cut = space + 1 if space > start + (cut - start) // 2 else cut
            spans.append((start, cut))
            start = cut
        spans.append((start, end))
        if newline < 0:
            return spans
        start = newline + 1


def _fitting(text: str, start: int, end: int, width: int) -> int:
    """从 `start` 起放得下的一段的末尾；至少一个字。"""
    part = text[start:min(end, start + width)]
    if part.isascii():
        return start + len(part)
    used = 0
    for place in range(start, end):
        char = text[place]
        used += 1 if char.isascii() else 0 if not cells(char) else char_cells(char)
        if used > width:
            return max(place, start + 1)
    return end


class SegmentView(LineView, can_focus=True):
    """`put(segments)` 换内容；`mark(owner)` 由子类决定光标怎样画。"""

    DEFAULT_CSS = "SegmentView { height: 1fr; width: 1fr; }"
    MARGIN = 0

    def __init__(self, *, id: str | None = None):
        super().__init__(id=id)
        self.cursor: int | None = None
        self.top = 0
        self.is_following = True
        self.text = ""
        self.segments: list[Segment] = []
        self._starts: list[int] = []
        self.spans: list[tuple[int, int]] = []
        self._width = 0

    # ---- 内容 ----

    def put(self, segments: list[Segment]) -> None:
        self.segments = [segment for segment in segments if segment[0]]
        self._starts, size = [], 0
        for text, _style, _owner in self.segments:
            self._starts.append(size)
            size += len(text)
        before, self.text = self.text, "".join(text for text, _style, _owner in self.segments)
        self._wrap(before)
        self.renew()

    def _wrap(self, before: str) -> None:
        width = max(4, self.size.width - self.MARGIN)
        if width == self._width and self.spans and self.text.startswith(before):
            start, _end = self.spans.pop()
            self.spans += wrap_spans(self.text, width, start)
        else:
            self._width, self.spans = width, wrap_spans(self.text, width)

    def on_resize(self) -> None:
        self._wrap("\0")
        self.renew()

    # ---- 画 ----

    @property
    def page(self) -> int:
        """一屏放得下几行文字。"""
        return max(1, self.size.height)

    def renew(self) -> None:
        if self.size.height < 1 or self.size.width < 4:
            return
        most = max(0, len(self.spans) - self.page)
        self.top = most if self.is_following else max(0, min(self.top, most))
        self.show([line for span in self.spans[self.top:self.top + self.page] for line in self.rows_of(*span)])

    def rows_of(self, start: int, end: int) -> list[Strip]:
        """一行文字画成的行。"""
        return [line_of(*self.pieces(start, end), width=self.size.width)]

    def pieces(self, start: int, end: int) -> list[Piece]:
        return [(text, style) for text, style, _owner in self.owned(start, end)]

    def owned(self, start: int, end: int) -> list[Segment]:
        """`start` 到 `end` 之间的各段。"""
        at = max(0, bisect.bisect_right(self._starts, start) - 1)
        found: list[Segment] = []
        while at < len(self.segments) and self._starts[at] < max(end, start + 1):
            text, style, owner = self.segments[at]
            begin = self._starts[at]
            found.append((text[max(0, start - begin):max(0, end - begin)], style, owner))
            at += 1
        return found

    def on_focus(self) -> None:
        self.renew()

    def on_blur(self) -> None:
        self.renew()

    # ---- 移动 ----

    def owners(self) -> list[int]:
        return list(dict.fromkeys(owner for _text, _style, owner in self.segments))

    def row_of(self, owner: int) -> int:
        """`owner` 的第一个字在第几行。"""
        first = next((start for start, segment in zip(self._starts, self.segments, strict=True)
                      if segment[2] == owner), 0)
        return max(0, bisect.bisect_right(self.spans, (first, 10**12)) - 1)

    def show_row(self, row: int) -> None:
        """滚到看得见那一行。"""
        if not self.top <= row < self.top + self.page:
            self.is_following = False
            self.top = row if row < self.top else row - self.page + 1
        self.renew()

    def scroll_rows(self, rows: int) -> None:
        most = max(0, len(self.spans) - self.page)
        self.top = max(0, min(most, self.top + rows))
        self.is_following = self.top >= most
        self.renew()
