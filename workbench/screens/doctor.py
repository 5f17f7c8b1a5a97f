"""检查一个数据集：`nanogpt.prepare --check` 说有什么毛病、怎样修，以及它看到的事实。

启动界面的数据页打开它；检查是另一个进程，离开就不再等它。
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen

from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.launch import command_line, python
from workbench.messages import LanguageChanged
from workbench.prepare_query import MODULE, query
from workbench.widgets.doctor_report import report_lines
from workbench.widgets.hint_bar import HintBar
from workbench.widgets.launch_panes import read_only_error
from workbench.widgets.lines import LineView, error_lines, line_of

LOOK_SECONDS = 0.5


class DoctorScreen(Screen[None]):
    """`block_size` 是将要训练的上下文长度，0 就不按它查。"""

    AUTO_FOCUS = ""
    HINTS = ("doctor.down", "doctor.page_down", "doctor.again", "doctor.copy", "doctor.back")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "scroll(1)", N_("down"), id="doctor.down", tooltip=N_("scroll down")),
        Binding("up,k", "scroll(-1)", N_("up"), show=False, id="doctor.up", tooltip=N_("scroll up")),
        Binding("pagedown,space,J", "scroll_page(1)", N_("page down"), id="doctor.page_down",
                tooltip=N_("scroll down a page")),
        Binding("pageup,K", "scroll_page(-1)", N_("page up"), show=False, id="doctor.page_up",
                tooltip=N_("scroll up a page")),
        Binding("home,g", "scroll(-1000000)", N_("start"), show=False, id="doctor.start", tooltip=N_("the beginning")),
        Binding("end,G", "scroll(1000000)", N_("end"), show=False, id="doctor.end", tooltip=N_("the end")),
        Binding("r", "again", N_("again"), id="doctor.again", tooltip=N_("check it once more")),
        Binding("y", "copy", N_("copy"), id="doctor.copy", tooltip=N_("copy the command that checks it in a shell")),
        Binding("escape,backspace", "leave", N_("back"), id="doctor.back",
                tooltip=N_("back to the launch screen; a check that runs is stopped")),
    ]

    def __init__(self, name: str, block_size: int = 0):
        super().__init__()
        # `name` 是 Textual 部件自己的
        self.dataset_name, self.block_size = name, block_size
        self.found: dict[str, Any] | None = None
        self.problem: BadInput | None = None
        self._began = 0.0

    def compose(self) -> ComposeResult:
        yield LineView(id="title", classes="title")
        yield VerticalScroll(LineView(id="lines"), id="report", can_focus=False)
        yield HintBar()

    def on_mount(self) -> None:
        self.set_interval(LOOK_SECONDS, self.count_seconds)
        self.action_again()

    @property
    def is_asking(self) -> bool:
        return self.found is None and self.problem is None

    def arguments(self) -> list[str]:
        size = [f"--block-size={self.block_size}"] if self.block_size else []
        return ["--check", self.dataset_name, *size]

    @work(exclusive=True, group="check")
    async def _examine(self) -> None:
        try:
            self.found = await query(self.arguments())
        except BadInput as error:
            self.problem = error
        self.renew()

    def count_seconds(self) -> None:
        if self.is_asking:
            self.renew()

    @on(LanguageChanged)
    def show_language(self) -> None:
        # 结论是另一个进程用那时的语言说的
        self.action_again()
        self.refresh_bindings()

    def on_resize(self) -> None:
        self.call_after_refresh(self.renew)

    def renew(self) -> None:
        if not self.is_mounted or not self.query("#lines"):
            return
        name = visible(self.dataset_name, keep="")
        self.query_one("#title", LineView).show([line_of(
            (f" {_('Check of {name}').format(name=name)} ", "bold reverse"), width=self.app.size.width)])
        width = max(20, self.app.size.width - 4)
        if self.problem is not None:
            lines = error_lines(self.problem, width)
        elif self.found is None:
            passed = _("checking... {n} s").format(n=int(time.monotonic() - self._began))
            lines = [line_of((passed, "dim"))]
        else:
            lines = report_lines(self.found, width, str(Path(self.app.workspace).resolve()))  # type: ignore[attr-defined]
        self.query_one("#lines", LineView).show(lines)

    # ---- 键 ----

    def action_scroll(self, rows: int) -> None:
        self.query_one("#report", VerticalScroll).scroll_relative(y=rows, animate=False)

    def action_scroll_page(self, pages: int) -> None:
        self.action_scroll(pages * (self.query_one("#report", VerticalScroll).size.height - 2))

    def action_again(self) -> None:
        self.found = self.problem = None
        self._began = time.monotonic()
        if self.app.is_read_only:  # type: ignore[attr-defined]
            self.problem = read_only_error()
        else:
            self._examine()
        self.renew()

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(command_line(python("-m", MODULE, *self.arguments())))

    def action_leave(self) -> None:
        self.dismiss()
