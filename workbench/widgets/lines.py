"""一块由整行组成的区域：只重画变了的格子，所以每秒更新也只送出几百字节。

状态块、日志、运行表与图都基于它。文字以 `Segment` 给出，从不当作标记解析。
"""

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from nanogpt.errors import BadInput
from nanogpt.text import visible
from workbench.terminal import cells, fit, wrap

Piece = tuple[str, str]
_STYLES: dict[str, Style] = {}


def style_of(name: str) -> Style:
    """`bold red`、`color(33)` 一类写法的样式；同一写法只解析一次。"""
    if (found := _STYLES.get(name)) is None:
        found = _STYLES[name] = Style.parse(name) if name else Style()
    return found


def line_of(*pieces: Piece | str, width: int = 10_000) -> Strip:
    """一行：各段文字与样式，截到 `width` 格。"""
    segments, used = [], 0
    for piece in pieces:
        text, style = (piece, "") if isinstance(piece, str) else piece
        text = fit(text.expandtabs(4), width - used)
        if text:
            segments.append(Segment(text, style_of(style)))
            used += cells(text)
    return Strip(segments, used)


def error_lines(error: BadInput, width: int) -> list[Strip]:
    """一个错误的几行：净化过，折到 `width` 格。"""
    return [line_of((part, "bold red")) for line in visible(str(error)).split("\n") for part in wrap(line, width)]


class LineView(Widget):
    """`show(lines)` 换内容；只有变了的行被重画。"""

    ALLOW_SELECT = False
    DEFAULT_CSS = "LineView { height: auto; width: 1fr; }"

    def __init__(self, *, id: str | None = None, classes: str | None = None):
        super().__init__(id=id, classes=classes)
        self.lines: list[Strip] = []

    def show(self, lines: list[Strip]) -> None:
        before, self.lines = self.lines, lines
        if self.styles.height is not None and self.styles.height.is_auto and len(before) != len(lines):
            self.refresh(layout=True)
            return
        for y in range(max(len(before), len(lines))):
            old, new = before[y:y + 1], lines[y:y + 1]
            if old != new:
                self.refresh(self._changed_region(y, old[0] if old else None, new[0] if new else None))

    def _changed_region(self, y: int, old: Strip | None, new: Strip | None) -> Region:
        """一行里从第一个到最后一个变了的格子；宽字符多的行就整行。"""
        width = self.size.width
        if old is None or new is None:
            return Region(0, y, width, 1)
        before, after = _flat(old), _flat(new)
        if before is None or after is None:
            return Region(0, y, width, 1)
        size = max(len(before), len(after))
        before += [(" ", None)] * (size - len(before))
        after += [(" ", None)] * (size - len(after))
        changed = [x for x in range(size) if before[x] != after[x]]
        if not changed:
            return Region(0, y, 1, 1)
        return Region(changed[0], y, changed[-1] - changed[0] + 1, 1)

    def get_content_height(self, _container: Size, _viewport: Size, _width: int) -> int:
        return len(self.lines)

    def render_line(self, y: int) -> Strip:
        style = self.rich_style
        if y >= len(self.lines):
            return Strip.blank(self.size.width, style)
        return self.lines[y].apply_style(style).adjust_cell_length(self.size.width, style)


def _flat(strip: Strip) -> list[tuple[str, Style | None]] | None:
    """逐格的（字符, 样式）；有宽字符时为 None。"""
    flat: list[tuple[str, Style | None]] = []
    for text, style, _control in strip:
        if not text.isascii() and cells(text) != len(text):
            return None
        flat.extend((char, style) for char in text)
    return flat
