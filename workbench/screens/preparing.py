"""准备数据，快速上手之前的或自己的文本：看得见进度，可以取消；准备是独立的进程，离开应用它也会做完。"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.messages import LanguageChanged
from workbench.preparation import Preparation
from workbench.terminal import wrap
from workbench.widgets.lines import LineView, line_of

LOOK_SECONDS = 0.5


def is_ready(name: str, workspace: Path) -> bool:
    """训练找得到数据集 `name`：工作区的，或随包的目录里已备好的。"""
    from nanogpt.dataset import dataset_dir

    try:
        dataset_dir(name, workspace)
    except BadInput:
        return False
    return True


class PreparingScreen(ModalScreen[bool]):
    """以 True 关闭：数据好了。"""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "cancel", N_("cancel"), id="preparing.cancel",
                        tooltip=N_("stop preparing; nothing half-written is left"))]

    def __init__(self, name: str, arguments: Sequence[str] = ()):
        super().__init__()
        self.dataset_name, self.arguments = name, tuple(arguments)
        self.preparation: Preparation | None = None
        self.problem = ""

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield LineView(id="progress")

    def on_mount(self) -> None:
        try:
            self.preparation = Preparation(self.dataset_name, self.app.workspace,  # type: ignore[attr-defined]
                                           self.arguments)
            if not self.preparation.is_running():
                self.preparation.start()
        except BadInput as error:
            self.problem = visible(str(error))
        self.set_interval(LOOK_SECONDS, self.look)
        self.renew()

    def look(self) -> None:
        found = self.preparation
        if found is not None and not self.problem and not found.is_running():
            # 换掉已有的数据集没有成：旧的还在，不算好了
            if found.exit_code in (0, None) and is_ready(self.dataset_name, self.app.workspace):  # type: ignore[attr-defined]
                self.dismiss(True)
                return
            self.problem = _("Preparing ended with exit code {code}; esc closes.").format(code=found.exit_code)
        self.renew()

    @on(LanguageChanged)
    def renew(self) -> None:
        width = max(20, min(62, int(self.app.size.width * 0.9) - 6))
        head = _("Preparing the dataset {name}") if self.arguments else _("Preparing the dataset {name}, once")
        head = head.format(name=visible(self.dataset_name, keep=""))
        lines = [line_of((text, "bold")) for text in wrap(head, width)]
        tail = self.preparation.tail(6) if self.preparation is not None else []
        lines += [line_of((text, "dim")) for line in tail for text in wrap(line, width)[:2]]
        lines += [line_of((text, "bold red")) for text in wrap(self.problem, width) if self.problem]
        # 结束了的，上面已说怎样关
        last = [] if self.problem else [line_of(""), line_of(_("esc cancels"))]
        self.query_one("#progress", LineView).show([*lines, *last])

    def action_cancel(self) -> None:
        if self.preparation is not None:
            self.preparation.cancel()
        self.dismiss(False)
