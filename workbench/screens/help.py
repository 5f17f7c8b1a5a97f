"""当前屏的帮助：每个键做什么，由它的 `Binding` 生成。"""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from nanogpt.i18n import N_, _
from workbench.keymap import keys_file
from workbench.messages import LanguageChanged
from workbench.terminal import pad, wrap
from workbench.widgets.hint_bar import key_name
from workbench.widgets.lines import LineView, line_of


class HelpScreen(ModalScreen[None]):
    """`bindings` 来自 `bindings_of(screen)`；`key_problems` 是 `keys.toml` 里写错的各处。"""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f1,enter", "dismiss", N_("close"), id="help.close", tooltip=N_("close")),
        Binding("down,j", "scroll(1)", N_("down"), id="help.down", tooltip=N_("scroll down")),
        Binding("up,k", "scroll(-1)", N_("up"), id="help.up", tooltip=N_("scroll up")),
        Binding("pagedown,space", "scroll(10)", N_("page down"), show=False, id="help.page_down",
                tooltip=N_("scroll down a page")),
        Binding("pageup", "scroll(-10)", N_("page up"), show=False, id="help.page_up", tooltip=N_("scroll up a page")),
    ]

    def __init__(self, bindings: list[tuple[Binding, list[str], bool, object]], key_problems: list[str]):
        super().__init__()
        self.bindings_shown, self.key_problems = bindings, key_problems
        self.top = 0

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog wide"):
            yield LineView(id="keys")

    def on_mount(self) -> None:
        self.renew()

    def on_resize(self) -> None:
        self.renew()

    @on(LanguageChanged)
    def renew(self) -> None:
        width = max(30, min(92, int(self.app.size.width * 0.9) - 6))
        key_width, name_width = 16, 18
        lines = []
        for binding, keys, _is_enabled, _node in self.bindings_shown:
            shown = " ".join(key_name(key) for key in keys[:4])
            about = wrap(_(binding.tooltip), width - key_width - name_width)
            lines.append(line_of((pad(shown, key_width), "bold"), pad(_(binding.description), name_width), about[0]))
            lines += [line_of(" " * (key_width + name_width), rest) for rest in about[1:]]
        if self.key_problems:
            lines.append(line_of((_("Not taken from {path}:").format(path=keys_file()), "bold yellow")))
            lines += [line_of((row, "yellow")) for text in self.key_problems for row in wrap(text, width)]
        height = max(3, int(self.app.size.height * 0.9) - 6)
        self.top = max(0, min(self.top, len(lines) - height))
        more = _("j/k scroll, esc closes") if len(lines) > height else _("esc closes")
        self.query_one("#keys", LineView).show(
            [line_of((_("Keys of this screen"), "bold")), *lines[self.top:self.top + height], line_of((more, "dim"))])

    def action_scroll(self, rows: int) -> None:
        self.top += rows
        self.renew()

    async def action_dismiss(self, result: None = None) -> None:
        self.dismiss(result)
