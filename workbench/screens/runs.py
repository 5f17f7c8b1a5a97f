"""首页：工作区里的全部运行，以及空工作区里一键的快速上手。

表在第一次轮询之后才装上，所以第一帧不等 numpy。
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Key
from textual.widgets import Input

from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.screens.base import RunActions
from workbench.terminal import wrap
from workbench.widgets.hint_bar import HintBar
from workbench.widgets.lines import LineView, line_of

if TYPE_CHECKING:
    from workbench.watched_run import WatchedRun
    from workbench.widgets.run_table import RunTable

LIVE = ("starting", "running", "stalled")
SORTS = (N_("live first, then newest"), N_("name"), N_("loss"), N_("best val"), N_("progress"))
TALL_ROWS = 34


class RunsScreen(RunActions):
    """列表、过滤、标记；回车打开监视。"""

    HINTS = ("runs.open", "runs.new", "run.stop", "run.resume", "run.sample", "runs.filter", "runs.mark", "app.quit",
             "runs.sort", "run.clone", "run.delete", "runs.note")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", N_("open"), id="runs.open", tooltip=N_("watch this run, or the marked ones together")),
        Binding("n", "new", N_("new run"), id="runs.new", tooltip=N_("choose a preset and its options, then launch")),
        Binding("slash", "filter", N_("filter"), id="runs.filter",
                tooltip=N_("show the runs that match, such as: status:running learning_rate>=1e-3 dataset:tiny")),
        Binding("o", "sort", N_("sort"), id="runs.sort", tooltip=N_("sort by something else")),
        Binding("space", "mark", N_("mark"), id="runs.mark", tooltip=N_("mark runs to overlay, stop or delete them")),
        Binding("down,j", "move(1)", N_("down"), show=False, id="runs.down", tooltip=N_("next run")),
        Binding("up,k", "move(-1)", N_("up"), show=False, id="runs.up", tooltip=N_("previous run")),
        Binding("pagedown,ctrl+f", "move(10)", N_("page down"), show=False, id="runs.page_down",
                tooltip=N_("ten runs down")),
        Binding("pageup,ctrl+b", "move(-10)", N_("page up"), show=False, id="runs.page_up", tooltip=N_("ten runs up")),
        Binding("g,home", "move(-100000)", N_("first"), show=False, id="runs.first", tooltip=N_("first run")),
        Binding("G,end", "move(100000)", N_("last"), show=False, id="runs.last", tooltip=N_("last run")),
        Binding("l,right", "open", N_("open"), show=False, id="runs.open_right", tooltip=N_("watch this run")),
        Binding("Q", "quick_start", N_("quick start"), show=False, id="runs.quick_start",
                tooltip=N_("train a small model on Python's own standard library: no network, no GPU")),
        Binding("e", "note", N_("note"), show=False, id="runs.note", tooltip=N_("notes and #tags of this run")),
        Binding("escape", "clear", N_("clear"), show=False, id="runs.clear",
                tooltip=N_("drop the filter and the marks")),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.sort_index = 0
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
        runs = self.bench.store.runs
        marked = [runs[folder] for folder in self._table.marked if folder in runs]
        return marked or ([self._table.current] if self._table.current else [])

    # ---- 画 ----

    def renew(self) -> None:
        if not self.is_mounted or self.size.width < 10:
            return
        runs = list(self.bench.store.runs.values()) if self.bench.is_loaded else []
        if runs and self._table is None:
            self._mount_table()
            return
        self._show_title(runs)
        self._show_welcome(runs)
        if self._table is not None:
            self._table.display = bool(runs)
            self._table.fill(self._sorted(self._filtered(runs)), set(self.bench.stops))
        self._show_detail()

    def _mount_table(self) -> None:
        from workbench.widgets.chart_view import ChartView
        from workbench.widgets.run_table import RunTable

        self._table = RunTable(id="table")
        self.mount(self._table, ChartView(id="preview"), before="#detail")
        self.call_after_refresh(self.renew)

    def _show_title(self, runs: list[WatchedRun]) -> None:
        live = sum(run.status in LIVE for run in runs)
        where = visible(str(self.bench.workspace.resolve()), keep="")
        parts = [(" nanogpt-workbench ", "bold reverse"), ("  ", "")]
        if runs:
            parts.append((_("runs: {count}, live: {live}").format(count=len(runs), live=live), "bold"))
            parts.append((f"  {_(SORTS[self.sort_index])}", "dim"))
        if not self.bench.store.is_loaded and runs:
            parts.append(("  " + _("reading..."), "bold yellow"))
        if self.query_text:
            parts.append((f"  /{visible(self.query_text, keep='')}", "bold yellow"))
        if self.bench.is_read_only:
            parts.append(("  " + _("read-only"), "bold reverse"))
        parts.append((f"  {where}", "dim"))
        self.query_one("#title", LineView).show([line_of(*parts, width=self.size.width)])

    def _show_welcome(self, runs: list[WatchedRun]) -> None:
        view = self.query_one("#welcome", LineView)
        view.display = not runs
        if runs:
            return
        if not self.bench.is_loaded:
            view.show([line_of(_("Looking for runs..."))])
            return
        texts: list[tuple[str, str]] = [(_("No runs here yet."), "bold"), ("", "")]
        if not self.bench.is_read_only:
            texts += [(_("Press enter to train your first model."), "bold green"), ("", ""),
                      (_("A small GPT learns Python from the source of its standard library: no network, no GPU, a few "
                         "minutes. Its curve appears here; you can leave at any time (q) and the run goes on."), ""),
                      ("", ""), (_("n chooses a preset, a dataset and every option instead."), "")]
        width = max(20, min(76, self.size.width - 6))
        view.show([line_of((line, style)) for text, style in texts for line in wrap(text, width)])

    def _show_detail(self) -> None:
        detail = self.query_one("#detail", LineView)
        current = self._table.current if self._table is not None else None
        detail.display = current is not None or bool(self.problem)
        lines = [line_of((self.problem, "bold red"))] if self.problem else []
        if current is None:
            if self.query_text and self._table is not None:
                detail.display = True
                lines.append(line_of(_("no run matches; esc drops the filter")))
            detail.show(lines)
            return
        from workbench.outcome import explain
        from workbench.plot import status_lines
        from workbench.screens.note import read_note

        width = self.size.width
        rule = "-" if self.bench.is_ascii else "─"
        lines.append(line_of((rule * width, "dim")))
        lines += [line_of(text, width=width) for text in status_lines(current)[1:5]]
        if note := read_note(current.out_dir):
            lines.append(line_of((_("note: {text}").format(text=note), "cyan"), width=width))
        if current.out_dir in self.bench.stop_notes:
            lines.append(line_of((_(self.bench.stop_notes[current.out_dir]), "bold yellow"), width=width))
        lines += [line_of((part, style), width=width) for text, style in explain(current, 2)
                  for part in wrap(text, width)[:2]]
        detail.show(lines[:8])
        self._show_preview(current)

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
        self.problem = ""
        if not self.query_text:
            return runs
        from workbench.query import QueryError, matches
        from workbench.screens.note import read_note

        try:
            return [run for run in runs if matches(self.query_text, run, read_note(run.out_dir))]
        except QueryError as error:
            self.problem = visible(str(error), keep="")
            return runs

    def _sorted(self, runs: list[WatchedRun]) -> list[WatchedRun]:
        infinity = float("inf")

        def small(value: float) -> float:
            return value if value == value else infinity

        keys: tuple[Any, ...] = (
            lambda run: (run.status not in LIVE, -small(run.state.last_time) if run.state.version else 0.0, run.name),
            lambda run: run.name,
            lambda run: small(run.state.latest("loss")),
            lambda run: small(run.state.best_val_loss),
            lambda run: -(run.state.progress or 0.0))
        return sorted(runs, key=keys[self.sort_index])

    def action_sort(self) -> None:
        self.sort_index = (self.sort_index + 1) % len(SORTS)
        self.bench.say(_("sorted by: {what}").format(what=_(SORTS[self.sort_index])), seconds=2.0)
        self.renew()

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.placeholder = _("words in the name, status:running, loss<2, learning_rate>=1e-3 ...")
        box.value = self.query_text
        box.add_class("-open")
        box.focus()

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
        elif self.bench.is_loaded and not self.bench.store.runs:
            self.action_quick_start()

    # ---- 新的运行 ----

    def action_new(self) -> None:
        from workbench.screens.launch import LaunchScreen

        if not self.bench.refuse_if_read_only():
            self.app.push_screen(LaunchScreen())

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
