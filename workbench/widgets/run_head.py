"""监视界面的文字：标题与进度条、状态块、图例与光标的读数。都是现状到几行文字，监视界面使用。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.strip import Strip

from nanogpt.i18n import _
from workbench.chart import METRICS, RUN_COLORS, X_AXES
from workbench.outcome import explain
from workbench.plot import duration, figure, notice_lines, progress_line, status_lines
from workbench.series import short_number
from workbench.terminal import cells, is_ascii_only, wrap
from workbench.watched_run import STATUS_WORDS
from workbench.widgets.lines import Piece, line_of
from workbench.widgets.run_table import STATUS_STYLES

if TYPE_CHECKING:
    from workbench.watched_run import WatchedRun
    from workbench.widgets.chart_view import ChartView

MOST_BAR_CELLS = 40


def title_line(runs: Sequence[WatchedRun], width: int, is_stopping: bool) -> Strip:
    """一个运行时：名字、状态、进度条、还要多久。"""
    if len(runs) > 1:
        text = _("{count} runs together").format(count=len(runs))
        return line_of((f" {text} ", "bold reverse"), width=width)
    run = runs[0]
    status = _("stopping") if is_stopping else _(STATUS_WORDS[run.status])
    left: list[Piece] = [(f" {run.name} ", "bold reverse"), (" ", ""),
                         (status, "bold yellow" if is_stopping else STATUS_STYLES[run.status]), ("  ", "")]
    seconds = None if run.has_ended else run.state.eta_seconds
    eta = "" if seconds is None else _("ETA {eta}").format(eta=duration(seconds))
    done = "" if run.state.progress is None else f"{run.state.progress:.0%}"
    room = width - sum(cells(text) for text, _style in left) - cells(eta) - cells(done) - 4
    return line_of(*left, *_bar(run.state.progress, min(room, MOST_BAR_CELLS)), f" {done}  {eta}", width=width)


def _bar(share: float | None, width: int) -> list[Piece]:
    if share is None or width < 6:
        return []
    full, rest = ("#", ".") if is_ascii_only() else ("━", "─")
    done = int(share * width)
    return [(full * done, "green"), (rest * (width - done), "dim")]


def status_block(run: WatchedRun, width: int, machine: str, stop_note: str) -> list[Strip]:
    """`machine` 是机器此刻的负荷；`stop_note` 待译，没有在叫停则空。"""
    lines = [line_of(text, width=width) for text in _paired(status_lines(run)[1:5], width)]
    if machine and not run.has_ended:
        lines += [line_of((text, "dim"), width=width) for text in _paired(machine.split("  "), width, "  ")]
    # 错误在结局里说，不说两遍
    lines += [line_of((text, "yellow"), width=width) for text in notice_lines(run)
              if not text.startswith(_("error: {what}").split("{")[0])]
    if stop_note:
        lines.append(line_of((_(stop_note), "bold yellow"), width=width))
    return lines + [line_of((part, style), width=width) for text, style in explain(run)
                    for part in wrap(text, width)[:3]]


def overlay_block(runs: Sequence[WatchedRun], width: int) -> list[Strip]:
    """叠在一起的每个一行，字母与图里的标记一致。"""
    return [line_of((f" {chr(ord('a') + index % 26)} ", f"bold color({RUN_COLORS[index % len(RUN_COLORS)]})"),
                    (run.name, "bold"), " ",
                    (_(STATUS_WORDS[run.status]), STATUS_STYLES[run.status]), "  ",
                    progress_line(run.state, has_ended=run.has_ended), width=width)
            for index, run in enumerate(runs)]


def _paired(texts: list[str], width: int, between: str = "   ") -> list[str]:
    """短的几行并作一行：80 格里省出行来给图。"""
    lines: list[str] = []
    for text in texts:
        if lines and cells(lines[-1]) + len(between) + cells(text) < width:
            lines[-1] += between + text
        else:
            lines.append(text)
    return lines


def legend_line(chart: ChartView, width: int, has_color: bool) -> Strip:
    """图画的是什么，各条线的名字；有光标时是它读到的值。"""
    view = chart.view
    if view is None:
        return line_of("")
    pieces: list[Piece] = [(f" {_(METRICS[view.metric][0])} ", "bold"), (f"/ {_(X_AXES[view.x_axis])}  ", "")]
    if view.is_log:
        pieces.append((_("log y") + "  ", "bold"))
    if chart.cursor is not None:
        pieces.append((f"@{short_number(float(f'{chart.cursor:.6g}'))}  ", "bold"))
        found = {curve.label: (curve.color, curve.marker) for curve in chart.curves}
        for label, _x, value in chart.readout():
            color, marker = found[label]
            shown = _legend_name(label, marker, len(chart.runs) > 1)
            pieces += [(f"{shown} ", f"color({color})"), (f"{figure(value, '{:.5g}')}  ", "bold")]
    elif not chart.lines:
        pieces.append((_("nothing to draw yet"), "dim"))
    else:
        for label, color, marker in chart.legend:
            shown = _legend_name(label, marker, len(chart.runs) > 1)
            pieces += [("──" if has_color else marker * 2, f"color({color})"), (f" {shown}  ", "")]
    return line_of(*pieces, width=width)


def _legend_name(label: str, marker: str, is_many: bool) -> str:
    """几个运行叠在一起时只写字母：名字在上面，几个长名字一行放不下。"""
    if not is_many:
        return label
    return marker if marker.islower() else _("{name} val").format(name=marker.lower())
