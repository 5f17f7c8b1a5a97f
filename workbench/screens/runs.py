"""首页：工作区里的全部运行，以及空工作区里一键的快速上手。

表在第一次轮询之后才装上，所以第一帧不等 numpy。
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Key
from textual.widgets import Input

from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.screens.base import RunActions
from workbench.terminal import short_path
from workbench.widgets.hint_bar import HintBar
from workbench.widgets.lines import LineView, line_of
from workbench.widgets.welcome import welcome_lines

if TYPE_CHECKING:
    from workbench.watched_run import WatchedRun
    from workbench.widgets.run_table import RunTable

TALL_ROWS = 34
NEED_RUNS = ("open", "filter", "sort", "reverse", "mark", "note", "move", "clear")


class RunsScreen(RunActions):
    """列表、过滤、标记；回车打开监视。"""

    RUN_HINTS = ("runs.open", "runs.new", "run.stop", "run.resume", "run.sample", "runs.filter", "runs.mark",
                 "app.quit", "runs.sort", "run.clone", "run.delete", "runs.note")
    FIRST_HINTS = ("runs.first_start", "runs.new", "app.language", "app.palette", "app.quit")
    HINTS: tuple[str, ...] = FIRST_HINTS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", N_("open"), id="runs.open", tooltip=N_("watch this run, or the marked ones together")),
        Binding("n", "new", N_("new run"), id="runs.new", tooltip=N_("choose a preset and its options, then launch")),
        Binding("slash", "filter", N_("filter"), id="runs.filter",
                tooltip=N_("show the runs that match, such as: status:running learning_rate>=1e-3 dataset:tiny")),
        Binding("o", "sort", N_("sort"), id="runs.sort",
                tooltip=N_("sort by something else; sort:KEY in the filter takes any metric or config key")),
        Binding("O", "reverse", N_("reverse"), show=False, id="runs.reverse", tooltip=N_("turn the order round")),
        Binding("space", "mark", N_("mark"), id="runs.mark", tooltip=N_("mark runs to overlay, stop or delete them")),
        Binding("down,j", "move(1)", N_("down"), show=False, id="runs.down", tooltip=N_("next run")),
        Binding("up,k", "move(-1)", N_("up"), show=False, id="runs.up", tooltip=N_("previous run")),
        Binding("pagedown,ctrl+f", "move(10)", N_("page down"), show=False, id="runs.page_down",
                tooltip=N_("ten runs down")),
        Binding("pageup,ctrl+b", "move(-10)", N_("page up"), show=False, id="runs.page_up", tooltip=N_("ten runs up")),
        Binding("g,home", "move(-100000)", N_("first"), show=False, id="runs.first", tooltip=N_("first run")),
        Binding("G,end", "move(100000)", N_("last"), show=False, id="runs.last", tooltip=N_("last run")),
        Binding("l,right", "open", N_("open"), show=False, id="runs.open_right", tooltip=N_("watch this run")),
        Binding("enter", "first_start", N_("quick start"), id="runs.first_start",
                tooltip=N_("where there are no runs yet: train a small model at once")),
        Binding("Q", "quick_start", N_("quick start"), show=False, id="runs.quick_start",
                tooltip=N_("train a small model on Python's own standard library: no network, no GPU")),
        Binding("e", "note", N_("note"), show=False, id="runs.note", tooltip=N_("notes and #tags of this run")),
        Binding("escape", "clear", N_("clear"), show=False, id="runs.clear",
                tooltip=N_("drop the filter and the marks")),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.sort_index, self.is_reversed = 0, False
        self.query_text = ""
        self.problem = ""
        self._table: RunTable | None = None

    def compose(self) -> ComposeResult:
        yield LineView(id="title", classes="title")
        yield LineView(id="welcome")
        yield LineView(id="detail")
        yield Input(id="filter", classes="line", compact=True)
        yield HintBar()

    def on_mount(self) -> None:
        self.renew()

    def on_resize(self) -> None:
        self.set_class(self.size.height >= TALL_ROWS, "-tall")
        self.renew()

    def chosen_runs(self) -> list[WatchedRun]:
        """标记了的，没有标记就是光标下的。"""
        if self._table is None:
            return []
        # 按列表的次序，图里的颜色与字母才不会每次都不同；被过滤掉的也算，排在后面
        shown = [run.out_dir for run in self._table.runs]
        order = {folder: index for index, folder in enumerate(dict.fromkeys([*shown, *self.bench.store.runs]))}
        runs = self.bench.store.runs
        marked = [runs[folder] for folder in sorted(self._table.marked & runs.keys(), key=order.__getitem__)]
        return marked or ([self._table.current] if self._table.current else [])

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """没有运行时，回车归快速开始，对运行做的事都不提。"""
        has_runs = self.bench.is_loaded and bool(self.bench.store.runs)
        if (action in NEED_RUNS and not has_runs) or (
                action == "first_start" and (has_runs or not self.bench.is_loaded)):
            return False
        return super().check_action(action, parameters)

    # ---- 画 ----

    def renew(self) -> None:
        if not self.is_mounted or self.size.width < 10:
            return
        runs = list(self.bench.store.runs.values()) if self.bench.is_loaded else []
        if runs and self._table is None:
            self._mount_table()
            return
        self.HINTS = self.RUN_HINTS if runs else self.FIRST_HINTS
        self._show_title(runs)
        self._show_welcome(runs)
        if self._table is not None:
            self._table.display = bool(runs)
            self._table.fill(self._filtered(runs), set(self.bench.stops))
        self._show_detail()

    def _mount_table(self) -> None:
        from workbench.widgets.chart_view import ChartView
        from workbench.widgets.run_table import RunTable

        self._table = RunTable(id="table")
        self.mount(self._table, ChartView(id="preview"), before="#detail")
        self.call_after_refresh(self.renew)

    def _show_title(self, runs: list[WatchedRun]) -> None:
        """要紧的在前，放不下的从右边截去；只读的记号不会被截掉。"""
        parts = [(" nanogpt-workbench ", "bold reverse")]
        if self.bench.is_read_only:
            parts.append((" " + _("read-only") + " ", "bold yellow reverse"))
        if self.bench.is_remote:
            parts.append((" " + _("sparing") + " ", "bold cyan"))
        if runs:
            from workbench.run_order import LIVE, ORDERS

            live = sum(run.status in LIVE for run in runs)
            parts.append(("  " + _("runs: {count}, live: {live}").format(count=len(runs), live=live), "bold"))
            if not self.bench.store.is_loaded:
                parts.append(("  " + _("reading..."), "bold yellow"))
            order = _(ORDERS[self.sort_index][0]) + (" " + _("(reversed)") if self.is_reversed else "")
            parts.append((f"  {order}", "dim"))
        if self.query_text:
            parts.append((f"  /{visible(self.query_text, keep='')}", "bold yellow"))
        where = visible(short_path(self.bench.workspace), keep="")
        parts.append((f"  {where}", "dim"))
        self.query_one("#title", LineView).show([line_of(*parts, width=self.size.width)])

    def _show_welcome(self, runs: list[WatchedRun]) -> None:
        view = self.query_one("#welcome", LineView)
        view.display = not runs
        if not runs:
            view.show(welcome_lines(self.size.width, self.bench.is_loaded, self.bench.is_read_only))

    def _show_detail(self) -> None:
        detail = self.query_one("#detail", LineView)
        current = self._table.current if self._table is not None else None
        lines = [line_of((self.problem, "bold red"))] if self.problem else []
        if current is not None:
            from workbench.widgets.run_detail import MOST_LINES, detail_lines

            stop_note = self.bench.stop_notes.get(current.out_dir, "")
            lines = [*lines, *detail_lines(current, self.size.width, stop_note)][:MOST_LINES]
            self._show_preview(current)
        elif self.query_text and self._table is not None:
            lines.append(line_of(_("no run matches; esc drops the filter")))
        detail.display = bool(lines)
        detail.show(lines)

    def _show_preview(self, run: WatchedRun) -> None:
        from workbench.chart import View
        from workbench.widgets.chart_view import ChartView

        chart = self.query_one("#preview", ChartView)
        if [shown.out_dir for shown in chart.runs] != [run.out_dir]:
            chart.look([run], View())
        elif not run.has_ended or run.follower.is_behind:
            chart.data_changed()

    # ---- 过滤与排序 ----

    def _filtered(self, runs: list[WatchedRun]) -> list[WatchedRun]:
        """合乎条件的，排好了次序；条件写错时全都列出，错处写在下面。"""
        from workbench.query import QueryError, matches, wanted_order
        from workbench.run_order import ordered, ordered_by
        from workbench.screens.note import read_note

        self.problem = ""
        try:
            found = [run for run in runs if matches(self.query_text, run, read_note(run.out_dir))] \
                if self.query_text else runs
            if key := wanted_order(self.query_text):
                return ordered_by(found, key)
        except QueryError as error:
            self.problem = visible(str(error), keep="")
            found = runs
        return ordered(found, self.sort_index, self.is_reversed)

    def action_sort(self) -> None:
        from workbench.run_order import ORDERS

        self.sort_index = (self.sort_index + 1) % len(ORDERS)
        self.bench.say(_("sorted by: {what}").format(what=_(ORDERS[self.sort_index][0])), seconds=2.0)
        self.renew()

    def action_reverse(self) -> None:
        self.is_reversed = not self.is_reversed
        self.renew()

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.placeholder = _("words, status:running, loss<2, learning_rate>=1e-3, tag:x, sort:val_loss ...")
        box.value = self.query_text
        box.add_class("-open")
        self.set_focus(box)  # `focus()` 要过一会儿才生效，紧跟着打的字就丢了

    @on(Input.Changed, "#filter")
    def filter_as_typed(self, event: Input.Changed) -> None:
        self.query_text = event.value
        self.renew()

    @on(Input.Submitted, "#filter")
    def close_filter(self) -> None:
        self.query_one("#filter", Input).remove_class("-open")
        self.set_focus(None)

    def on_key(self, event: Key) -> None:
        box = self.query_one("#filter", Input)
        if box.has_focus and event.key == "escape":
            event.stop()
            box.value = self.query_text = ""
            self.close_filter()
            self.renew()

    def action_clear(self) -> None:
        self.query_text = ""
        if self._table is not None:
            self._table.marked.clear()
        self.renew()

    # ---- 光标与标记 ----

    def action_move(self, rows: int) -> None:
        if self._table is not None:
            self._table.move(rows)

    def action_mark(self) -> None:
        if self._table is not None:
            self._table.toggle_mark()

    def on_run_table_moved(self) -> None:
        self._show_detail()
        self.refresh_bindings()

    def on_run_table_opened(self) -> None:
        self.action_open()

    def action_open(self) -> None:
        if runs := self.chosen_runs():
            self.bench.open_monitor_of(runs)

    # ---- 新的运行 ----

    def action_new(self) -> None:
        from workbench.screens.launch import LaunchScreen

        if not self.bench.refuse_if_read_only():
            self.app.push_screen(LaunchScreen())

    def action_first_start(self) -> None:
        self.action_quick_start()

    def action_quick_start(self) -> None:
        from workbench.quickstart import DATASET
        from workbench.screens.preparing import PreparingScreen, is_ready

        if self.bench.refuse_if_read_only():
            return
        if is_ready(DATASET.name, self.bench.workspace):
            self._launch_quick_start(True)
        else:
            self.app.push_screen(PreparingScreen(DATASET.name), self._launch_quick_start)

    def _launch_quick_start(self, is_ready: bool | None) -> None:
        from workbench.launch import LaunchPlan, make_out_dir

        if not is_ready:
            return
        try:
            out_dir: Path = make_out_dir("quickstart")
        except BadInput as error:
            self.bench.say_error(error)
            return
        if self.bench.start_run(LaunchPlan("quickstart", str(out_dir)).command(), out_dir):
            self.bench.open_monitor(out_dir)

    def action_note(self) -> None:
        from workbench.screens.note import NoteScreen

        if self._table is not None and self._table.current is not None and not self.bench.refuse_if_read_only():
            self.app.push_screen(NoteScreen(self._table.current), lambda _result: self.renew())
