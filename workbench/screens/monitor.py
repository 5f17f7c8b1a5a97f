"""看着一个运行（或叠在一起的几个）：状态、图、日志、事件、配置差异。"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import Key
from textual.widgets import Input

from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.chart import METRICS, X_AXES, View
from workbench.machine_load import MachineLoad
from workbench.sample_walk import at_cursor, sample_rows, walked, x_of
from workbench.screens.base import RunActions
from workbench.step_time import step_rows
from workbench.widgets.chart_view import ChartView
from workbench.widgets.hint_bar import HintBar
from workbench.widgets.lines import LineView, Piece, line_of
from workbench.widgets.run_head import legend_line, overlay_block, status_block, title_line
from workbench.widgets.tail_view import ConsoleTail, TailView, difference_rows, event_rows

if TYPE_CHECKING:
    from workbench.watched_run import WatchedRun

SMOOTHINGS = (0.0, 0.01, 0.04, 0.1)
MACHINE_SECONDS = 5.0
LOG, EVENTS_TAB, DIFFERENCES, SAMPLES = N_("log"), N_("events"), N_("config differences"), N_("samples")
STEP_TIME = N_("step time")


class MonitorScreen(RunActions):
    """`runs` 至少一个。没有可以聚焦的部件：所有的键都归这一屏。"""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (140, "-wide")]  # noqa: RUF012
    HINTS = ("monitor.back", "run.stop", "run.resume", "run.sample", "monitor.metric", "monitor.left",
             "monitor.zoom_in", "monitor.tab", "monitor.x", "monitor.log", "monitor.smooth", "monitor.search",
             "monitor.export", "run.clone", "run.copy", "app.quit")
    VERTICAL_BREAKPOINTS = [(0, "-short"), (34, "-medium")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace", "leave", N_("back"), id="monitor.back", tooltip=N_("back to the list of runs")),
        *[Binding(str(index), f"metric('{name}')", title, show=False, id=f"monitor.{name}",
                  tooltip=N_("draw this instead")) for index, (name, (title, _i, _e)) in enumerate(METRICS.items(), 1)],
        Binding("v", "next_metric", N_("chart"), key_display="1-6", id="monitor.metric",
                tooltip=N_("the next kind of chart")),
        Binding("x", "x_axis", N_("x axis"), id="monitor.x", tooltip=N_("by iterations, tokens or seconds")),
        Binding("g", "log_axis", N_("log y"), id="monitor.log", tooltip=N_("logarithmic y axis")),
        Binding("m", "smoothing", N_("smooth"), id="monitor.smooth", tooltip=N_("more or less smoothing")),
        Binding("plus,equals_sign", "zoom(0.5)", N_("zoom"), id="monitor.zoom_in", tooltip=N_("zoom in at the cursor")),
        Binding("minus", "zoom(2.0)", N_("zoom out"), show=False, id="monitor.zoom_out", tooltip=N_("zoom out")),
        Binding("0", "zoom_all", N_("all"), show=False, id="monitor.all", tooltip=N_("the whole curve, no cursor")),
        Binding("left,h", "cursor(-1)", N_("cursor"), id="monitor.left", tooltip=N_("read values, one column left")),
        Binding("right,l", "cursor(1)", N_("cursor right"), show=False, id="monitor.right",
                tooltip=N_("read values, one column right")),
        Binding("ctrl+left,H", "cursor(-10)", N_("cursor far left"), show=False, id="monitor.far_left",
                tooltip=N_("ten columns left")),
        Binding("ctrl+right,L", "cursor(10)", N_("cursor far right"), show=False, id="monitor.far_right",
                tooltip=N_("ten columns right")),
        Binding("left_square_bracket,shift+left", "pan(-0.25)", N_("pan left"), show=False, id="monitor.pan_left",
                tooltip=N_("move the zoomed part left")),
        Binding("right_square_bracket,shift+right", "pan(0.25)", N_("pan right"), show=False, id="monitor.pan_right",
                tooltip=N_("move the zoomed part right")),
        Binding("tab,t", "next_tab", N_("events"), id="monitor.tab", tooltip=N_("log, events, config differences")),
        Binding("T", "step_time", N_("step time"), show=False, id="monitor.step_time",
                tooltip=N_("where a step's time goes: data, forward, backward, optimizer, logging")),
        Binding("less_than_sign", "walk(-1)", N_("samples"), show=False, id="monitor.sample_before",
                tooltip=N_("the sample before, in step with the chart's cursor")),
        Binding("greater_than_sign", "walk(1)", N_("next sample"), show=False, id="monitor.sample_after",
                tooltip=N_("the sample after, in step with the chart's cursor")),
        Binding("slash", "search", N_("search"), show=False, id="monitor.search", tooltip=N_("search the log")),
        Binding("n", "search_again(True)", N_("next match"), show=False, id="monitor.next",
                tooltip=N_("the match above")),
        Binding("N", "search_again(False)", N_("previous match"), show=False, id="monitor.previous",
                tooltip=N_("the match below")),
        Binding("f", "follow", N_("follow"), show=False, id="monitor.follow", tooltip=N_("keep to the log's end")),
        Binding("down,j", "scroll(1)", N_("scroll down"), show=False, id="monitor.down", tooltip=N_("log down")),
        Binding("up,k", "scroll(-1)", N_("scroll up"), show=False, id="monitor.up", tooltip=N_("log up")),
        Binding("pagedown", "scroll(10)", N_("page down"), show=False, id="monitor.page_down", tooltip=N_("log down")),
        Binding("pageup", "scroll(-10)", N_("page up"), show=False, id="monitor.page_up", tooltip=N_("log up")),
        Binding("home", "scroll_home", N_("log start"), show=False, id="monitor.home", tooltip=N_("log's start")),
        Binding("end,G", "follow", N_("log end"), show=False, id="monitor.end", tooltip=N_("log's end")),
        Binding("w", "export", N_("export"), show=False, id="monitor.export",
                tooltip=N_("write the data as CSV and the chart as SVG and PNG, into exports/")),
    ]

    def __init__(self, runs: Sequence[WatchedRun]):
        super().__init__()
        self.runs = list(runs)
        self.view = View()
        self.machine = ""
        self.tabs = [DIFFERENCES, LOG, EVENTS_TAB] if len(self.runs) > 1 else [LOG, EVENTS_TAB]
        self.tab_index = 0
        self.chart = ChartView(id="chart")
        self._load = MachineLoad()

    def compose(self) -> ComposeResult:
        yield LineView(id="title", classes="title")
        yield LineView(id="status")
        with Vertical(id="body"):
            with Vertical(id="plot"):
                yield self.chart
                yield LineView(id="legend")
            with Vertical(id="side"):
                yield LineView(id="tabs")
                yield ConsoleTail(id="log")
                yield TailView(id="rows")
        yield Input(id="search", classes="line", compact=True)
        yield HintBar()

    def on_mount(self) -> None:
        self.chart.look(self.runs, self.view)
        self.set_interval(MACHINE_SECONDS, self._look_at_machine)
        self.run_worker(self._look_at_machine(), group="machine")

    def chosen_runs(self) -> list[WatchedRun]:
        return self.runs

    async def _look_at_machine(self) -> None:
        # 都结束了就不看：空闲时不该有任何字节送往终端
        if self.is_active and any(not run.has_ended for run in self.runs):
            self.machine = await asyncio.to_thread(self._load.sample)
            self._show_status()

    # ---- 画 ----

    def renew(self) -> None:
        if not self.is_mounted or self.size.width < 10 or not self.query("#legend"):
            return
        # 续训或日志换了之后，仓库里可能已是另一个对象
        known = self.bench.store.runs
        self.runs = [known.get(run.out_dir, run) for run in self.runs]
        self._show_title()
        self._show_status()
        self._show_panel()
        self._show_legend()
        self.chart.data_changed()

    def on_resize(self) -> None:
        self.call_after_refresh(self.renew)

    def _show_title(self) -> None:
        is_stopping = self.runs[0].out_dir in self.bench.stops
        self.query_one("#title", LineView).show([title_line(self.runs, self.size.width, is_stopping)])

    def _show_status(self) -> None:
        width, run = self.size.width, self.runs[0]
        lines = overlay_block(self.runs, width) if len(self.runs) > 1 else \
            status_block(run, width, self.machine, self.bench.stop_notes.get(run.out_dir, ""))
        self.query_one("#status", LineView).show(lines[:max(4, self.size.height // 3)])

    def _show_panel(self) -> None:
        if SAMPLES not in self.tabs and len(self.runs) == 1 and self.runs[0].state.samples:
            self.tabs.append(SAMPLES)
        if STEP_TIME not in self.tabs and any(run.state.steps for run in self.runs):
            self.tabs.append(STEP_TIME)
        tab = self.tabs[self.tab_index]
        log, rows = self.query_one("#log", ConsoleTail), self.query_one("#rows", TailView)
        log.display, rows.display = tab == LOG, tab != LOG
        pieces: list[Piece] = []
        for name in self.tabs:
            pieces += [(f" {_(name)} ", "bold reverse" if name == tab else "dim"), (" ", "")]
        shown: TailView = log if tab == LOG else rows
        if not shown.is_following:
            pieces.append((_("scrolled; f follows"), "yellow"))
        if shown.query_text:
            pieces.append((f" /{visible(shown.query_text, keep='')}", "bold yellow"))
        self.query_one("#tabs", LineView).show([line_of(*pieces, width=max(10, self.query_one("#tabs").size.width))])
        if tab == LOG:
            log.read(self.runs[0].out_dir)
        elif tab == SAMPLES:
            run, axis = self.runs[0], self.view.x_axis
            rows.fill(sample_rows(run, at_cursor(run, axis, self.chart.cursor)))
        elif tab == STEP_TIME:
            rows.fill(step_rows(self.runs, max(10, self.query_one("#tabs").size.width)))
        else:
            rows.fill(difference_rows(self.runs) if tab == DIFFERENCES else
                      [row for run in self.runs for row in event_rows(run)] or [(_("nothing yet"), "dim")])

    @on(ChartView.Drawn)
    def _show_legend(self) -> None:
        legend = self.query_one("#legend", LineView)
        has_color = not (self.bench.is_ascii or self.app.no_color)
        legend.show([legend_line(self.chart, max(10, legend.size.width), has_color)])

    # ---- 图 ----

    def _look(self, **changes: object) -> None:
        self.view = replace(self.view, **changes)  # type: ignore[arg-type]
        self.chart.look(self.runs, self.view)
        self._show_legend()

    def action_metric(self, name: str) -> None:
        self._look(metric=name)

    def action_next_metric(self) -> None:
        names = list(METRICS)
        self._look(metric=names[(names.index(self.view.metric) + 1) % len(names)])

    def action_x_axis(self) -> None:
        names = list(X_AXES)
        self._look(x_axis=names[(names.index(self.view.x_axis) + 1) % len(names)], span=None)

    def action_log_axis(self) -> None:
        self._look(is_log=not self.view.is_log)

    def action_smoothing(self) -> None:
        places = [index for index, value in enumerate(SMOOTHINGS) if value == self.view.smoothing]
        share = SMOOTHINGS[(places[0] + 1) % len(SMOOTHINGS) if places else 0]
        self._look(smoothing=share)
        self.bench.say(_("smoothing over {share:.0%} of the curve").format(share=share), seconds=2.0)

    def action_zoom(self, factor: float) -> None:
        self._look(span=self.chart.zoomed(factor))

    def action_zoom_all(self) -> None:
        self.chart.drop_cursor()
        self._look(span=None)

    def action_pan(self, share: float) -> None:
        self._look(span=self.chart.panned(share))

    def action_cursor(self, columns: int) -> None:
        self.chart.move_cursor(columns)
        self._show_legend()
        if self.tabs[self.tab_index] == SAMPLES:
            self._show_panel()

    def action_walk(self, step: int) -> None:
        """前一组或后一组样本；图上的光标跟着走。"""
        run, axis = self.runs[0], self.view.x_axis
        number = walked(run, axis, self.chart.cursor, step)
        self._show_panel()
        if number is None or SAMPLES not in self.tabs:
            self.bench.say(_("no samples yet"), seconds=3.0)
            return
        self.tab_index = self.tabs.index(SAMPLES)
        self.query_one("#rows", TailView).to_top()
        self.chart.put_cursor(x_of(run, axis, number))
        self._show_legend()
        self._show_panel()

    # ---- 日志 ----

    @property
    def _panel(self) -> TailView:
        return self.query_one("#log" if self.tabs[self.tab_index] == LOG else "#rows", TailView)

    def action_next_tab(self) -> None:
        self._show_tab((self.tab_index + 1) % len(self.tabs))

    def _show_tab(self, index: int) -> None:
        self.tab_index = index
        is_growing = self.tabs[self.tab_index] not in (DIFFERENCES, SAMPLES, STEP_TIME)
        self.query_one("#rows", TailView).is_following = is_growing
        self._show_panel()
        self.call_after_refresh(self._show_panel)

    def action_step_time(self) -> None:
        """一步的时间花在哪里；已经看着它，就回到日志。"""
        if STEP_TIME not in self.tabs:
            self.tabs.append(STEP_TIME)
        wanted = LOG if self.tabs[self.tab_index] == STEP_TIME else STEP_TIME
        self._show_tab(self.tabs.index(wanted))

    def action_scroll(self, rows: int) -> None:
        self._panel.scroll_rows(rows)
        self._show_panel()

    def action_scroll_home(self) -> None:
        self._panel.to_top()
        self._show_panel()

    def action_follow(self) -> None:
        self._panel.follow()
        self._show_panel()

    def action_search(self) -> None:
        box = self.query_one("#search", Input)
        box.placeholder, box.value = _("search the log"), ""
        box.add_class("-open")
        self.set_focus(box)  # `focus()` 要过一会儿才生效，紧跟着打的字就丢了

    @on(Input.Submitted, "#search")
    def search(self, event: Input.Submitted) -> None:
        self._close_search()
        if not self._panel.search(event.value):
            self.bench.say(_("not found: {text}").format(text=event.value), "warning", 3.0)
        self._show_panel()

    def action_search_again(self, is_back: bool) -> None:
        self._panel.search(self._panel.query_text, is_back=is_back, is_fresh=False)
        self._show_panel()

    def _close_search(self) -> None:
        self.query_one("#search", Input).remove_class("-open")
        self.set_focus(None)

    def on_key(self, event: Key) -> None:
        if event.key == "escape" and self.query_one("#search", Input).has_focus:
            event.stop()
            event.prevent_default()
            self._close_search()

    # ---- 别的 ----

    def action_leave(self) -> None:
        if self.query_one("#search", Input).has_focus:
            self._close_search()
        else:
            self.app.pop_screen()

    @work(exclusive=True, group="export")
    async def action_export(self) -> None:
        from workbench.export import export

        if self.bench.refuse_if_read_only():
            return
        try:
            written = await asyncio.to_thread(export, self.bench.workspace, self.runs, self.view)
        except (BadInput, OSError) as error:
            self.bench.say_error(error)
            return
        self.bench.say(_("Written into {folder}: {files}").format(
            folder="exports/", files=", ".join(path.name for path in written)), seconds=10.0)
