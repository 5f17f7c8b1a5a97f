"""几台机器的训练：每台要跑的命令，逐台复制。启动界面打开它；命令与启动的是同一份。"""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from nanogpt.i18n import N_, _
from workbench.messages import LanguageChanged
from workbench.terminal import wrap
from workbench.widgets.lines import LineView, line_of


class NodesScreen(ModalScreen[None]):
    """`lines` 是各台的命令，第 0 台在前；`address` 是它的地址与端口。"""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "copy", N_("copy"), id="nodes.copy", tooltip=N_("copy this machine's command")),
        Binding("down,j,right,l", "move(1)", N_("next machine"), id="nodes.next", tooltip=N_("the next machine")),
        Binding("up,k,left,h", "move(-1)", N_("machine before"), id="nodes.before", tooltip=N_("the machine before")),
        Binding("escape,q", "close", N_("close"), id="nodes.close", tooltip=N_("back to the launch screen")),
    ]

    def __init__(self, lines: list[str], address: str):
        super().__init__()
        self.commands, self.address = lines, address
        self.node = 0
        self.copied: set[int] = set()

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield LineView(id="nodes")

    def on_mount(self) -> None:
        self.renew()

    @on(LanguageChanged)
    def renew(self) -> None:
        width = max(20, min(62, int(self.app.size.width * 0.9) - 6))
        head = _("Machine {number} of {count}").format(number=self.node, count=len(self.commands))
        head += "  " + _("(copied)") if self.node in self.copied else ""
        about = _("This one: start it here, or paste the command there. It waits for the others.") if self.node == 0 \
            else _("Paste it on that machine. It looks for machine 0 at {address}.").format(address=self.address)
        last = _("Machines are counted from 0. Each needs the same version of this program and the same dataset; "
                 "machine 0's port must be reachable.")
        view = self.query_one("#nodes", LineView)
        view.show([line_of((head, "bold")), *(line_of(text) for text in wrap(about, width)), line_of(""),
                   *(line_of((text, "cyan")) for text in wrap(self.commands[self.node], width)), line_of(""),
                   *(line_of((text, "dim")) for text in wrap(last, width)),
                   line_of((_("y copies, j/k other machines, esc closes"), "dim"))])

    def action_move(self, step: int) -> None:
        self.node = (self.node + step) % len(self.commands)
        self.renew()

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(self.commands[self.node])
        self.copied.add(self.node)
        self.renew()

    def action_close(self) -> None:
        self.dismiss(None)
