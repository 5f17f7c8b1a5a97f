"""提示的编辑框：多行，第一行再往上是历史，词表之外的字符有记号。"""

from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from nanogpt.i18n import N_
from nanogpt.text import visible


class PromptEditor(TextArea):
    """`text` 是原文；控制字符只在画的时候换成一格的记号，光标的位置不变。"""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "earlier", N_("Earlier prompt"), show=False, id="editor.earlier",
                tooltip=N_("one line up; in the first line, the prompt before")),
        Binding("down", "later", N_("Later prompt"), show=False, id="editor.later",
                tooltip=N_("one line down; in the last line, the prompt after")),
    ]

    class Recalled(Message):
        """要前一条（-1）或后一条（1）提示。"""

        def __init__(self, step: int):
            super().__init__()
            self.step = step

    def __init__(self, text: str, *, id: str, placeholder: str):
        super().__init__(text, id=id, soft_wrap=True, compact=True, placeholder=placeholder, tab_behavior="focus")
        self._bad: set[tuple[int, int]] = set()

    def action_earlier(self) -> None:
        if self.cursor_at_first_line:
            self.post_message(self.Recalled(-1))
        else:
            self.action_cursor_up()

    def action_later(self) -> None:
        if self.cursor_at_last_line:
            self.post_message(self.Recalled(1))
        else:
            self.action_cursor_down()

    def put(self, text: str) -> None:
        """换成 `text`，光标在末尾；还能撤销。"""
        self.replace(text, (0, 0), self.document.end)
        self.move_cursor(self.document.end)

    def mark(self, places: list[int]) -> None:
        """给这些位置的字符做记号。"""
        text = self.text
        bad = {(text.count("\n", 0, place), place - text.rfind("\n", 0, place) - 1)
               for place in places if place < len(text)}
        if bad != self._bad:
            self._bad = bad
            self._line_cache.clear()
            self.refresh()

    def get_line(self, line_index: int) -> Text:
        line = super().get_line(line_index)
        plain = line.plain
        if not plain.isprintable():
            line = Text("".join(char if char == "\t" or visible(char, keep="") == char else "\N{REPLACEMENT CHARACTER}"
                                for char in plain), end="", no_wrap=True)
        for row, column in self._bad:
            if row == line_index:
                line.stylize("bold reverse red", column, column + 1)
        return line
