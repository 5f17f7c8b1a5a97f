"""一个文本文件或数据集的困惑度：模型在上面平均有多意外。看得见进度，可以停。"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.messages import LanguageChanged
from workbench.playground.requests import Score
from workbench.terminal import wrap
from workbench.widgets.lines import LineView, line_of

if TYPE_CHECKING:
    from workbench.playground.session import Playground

SHOW_SECONDS = 0.2


class PerplexityScreen(ModalScreen[None]):
    """用 `play` 此刻的模型。"""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", N_("cancel / back"), id="perplexity.back", tooltip=N_("stop; when idle, close"))]

    def __init__(self, play: Playground):
        super().__init__()
        self.play = play
        self.score: Score | None = None
        self._what = ""
        self._seen = -1

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield LineView(id="head")
            yield Input("dataset:", id="what", compact=True, select_on_focus=False)
            yield LineView(id="result")

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self.set_interval(SHOW_SECONDS, self.poll_server)
        self.renew()

    def on_unmount(self) -> None:
        if self.score is not None:
            self.play.engine.cancel(self.score)

    def poll_server(self) -> None:
        # 下面的屏也在取：看版本，不看是谁取来的
        self.play.poll()
        if self._seen != self.play.engine.version:
            self._seen = self.play.engine.version
            self.renew()

    @on(LanguageChanged)
    def renew(self) -> None:
        width = max(20, min(62, int(self.app.size.width * 0.9) - 6))
        name = self.play.choice.name if self.play.choice is not None else ""
        head = [(_("Perplexity of {model}").format(model=name), "bold"),
                (_("a text file, dataset:NAME (val) or dataset:NAME/train; enter scores, esc stops"), "dim")]
        self.query_one("#head", LineView).show([line_of((part, style)) for text, style in head
                                                for part in wrap(text, width)])
        lines = [part for text in self._result() for part in wrap(visible(text), width)]
        is_bad = self.score is not None and self.score.problem is not None
        self.query_one("#result", LineView).show([line_of((text, "bold red" if is_bad else "")) for text in lines])

    def _result(self) -> list[str]:
        score = self.score
        if score is None:
            return [""]
        if score.problem is not None:
            return score.problem.lines()
        if not score.has_ended:
            done = _("scoring: {done} of {total} tokens").format(done=score.done_tokens, total=score.total_tokens)
            return [done + ("" if score.loss is None else f", loss {score.loss:.4f}")]
        if score.loss is None or score.perplexity is None:
            return [_("too short: nothing to predict")]
        more = "" if score.bits_per_byte is None else ", " + _("{n} bits per byte").format(
            n=f"{score.bits_per_byte:.4f}")
        lines = [self._what, _("{n} tokens, perplexity {value}").format(n=f"{score.done_tokens:,}",
                                                                        value=f"{score.perplexity:.5g}"),
                 f"loss {score.loss:.4f}{more}"]
        return [*lines, _("stopped before the end")] if score.is_cancelled else lines

    @on(Input.Submitted)
    def begin(self, event: Input.Submitted) -> None:
        event.stop()
        what = event.value.strip()
        if not what or self.play.choice is None or (self.score is not None and not self.score.has_ended):
            return
        self._what = what
        self.score = self.play.engine.score(self.play.choice, {"score": what})
        self.renew()

    def action_leave(self) -> None:
        if self.score is not None and not self.score.has_ended:
            self.play.engine.cancel(self.score)
        else:
            self.dismiss(None)
