"""做之前问一声。默认不做：`y` 才做，别的键都不做。"""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.messages import LanguageChanged
from workbench.terminal import wrap
from workbench.widgets.lines import LineView, Piece, line_of


class ConfirmScreen(ModalScreen[bool]):
    """`question` 与 `detail` 可以含外来的名字。"""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", N_("yes"), id="confirm.yes", tooltip=N_("do it")),
        Binding("n,escape,q", "answer(False)", N_("no"), id="confirm.no", tooltip=N_("do nothing")),
        Binding("left,h,right,l,tab", "move", N_("choose"), show=False, id="confirm.move",
                tooltip=N_("move between yes and no")),
        Binding("enter", "take", N_("take the marked answer"), show=False, id="confirm.take",
                tooltip=N_("take the marked answer")),
    ]

    def __init__(self, question: str, detail: str):
        super().__init__()
        self.question, self.detail = visible(question, keep=""), visible(detail, keep="")
        self.is_yes = False

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield LineView(id="question")

    def on_mount(self) -> None:
        self._renew()

    @on(LanguageChanged)
    def _renew(self) -> None:
        marked, other = "bold reverse", ""
        answers: list[Piece] = [(f" y {_('yes')} ", marked if self.is_yes else other), ("   ", ""),
                                (f" n {_('no')} ", other if self.is_yes else marked)]
        width = max(20, min(62, int(self.app.size.width * 0.9) - 6))
        lines = [line_of((text, "bold")) for text in wrap(self.question, width)]
        lines += [line_of(text) for text in wrap(self.detail, width)]
        self.query_one("#question", LineView).show([*lines, line_of(""), line_of(*answers)])

    def action_answer(self, is_yes: bool) -> None:
        self.dismiss(is_yes)

    def action_move(self) -> None:
        self.is_yes = not self.is_yes
        self._renew()

    def action_take(self) -> None:
        self.dismiss(self.is_yes)
