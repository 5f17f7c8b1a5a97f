"""逐 token 看一段文字：按概率着色，光标下是它的概率、名次与最可能的几个别的选择。

写的时候要了 `logprobs` 的用那时的；否则让模型给全文（连同前文）打一遍分。
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.playground.requests import FAILED, Score, Token
from workbench.screens.base import WorkbenchScreen
from workbench.terminal import has_color, pad, wrap
from workbench.widgets.hint_bar import HintBar
from workbench.widgets.lines import LineView, line_of
from workbench.widgets.token_view import TokenView, digit, probability, shade, shown_token

if TYPE_CHECKING:
    from workbench.playground.session import Playground

SHOW_SECONDS = 0.2
ALTERNATIVES = 5
# 太长的只看末尾这么多字符
MOST_CHARACTERS = 20_000


class InspectScreen(WorkbenchScreen):
    """`turn`：对话里的哪一轮。"""

    HINTS = ("inspect.back", "inspect.left", "inspect.unlikely", "inspect.digits", "inspect.copy")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace", "leave", N_("back"), id="inspect.back", tooltip=N_("back to the page")),
        Binding("left,h", "move(-1)", N_("token"), id="inspect.left", tooltip=N_("the token before")),
        Binding("right,l", "move(1)", N_("next token"), show=False, id="inspect.right", tooltip=N_("the token after")),
        Binding("up,k", "move_row(-1)", N_("row up"), show=False, id="inspect.up", tooltip=N_("one row up")),
        Binding("down,j", "move_row(1)", N_("row down"), show=False, id="inspect.down", tooltip=N_("one row down")),
        Binding("pageup,K", "move_row(-10)", N_("page up"), show=False, id="inspect.page_up", tooltip=N_("rows up")),
        Binding("pagedown,J", "move_row(10)", N_("page down"), show=False, id="inspect.page_down",
                tooltip=N_("rows down")),
        Binding("home,g", "go(0)", N_("start"), show=False, id="inspect.start", tooltip=N_("the first token")),
        Binding("end,G", "go(1000000000)", N_("end"), show=False, id="inspect.end", tooltip=N_("the last token")),
        Binding("n", "unlikely(1)", N_("next surprise"), id="inspect.unlikely",
                tooltip=N_("the next token below 5% probability")),
        Binding("N", "unlikely(-1)", N_("surprise before"), show=False, id="inspect.unlikely_before",
                tooltip=N_("the token before below 5% probability")),
        Binding("d", "digits", N_("digits"), id="inspect.digits",
                tooltip=N_("write the tenths of the probability below each row")),
        Binding("y", "copy", N_("copy"), id="inspect.copy", tooltip=N_("copy the tokens and their figures as a table")),
    ]

    def __init__(self, play: Playground, turn: int):
        super().__init__()
        self.play = play
        self.view = TokenView(id="tokens")
        # 没有颜色，就靠数字
        self.view.has_digits = not has_color()
        self.score: Score | None = None
        self.written: list[Token] = list(play.conversation.turns[turn].tokens)
        if not self.written and play.choice is not None:
            text, _spans = play.conversation.prompt(play.template, upto=turn)
            size = play.model.block_size if play.model is not None else None
            # 窗口重叠一半：每个 token 至少看得到半个上下文
            keys = {"text": text[-MOST_CHARACTERS:], "logprobs": ALTERNATIVES, "stride": (size or 0) // 2}
            self.score = play.engine.score(play.choice, keys)
        self._seen = -1

    def compose(self) -> ComposeResult:
        yield LineView(id="title", classes="title")
        yield self.view
        yield LineView(id="detail")
        yield HintBar()

    def on_mount(self) -> None:
        self.view.focus()
        self.set_interval(SHOW_SECONDS, self.poll_server)
        self.renew()

    def on_unmount(self) -> None:
        if self.score is not None:
            self.play.engine.cancel(self.score)

    @property
    def tokens(self) -> list[Token]:
        return self.score.tokens if self.score is not None else self.written

    def poll_server(self) -> None:
        self.play.poll()
        if self._seen != self.play.engine.version:
            self.renew()

    def renew(self) -> None:
        if not self.is_mounted or not self.query("#detail"):
            return
        self._seen = self.play.engine.version
        if self.view.tokens is not self.tokens or len(self.view.tokens) != len(self.view.segments):
            self.view.look(self.tokens)
        self._show_title()
        self._show_detail()

    def _show_title(self) -> None:
        name = self.play.choice.name if self.play.choice is not None else ""
        said = ""
        if self.score is not None and self.score.problem is None:
            if not self.score.has_ended:
                said = _("scoring: {done} of {total} tokens").format(done=self.score.done_tokens,
                                                                     total=self.score.total_tokens)
            elif self.score.perplexity is not None:
                said = _("{n} tokens, perplexity {value}").format(n=f"{self.score.done_tokens:,}",
                                                                  value=f"{self.score.perplexity:.4g}")
        elif self.score is None:
            said = _("{n} tokens, as they were drawn").format(n=f"{len(self.written):,}")
        self.query_one("#title", LineView).show([line_of((f" {_('Tokens')} ", "bold reverse"), " ", (name, "bold"),
                                                         f"  {said}", width=self.size.width)])

    def _show_detail(self) -> None:
        view, width = self.query_one("#detail", LineView), max(20, self.size.width - 1)
        score, at = self.score, self.view.cursor
        if score is not None and score.status == FAILED and score.problem is not None:
            view.show([line_of((part, "bold red")) for line in score.problem.lines()
                       for part in wrap(visible(line), width)][:5])
            return
        if at is None or at >= len(self.tokens):
            view.show([line_of((_("waiting for the model"), "dim"))])
            return
        token = self.tokens[at]
        chance = probability(token.logprob)
        quoted = _quoted(token.text)
        if chance is None or token.logprob is None:
            view.show([line_of((quoted, "bold"), "  " + _("the first token: nothing before it to predict it from"),
                               width=width)])
            return
        head = _("probability {p}  logprob {logprob}  rank {rank}").format(
            p=f"{chance:.2%}", logprob=f"{token.logprob:.4f}", rank=token.rank)
        lines = [line_of((quoted, "bold"), f"  {head}", width=width)]
        most = max(1, min(ALTERNATIVES, self.size.height // 4))
        for number, (text, logprob) in enumerate(token.top[:most], 1):
            share = probability(logprob) or 0.0
            bar = "#" * round(share * min(40, width - 40))
            lines.append(line_of((f" {number} ", "dim"), (pad(_quoted(text), 16), shade(share)), f" {share:>7.2%} ",
                                 (bar, shade(share)), width=width))
        view.show(lines)

    # ---- 键 ----

    def action_leave(self) -> None:
        self.dismiss()

    def action_move(self, step: int) -> None:
        self.view.move(step)
        self._show_detail()

    def action_move_row(self, step: int) -> None:
        self.view.move_row(step)
        self._show_detail()

    def action_go(self, index: int) -> None:
        self.view.go(index)
        self._show_detail()

    def action_unlikely(self, step: int) -> None:
        if not self.view.next_unlikely(step):
            self.bench.say(_("no further token below 5%"), seconds=2.0)
        self._show_detail()

    def action_digits(self) -> None:
        self.view.toggle_digits()

    def action_copy(self) -> None:
        rows = ["token\tlogprob\trank\tdigit"]
        rows += [f"{_quoted(token.text)}\t{token.logprob}\t{token.rank}\t{digit(probability(token.logprob))}"
                 for token in self.tokens]
        self.app.copy_to_clipboard("\n".join(rows))


def _quoted(text: str) -> str:
    return f'"{shown_token(text).replace(chr(10), "")}"'
