"""改聊天的模板：写成 TOML，边打字边查；下面是用它写出来的样子。"""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, TextArea

from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.messages import LanguageChanged
from workbench.playground.conversation import CHAT, Conversation
from workbench.playground.template import Template, read_template
from workbench.terminal import wrap
from workbench.widgets.lines import LineView, line_of
from workbench.widgets.prompt_editor import PromptEditor

# （名字——空的就不存, 模板）
Answer = tuple[str, Template]


class TemplateScreen(ModalScreen["Answer | None"]):
    """以（名字, 模板）关闭：名字不空就存下。"""

    DEFAULT_CSS = """
    TemplateScreen #toml { height: 6; background: $panel; }
    TemplateScreen #name { margin-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r,f5", "use", N_("use"), id="template.use",
                tooltip=N_("use it; with a name, also save it")),
        Binding("escape", "give_up", N_("cancel"), id="template.cancel", tooltip=N_("leave the template as it was")),
    ]

    def __init__(self, template: Template):
        super().__init__()
        self.template = template

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog wide"):
            yield LineView(id="head")
            yield PromptEditor(self.template.to_toml(), id="toml", placeholder="")
            yield Input(id="name", compact=True)
            yield LineView(id="preview")

    def on_mount(self) -> None:
        self.query_one("#toml").focus()
        self.renew()

    @on(LanguageChanged)
    @on(TextArea.Changed)
    def renew(self) -> None:
        width = max(20, min(92, int(self.app.size.width * 0.9) - 6))
        self.query_one("#head", LineView).show([
            line_of((_("How a chat is written for the model"), "bold")),
            line_of((_("ctrl+r uses it, esc leaves it; tab moves to the name"), "dim"), width=width)])
        self.query_one("#name", Input).placeholder = _("name, to save it as one's own")
        self.query_one("#preview", LineView).show([line_of(text, width=width) for text in self._preview(width)])

    def _preview(self, width: int) -> list[str]:
        """两轮话写出来的样子；写错了就说错在哪。"""
        try:
            template = read_template(self.query_one("#toml", PromptEditor).text)
        except BadInput as error:
            return [part for line in str(error).split("\n") for part in wrap(line, width)]
        talk = Conversation(CHAT)
        index = talk.say(_("Good morning."), 0)
        text, _spans = talk.prompt(template, upto=index)
        lines = [part for line in visible(text).split("\n") for part in wrap(line, width)]
        return ["", *lines[:6]]

    def action_use(self) -> None:
        try:
            template = read_template(self.query_one("#toml", PromptEditor).text)
        except BadInput as error:
            self.app.say_error(error)  # type: ignore[attr-defined]
            return
        self.dismiss((self.query_one("#name", Input).value.strip(), template))

    @on(Input.Submitted)
    def submit(self, event: Input.Submitted) -> None:
        event.stop()
        self.action_use()

    def action_give_up(self) -> None:
        self.dismiss(None)
