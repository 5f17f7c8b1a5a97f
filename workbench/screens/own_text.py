"""由自己的文本做数据集：路径、名字、分词器与几项选择，旁边是文本与 token 的预览，下面是将要执行的命令。

启动界面打开它，以做好的数据集的名字关闭；填了什么都在 `OwnText` 里，再打开还在。预览与准备都是另外的进程。
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.events import DescendantFocus
from textual.screen import Screen
from textual.widgets import Input

from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.launch import command_line, prepare_command
from workbench.messages import LanguageChanged
from workbench.own_text import BY_KEY, FIELDS, HUB, OwnText, has_dataset
from workbench.prepare_query import query
from workbench.screens.preparing import PreparingScreen
from workbench.terminal import wrap
from workbench.widgets.field_form import Choice, FieldForm, FieldRow
from workbench.widgets.hint_bar import HintBar
from workbench.widgets.launch_panes import read_only_error
from workbench.widgets.lines import LineView, error_lines, line_of
from workbench.widgets.path_input import PathInput
from workbench.widgets.text_preview import preview_lines

# 停手这么久才起预览的进程
TYPING_SECONDS = 0.3
MOST_SAID, MOST_COMMAND = 4, 3


class OwnTextScreen(Screen["str | None"]):
    """`own` 由启动界面保存。"""

    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012
    HINTS = ("own.start", "own.next", "own.complete", "choice.next", "own.page_down", "own.copy", "own.back")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,ctrl+r,f5", "start", N_("Prepare"), id="own.start", priority=True,
                tooltip=N_("make the dataset; done parts are kept if it is stopped")),
        Binding("tab", "complete", N_("Complete"), id="own.complete", priority=True,
                tooltip=N_("complete the path; again: the next one; elsewhere: the next field")),
        # 输入框自己也有上下与翻页的键，什么也不做；框里的字母照旧是文字
        Binding("down,j", "move(1)", N_("Field"), id="own.next", priority=True, tooltip=N_("the next field")),
        Binding("up,k,shift+tab", "move(-1)", N_("Field before"), show=False, id="own.before", priority=True,
                tooltip=N_("the field before")),
        Binding("pagedown", "scroll(1)", N_("Preview"), id="own.page_down", priority=True,
                tooltip=N_("scroll the preview down")),
        Binding("pageup", "scroll(-1)", N_("Preview up"), show=False, id="own.page_up", priority=True,
                tooltip=N_("scroll the preview up")),
        Binding("ctrl+y", "copy", N_("Copy"), id="own.copy", tooltip=N_("copy the command that will run")),
        Binding("escape", "leave", N_("Back"), id="own.back", tooltip=N_("back to the launch screen")),
    ]

    def __init__(self, own: OwnText):
        super().__init__()
        self.own = own
        self.shown: dict[str, Any] | None = None
        # 填得不对，与预览说的不对
        self.problem: BadInput | None = None
        self.found_problem: BadInput | None = None
        self.is_asking = self.wants_start = False
        self.note = ""
        # 按过回车：空着的路径这才算错
        self._has_tried = False
        self._name = ""

    def compose(self) -> ComposeResult:
        yield LineView(id="title", classes="title")
        yield FieldRow(FIELDS[0], PathInput(self.own.values["input"], id="field-input"))
        with Horizontal(id="body"):
            with Vertical(id="left"):
                yield FieldForm(self.own)
                yield LineView(id="candidates")
            yield VerticalScroll(LineView(id="preview"), id="shown", can_focus=False)
        yield LineView(id="said")
        yield LineView(id="command")
        yield HintBar()

    def on_mount(self) -> None:
        self.path.focus()
        self.path.cursor_position = len(self.path.value)
        self._changed("")

    @property
    def path(self) -> PathInput:
        return self.query_one(PathInput)

    @property
    def workspace(self) -> Path:
        return Path(self.app.workspace)  # type: ignore[attr-defined]

    @property
    def is_read_only(self) -> bool:
        return bool(self.app.is_read_only)  # type: ignore[attr-defined]

    # ---- 改 ----

    @on(Input.Changed)
    def take_text(self, event: Input.Changed) -> None:
        event.stop()
        key = (event.input.id or "").removeprefix("field-")
        if self.own.values.get(key) != event.value:
            self.own.values[key] = event.value
            self._changed(key)

    @on(Choice.Changed)
    def take_choice(self, event: Choice.Changed) -> None:
        event.stop()
        self.own.values[event.key] = event.value
        self._changed(event.key)

    @on(LanguageChanged)
    def show_language(self) -> None:
        # 预览的报错是另一个进程用那时的语言说的
        self._changed("")
        self.refresh_bindings()

    def _changed(self, key: str) -> None:
        """查一遍，该重新预览的重新预览。"""
        self.note, self._has_tried, self.wants_start = "", False, False
        if key in ("input", "format", ""):
            self.own.formats = None
            self.run_worker(self.path.list_candidates(), group="list", exclusive=True)
        if key != "name":
            self.found_problem = None
            self._ask()
        self._check()
        self.renew()

    def _check(self) -> None:
        """填得对不对，不必问别的进程的那些。"""
        self.problem = None
        try:
            self.own.options()
            self.own.check_name(self.workspace)
        except BadInput as error:
            self.problem = error

    def _ask(self) -> None:
        self.workers.cancel_group(self, "preview")
        self.is_asking = False
        try:
            options = self.own.options()
        except BadInput as error:
            # 数打了一半的，前面的预览还看得
            self.shown = self.shown if error.code == "bad_value" else None
            return
        if self.is_read_only:
            return
        if any(word.startswith(HUB) for word in self.own.inputs()):
            self.shown = None
            self.note = _("it is downloaded first, so there is no preview; enter begins")
            return
        self.is_asking = True
        self._preview(options)

    @work(exclusive=True, group="preview")
    async def _preview(self, options: list[str]) -> None:
        await asyncio.sleep(TYPING_SECONDS)
        try:
            self.shown = await query(["--preview", *options])
            self.own.formats = frozenset(self.shown["formats"])
        except BadInput as error:
            self.shown, self.found_problem = None, error
        self.is_asking = False
        self._check()
        if self.found_problem is None and self.problem is None and self.own.options() != options:
            # 认出了格式，有的项才用得上
            self._ask()
        elif self.wants_start:
            self.wants_start = False
            self.action_start()
        self.renew()

    # ---- 显示 ----

    @on(PathInput.Listed)
    @on(DescendantFocus)
    def show_place(self) -> None:
        self.renew()

    def on_resize(self) -> None:
        self.call_after_refresh(self.renew)

    def renew(self) -> None:
        if not self.is_mounted or not self.query("#command"):
            return
        width = self.app.size.width
        self.query_one("#title", LineView).show([
            line_of((f" {_('Dataset from your own text')} ", "bold reverse"), width=width)])
        self.query_one("#row-input", FieldRow).renew()
        self.query_one(FieldForm).renew(self.own.proposed_name(self.workspace))
        self._show_candidates()
        self._show_preview()
        self._show_said(width - 2)
        self.refresh_bindings()

    def _show_candidates(self) -> None:
        view = self.query_one("#candidates", LineView)
        path, room = self.path, max(0, view.size.height)
        if not path.has_focus or room < 2:
            view.show([])
            return
        top = max(0, min(path.chosen - room // 2, len(path.found) - room))
        rows = []
        for number, found in enumerate(path.found[top:top + room], top):
            name = found.rstrip("/").rpartition("/")[2] + "/" * found.endswith("/")
            rows.append(line_of((" " + visible(name, keep=""), "reverse" if number == path.chosen else "dim"),
                                width=max(1, view.size.width - 1)))
        view.show(rows)

    def _show_preview(self) -> None:
        view = self.query_one("#preview", LineView)
        box = self.query_one("#shown", VerticalScroll)
        width = max(10, box.scrollable_content_region.width)
        state = [line_of((_("reading..."), "dim"))] if self.is_asking else []
        if self.shown is not None:
            view.show([*preview_lines(self.shown, width, box.size.height - len(state)), *state])
        else:
            view.show(state or [line_of((text, "dim")) for text in wrap(
                _("The preview of the text and of its tokens comes here."), width)])

    def _show_said(self, width: int) -> None:
        """错在哪里；没有错就说光标下那一项是什么。"""
        error = self.problem or self.found_problem
        is_quiet = error is None or (error.code == "no_input" and not self._has_tried)
        if error is not None and not is_quiet:
            lines = error_lines(error, width)[:MOST_SAID]
        else:
            key = (self.focused.id or "").removeprefix("field-") if self.focused is not None else "input"
            text = self.note or _(BY_KEY[key].help if key in BY_KEY else "")
            lines = [line_of((part, "bold green" if self.note else "dim")) for part in wrap(text, width)][:MOST_SAID]
        self.query_one("#said", LineView).show(lines)
        command = wrap(visible(self.command(), keep=""), width)[:MOST_COMMAND] if is_quiet and error is None else []
        self.query_one("#command", LineView).display = bool(command)
        self.query_one("#command", LineView).show([line_of(part) for part in command])

    def command(self) -> str:
        """将要执行的命令；还填得不对时为空。"""
        try:
            return command_line(prepare_command(self.own.name(self.workspace), *self.own.options()))
        except BadInput:
            return ""

    # ---- 键 ----

    def boxes(self) -> list[Any]:
        """此刻出现的各个框，从上到下。"""
        return [self.path, *(row.box for row in self.query_one(FieldForm).query(FieldRow) if row.display)]

    def action_move(self, step: int) -> None:
        boxes = self.boxes()
        at = boxes.index(self.focused) if self.focused in boxes else 0
        # `focus()` 要等一轮才作数，连着按的键就落了空
        self.set_focus(boxes[(at + step) % len(boxes)])

    async def action_complete(self) -> None:
        if self.focused is not self.path or not await self.path.complete():
            self.action_move(1)

    def action_scroll(self, pages: int) -> None:
        box = self.query_one("#shown", VerticalScroll)
        box.scroll_relative(y=pages * max(1, box.size.height - 2), animate=False)

    def action_copy(self) -> None:
        if command := self.command():
            self.app.copy_to_clipboard(command)

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_start(self) -> None:
        self._has_tried = True
        if self.is_read_only:
            self.problem = read_only_error()
        elif self.problem is not None and self.problem.code == "dataset_exists":
            self._start(["--overwrite"])
        elif self.problem is None and self.found_problem is None:
            if self.is_asking:
                self.wants_start, self.note = True, _("checking...")
            elif has_dataset(name := self.own.name(self.workspace), self.workspace):
                self.problem = BadInput("dataset_exists", _("there is a dataset {name} already").format(name=name), "",
                                        _("enter again replaces it; or give another name"))
            else:
                self._start([])
        self.renew()

    def _start(self, more: list[str]) -> None:
        # 做好之后，没有填名字时想的就是下一个了
        self._name = self.own.name(self.workspace)
        self.app.push_screen(PreparingScreen(self._name, [*self.own.options(), *more]), self._take_result)

    def _take_result(self, is_done: bool | None) -> None:
        if is_done:
            self.dismiss(self._name)
            return
        self._check()
        self.note = _("not done; enter goes on where it stopped")
        self.renew()
