"""训练中写的样本，与图的横轴对应：光标到哪一步，就看那时的样本。

监视界面使用；样本来自 `sample` 事件，同一步的几个提示算一组。
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nanogpt.i18n import _
from nanogpt.text import visible

if TYPE_CHECKING:
    from workbench.watched_run import WatchedRun

Row = tuple[str, str]


def sample_iters(run: WatchedRun) -> list[int]:
    """有样本的各步，从早到晚。"""
    return sorted({record["iter"] for record in list(run.state.samples)})


def x_of(run: WatchedRun, x_axis: str, number: int) -> float:
    """第 `number` 步的横坐标，单位由 `x_axis` 定（`View.x_axis`）。"""
    if x_axis == "tokens":
        return number * float(run.state.tokens_per_iter or 1)
    if x_axis != "time":
        return float(number)
    with run.lock:
        steps, seconds = run.state.column("iter"), run.state.elapsed_seconds()
    return float(np.interp(number, steps, seconds)) if len(steps) else 0.0


def at_cursor(run: WatchedRun, x_axis: str, x: float | None) -> int | None:
    """光标处（没有光标就是最近）的那一组：不晚于它的最后一组；都比它晚就是第一组。"""
    found = sample_iters(run)
    if not found:
        return None
    if x is None:
        return found[-1]
    # 光标停在某一组上时，来回换算的误差不该让它退到前一组
    slack = abs(x) * 1e-9
    return next((number for number in reversed(found) if x_of(run, x_axis, number) <= x + slack), found[0])


def walked(run: WatchedRun, x_axis: str, x: float | None, step: int) -> int | None:
    """从光标往前（-1）或往后（1）的那一组；还没有光标时从最近的一组开始。"""
    found = sample_iters(run)
    here = at_cursor(run, x_axis, x)
    if here is None or x is None:
        return here
    return found[max(0, min(len(found) - 1, found.index(here) + step))]


def sample_rows(run: WatchedRun, number: int | None) -> list[Row]:
    """一组样本写成的行，已净化；提示与写出来的接在一起；几个提示之间空一行。"""
    if number is None:
        return [(_("no samples yet"), "dim")]
    steps = sample_iters(run)
    place = _("sample at iter {n} ({place} of {count})").format(n=f"{number:,}", place=steps.index(number) + 1,
                                                                count=len(steps))
    rows: list[Row] = [(place, "bold")]
    found = [record for record in list(run.state.samples) if record["iter"] == number]
    for order, record in enumerate(found):
        rows += [("", "")] if order else []
        text = visible(record["prompt"] + record["text"]).expandtabs(4)
        rows += [(line, "") for line in text.split("\n")]
    return rows
