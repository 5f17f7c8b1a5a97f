"""问一行字：存成什么名字，哪个文件。空着回车也是回答；Esc 放弃。"""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.messages import LanguageChanged
from workbench.terminal import wrap
from workbench.widgets.lines import LineView, line_of


class AskScreen(ModalScreen["str | None"]):
    """`question` 与 `detail` 是 msgid。"""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "give_up", N_("cancel"), id="ask.cancel", tooltip=N_("leave it"))]

    def __init__(self, question: str, detail: str = "", value: str = ""):
        super().__init__()
        self.question, self.detail, self.value = question, detail, value

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield LineView(id="head")
            yield Input(visible(self.value, keep=""), id="answer", compact=True)

    def on_mount(self) -> None:
        self.renew()
        self.query_one(Input).focus()

    @on(LanguageChanged)
    def renew(self) -> None:
        width = max(20, min(62, int(self.app.size.width * 0.9) - 6))
        lines = [line_of((text, "bold")) for text in wrap(_(self.question), width)]
        lines += [line_of((text, "dim")) for text in wrap(_(self.detail), width) if self.detail]
        self.query_one("#head", LineView).show(lines)

    @on(Input.Submitted)
    def answer(self, event: Input.Submitted) -> None:
        event.stop()
        self.dismiss(event.value)

    def action_give_up(self) -> None:
        self.dismiss(None)
