"""送往终端之前的最后一道：不论哪个部件画的，一个能驱动终端的字符也不放过去。

外来的文字在各处已经由 `nanogpt.text.visible` 写成看得见的样子；Textual 自己的输入框却照原样画出里面的字，
而粘贴与按键什么都可能带来。`WorkbenchApp` 把它装成行过滤器，每一行都经过。
"""

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from nanogpt.text import visible


class SafeLines(LineFilter):
    """控制字符与双向标记不占格，去掉不会错位；孤立代理占一格，换成问号。"""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002
        if all(segment.text.isprintable() for segment in segments):
            return segments
        return [Segment(_safe(text), style, control) for text, style, control in segments]


def _safe(text: str) -> str:
    # 绝大多数行是能显示的：`visible` 只为其余的逐字查
    if text.isprintable() or visible(text, keep="") == text:
        return text
    kept = "".join(char for char in text if "\ud800" <= char <= "\udfff" or visible(char, keep="") == char)
    return kept.encode("utf-8", "replace").decode("utf-8")
