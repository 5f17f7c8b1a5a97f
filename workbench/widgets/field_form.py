"""几行「标签 + 框」的表单：打字的与选一个的，此刻用不上的不出现。`OwnTextScreen` 使用。"""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input

from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.own_text import FIELDS, Field, OwnText
from workbench.terminal import cells
from workbench.widgets.lines import LineView, Piece, line_of

LABEL_CELLS = 11


class Choice(LineView, can_focus=True):
    """从 `field.choices` 里选一个；放得下就全写出来，否则只写选中的。"""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l,space", "step(1)", N_("next value"), show=False, id="choice.next",
                tooltip=N_("the next of the few values")),
        Binding("left,h", "step(-1)", N_("value before"), show=False, id="choice.before",
                tooltip=N_("the value before")),
    ]

    class Changed(Message):
        def __init__(self, key: str, value: str):
            super().__init__()
            self.key, self.value = key, value

    def __init__(self, field: Field, value: str):
        super().__init__(id=f"field-{field.key}")
        self.field, self.value = field, value

    def on_resize(self) -> None:
        self.renew()

    def on_focus(self) -> None:
        self.renew()

    def on_blur(self) -> None:
        self.renew()

    def renew(self) -> None:
        here = "reverse" if self.has_focus else "bold"
        pieces: list[Piece] = [(f" {choice} ", here if choice == self.value else "dim") for choice in
                               self.field.choices]
        if sum(cells(text) for text, _style in pieces) > self.size.width:
            pieces = [("< ", "dim"), (f" {self.value} ", here), (" >", "dim")]
        self.show([line_of(*pieces, width=max(1, self.size.width))])

    def action_step(self, step: int) -> None:
        choices = self.field.choices
        self.value = choices[(choices.index(self.value) + step) % len(choices)]
        self.renew()
        self.post_message(self.Changed(self.field.key, self.value))


class FieldRow(Horizontal):
    """一项：左边是标签，右边是框。"""

    DEFAULT_CSS = """
    FieldRow { height: 1; }
    FieldRow > .label { width: 11; height: 1; }
    FieldRow Input, FieldRow Input:focus { width: 1fr; height: 1; border: none; padding: 0; background: $surface; }
    FieldRow Input:focus { background: $panel; }
    """

    def __init__(self, field: Field, box: Widget):
        super().__init__(id=f"row-{field.key}")
        self.field, self.box = field, box

    def compose(self) -> ComposeResult:
        yield LineView(classes="label")
        yield self.box

    def renew(self) -> None:
        style = "bold" if self.box.has_focus else "dim"
        self.query_one(".label", LineView).show([line_of((_(self.field.title), style), width=LABEL_CELLS - 1)])
        if isinstance(self.box, Choice):
            self.box.renew()


class FieldForm(Vertical):
    """路径以外的各项。"""

    DEFAULT_CSS = "FieldForm { height: auto; }"

    def __init__(self, own: OwnText):
        super().__init__()
        self.own = own

    def compose(self) -> ComposeResult:
        for field in FIELDS[1:]:
            value = self.own.values[field.key]
            box: Widget = Choice(field, value) if field.choices else Input(
                value, id=f"field-{field.key}", compact=True, select_on_focus=False)
            yield FieldRow(field, box)

    def renew(self, proposed: str) -> None:
        """`proposed` 是没有填名字时用的。"""
        blanks = {"name": visible(proposed, keep=""), "encoding": _("detected"), "column": "text",
                  "separator": _("none")}
        for row in self.query(FieldRow):
            row.display = self.own.is_shown(row.field.key)
            if isinstance(row.box, Input) and row.field.key in blanks:
                row.box.placeholder = blanks[row.field.key]
            row.renew()
