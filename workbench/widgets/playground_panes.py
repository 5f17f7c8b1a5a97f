"""采样界面的两块：参数的表单，与写出来的文字。它们只多了各自的键，做事的是所在的屏。"""

from typing import ClassVar

from textual.binding import Binding, BindingType

from nanogpt.i18n import N_
from workbench.widgets.option_form import OptionForm
from workbench.widgets.transcript_view import TranscriptView


class ControlPane(OptionForm):
    """参数的表单；几组现成的与自己的。"""

    DEFAULT_CSS = "ControlPane { height: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o", "screen.presets", N_("Presets"), id="controls.presets",
                tooltip=N_("greedy, balanced, wild, and one's own")),
        Binding("w", "screen.save_preset", N_("Save as preset"), id="controls.save",
                tooltip=N_("keep these values under a name")),
        Binding("m", "screen.templates", N_("Chat template"), id="controls.template",
                tooltip=N_("choose or edit how a chat is written for the model")),
    ]


class TranscriptPane(TranscriptView):
    """写出来的文字，光标一轮一轮地走。"""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", N_("up"), show=False, id="transcript.up", tooltip=N_("the turn above, or scroll")),
        Binding("down,j", "move(1)", N_("down"), show=False, id="transcript.down",
                tooltip=N_("the turn below, or scroll")),
        Binding("pageup,K", "scroll_rows(-10)", N_("page up"), show=False, id="transcript.page_up",
                tooltip=N_("scroll up")),
        Binding("pagedown,J", "scroll_rows(10)", N_("page down"), show=False, id="transcript.page_down",
                tooltip=N_("scroll down")),
        Binding("home,g", "to_end(False)", N_("start"), show=False, id="transcript.start", tooltip=N_("the beginning")),
        Binding("end,G", "to_end(True)", N_("end"), show=False, id="transcript.end",
                tooltip=N_("the end; keep to it while it grows")),
        Binding("left,h", "screen.branch(-1)", N_("branch"), id="transcript.left",
                tooltip=N_("the attempt before, at this place")),
        Binding("right,l", "screen.branch(1)", N_("next branch"), show=False, id="transcript.right",
                tooltip=N_("the attempt after, at this place")),
        Binding("e", "screen.edit_turn", N_("edit"), id="transcript.edit",
                tooltip=N_("take it into the editor; ctrl+r makes a branch of it")),
        Binding("t", "screen.inspect", N_("tokens"), id="transcript.inspect",
                tooltip=N_("each token's probability and its alternatives")),
        Binding("y", "screen.copy(False)", N_("copy"), id="transcript.copy",
                tooltip=N_("copy this turn; also written to a file")),
        Binding("Y", "screen.copy(True)", N_("copy all"), show=False, id="transcript.copy_all",
                tooltip=N_("copy everything shown; also written to a file")),
        Binding("n", "screen.new_talk", N_("new"), id="transcript.new", tooltip=N_("begin anew with an empty page")),
        Binding("p", "screen.perplexity", N_("perplexity"), id="transcript.perplexity",
                tooltip=N_("how well the model predicts a text file or a dataset")),
        Binding("i,enter", "screen.write", N_("write"), show=False, id="transcript.write",
                tooltip=N_("back to the editor")),
    ]

    def action_move(self, step: int) -> None:
        self.move(step)

    def action_scroll_rows(self, rows: int) -> None:
        self.scroll_rows(rows)

    def action_to_end(self, is_end: bool) -> None:
        self.to_end(is_end)
