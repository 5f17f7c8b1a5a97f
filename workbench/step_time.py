"""一步的时间花在哪里：`iter` 事件里 `log_timing` 的各部分，写成监视界面里的几行。

数来自 `RunState.step_parts`；没有打开 `log_timing` 的运行，说明怎样打开。
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nanogpt.i18n import N_, _
from workbench.run_state import STEP_PARTS
from workbench.terminal import cells, is_ascii_only, pad, wrap

if TYPE_CHECKING:
    from workbench.watched_run import WatchedRun

Row = tuple[str, str]
NAMES = dict(zip(STEP_PARTS, (N_("data"), N_("forward"), N_("backward"), N_("optimizer"), N_("logging")), strict=True))
MOST_BAR_CELLS = 30


def step_rows(runs: Sequence[WatchedRun], width: int) -> list[Row]:
    """每个运行一段：各部分的毫秒、占整步的几成、一条横条；`width` 格之内。"""
    rows: list[Row] = []
    for run in runs:
        if rows:
            rows.append(("", ""))
        if len(runs) > 1:
            rows.append((run.name, "bold"))
        parts = run.state.step_parts()
        if parts is None:
            text = _("This run does not log where a step's time goes. Set log_timing=True when starting it, or resume "
                     "it with --log_timing=True.")
            rows += [(part, "dim") for part in wrap(text, width)]
        else:
            rows += _table(parts, width)
    return rows


def _table(parts: dict[str, float], width: int) -> list[Row]:
    """整步减去各部分，余下的是「其余」：定学习率、看有没有人叫停。"""
    total = parts["iter_ms"]
    figures = [(_(NAMES[name]), parts[name]) for name in STEP_PARTS]
    figures.append((_("the rest"), max(0.0, total - sum(ms for _name, ms in figures))))
    names = max(cells(name) for name, _ms in figures)
    numbers = max(len(f"{ms:,.2f}") for ms in (total, *parts.values()))
    room = min(MOST_BAR_CELLS, width - names - numbers - len("  ms  100%  "))
    mark = "#" if is_ascii_only() else "━"
    rows: list[Row] = [(_("a step: {ms:,.2f} ms, the median of the last ones logged").format(ms=total), "bold")]
    for name, ms in figures:
        share = min(1.0, ms / total) if total else 0.0
        bar = mark * round(share * room) if room > 3 else ""
        rows.append((f"{pad(name, names)}  {ms:>{numbers},.2f} ms {share:>4.0%}  {bar}".rstrip(), ""))
    return rows
