"""把运行的数列画成字符图：选哪一项、横轴用什么、对数、平滑、看哪一段。

`plot` 与应用的图都由这里画；不依赖界面。画布里只有数字（plotext 量不准汉字），别的文字在画布之外。
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanogpt.i18n import N_, _
from workbench.series import Segment, drawable, nice_ticks, reduce_series, short_number, smooth, sort_by_x
from workbench.watched_run import WatchedRun

# 图的种类：（名字，`iter` 事件的列，`eval` 事件的列）
METRICS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "loss": (N_("loss"), ("loss",), ("val_loss",)),
    "lr": (N_("learning rate"), ("lr",), ()),
    "grad_norm": (N_("gradient norm"), ("grad_norm",), ()),
    "speed": (N_("tokens per second"), ("tokens_per_second",), ()),
    "mfu": (N_("MFU"), ("mfu",), ()),
    "memory": (N_("memory, MiB"), ("memory_mib",), ()),
}
X_AXES: dict[str, str] = {"iter": N_("iterations"), "tokens": N_("tokens"), "time": N_("seconds")}
RAW, TRAIN, RAW_VAL, VAL = 245, 33, 137, 208
RUN_COLORS = (33, 208, 35, 170, 37, 160, 142, 99)
ASCII_FRAME = str.maketrans("─│┌┐└┘├┤┬┴┼", "-|+++++++++")


@dataclass(frozen=True)
class View:
    """看图的方式。`smoothing` 是窗口占全长的比例，0 不平滑；`span` 是横轴上看的一段，None 为全部。"""

    metric: str = "loss"
    x_axis: str = "iter"
    is_log: bool = False
    smoothing: float = 0.04
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Curve:
    """图上的一条线：图例、颜色（256 色）、纯文字时的标记、各点；`x` 从不减小。"""

    label: str
    color: int
    marker: str
    x: np.ndarray
    y: np.ndarray


def _x_of(run: WatchedRun, view: View, *, is_eval: bool) -> np.ndarray:
    """各点的横坐标，单位由 `view.x_axis` 定。"""
    state = run.state
    iters = state.eval_column("iter") if is_eval else state.column("iter")
    if view.x_axis == "tokens":
        return iters * float(state.tokens_per_iter or 1)
    if view.x_axis == "time":
        if not is_eval:
            return state.elapsed_seconds()
        # 评估没有自己的秒数列：放在同一步的训练点上
        known = state.column("iter")
        return np.interp(iters, known, state.elapsed_seconds()) if len(known) else iters * 0.0
    return iters


def curves_of(runs: Sequence[WatchedRun], view: View) -> list[Curve]:
    """要画的线，后画的盖住先画的。多个运行时每个只画平滑的一条，外加评估。"""
    curves = []
    for index, run in enumerate(runs):
        curves += _curves_of_one(run, index, len(runs) > 1, view)
    return curves


def _points(run: WatchedRun, view: View) -> tuple[Segment, list[Segment]]:
    """（`iter` 事件的点，`eval` 事件的各条线的点）。"""
    _title, iter_names, eval_names = METRICS[view.metric]
    # 轮询的线程可能正在追加：锁住才不会一列长一列短。算的事都在锁外，读日志的不等画图的
    with run.lock:
        x, y = _x_of(run, view, is_eval=False), run.state.column(iter_names[0])
        eval_x = _x_of(run, view, is_eval=True) if eval_names else x
        evals = [(eval_x, run.state.eval_column(name)) for name in eval_names]
    return sort_by_x(x, y), [sort_by_x(*points) for points in evals]


def smoothing_window(share: float, count: int) -> int:
    """窗口的点数，取二的幂：多一个点时整条线才不会跟着挪动。"""
    return 1 << (int(share * count).bit_length() - 1) if share * count >= 1 else 0


def _curves_of_one(run: WatchedRun, index: int, is_many: bool, view: View) -> list[Curve]:
    title, _iter_names, eval_names = METRICS[view.metric]
    curves = []
    color, letter = RUN_COLORS[index % len(RUN_COLORS)], chr(ord("a") + index % 26)
    (x, y), evals = _points(run, view)
    window = smoothing_window(view.smoothing, len(y))
    name = _("train") if eval_names else _(title)
    if is_many:
        curves.append(Curve(run.name, color, letter, x, smooth(y, max(1, window))))
    elif window > 1:
        curves.append(Curve(name, RAW, ".", x, y))
        curves.append(Curve(_("smoothed"), TRAIN, "*", x, smooth(y, window)))
    else:
        curves.append(Curve(name, TRAIN, "*", x, y))
    for eval_x, eval_y in evals:
        window = smoothing_window(view.smoothing, len(eval_y))
        if is_many:
            curves.append(Curve(_("{name} val").format(name=run.name), color, letter.upper(), eval_x, eval_y))
        elif window > 1:
            curves.append(Curve(_("validation"), RAW_VAL, ",", eval_x, eval_y))
            curves.append(Curve(_("validation, smoothed"), VAL, "o", eval_x, smooth(eval_y, window)))
        else:
            curves.append(Curve(_("validation"), VAL, "o", eval_x, eval_y))
    return curves


def visible_part(curve: Curve, view: View) -> tuple[np.ndarray, np.ndarray]:
    x, y = curve.x, curve.y
    if view.span is not None:
        first, last = int(np.searchsorted(x, view.span[0])), int(np.searchsorted(x, view.span[1], "right"))
        x, y = x[first:last], y[first:last]
    if view.is_log:
        with np.errstate(divide="ignore", invalid="ignore"):
            y = np.where(y > 0, np.log10(y), np.nan)
    return x, y


def draw(runs: Sequence[WatchedRun], view: View, width: int, height: int, *, has_color: bool = True,
         is_ascii: bool = False) -> str:
    """`height` 行的画布；没有可画的点则为空。"""
    return draw_curves(curves_of(runs, view), view, width, height, has_color=has_color, is_ascii=is_ascii)


def draw_curves(curves: Sequence[Curve], view: View, width: int, height: int, *, has_color: bool = True,
                is_ascii: bool = False, is_steady: bool = False) -> str:
    """同 `draw`，线已经取好。`is_steady`：纵轴两端取整，新的点多半不会让别的行跟着变。"""
    import plotext

    drawn: list[tuple[Curve, list[Segment]]] = []
    for curve in curves:
        segments = reduce_series(*visible_part(curve, view), width, view.span)
        if segments:
            drawn.append((curve, segments))
    if not drawn:
        return ""
    pieces = [segment for _curve, segments in drawn for segment in segments]
    left, right = view.span or (min(float(x[0]) for x, _y in pieces), max(float(x[-1]) for x, _y in pieces))
    low, high = min(float(y.min()) for _x, y in pieces), max(float(y.max()) for _x, y in pieces)
    if right <= left:
        left, right = left - 1, right + 1
    if high <= low:
        margin = abs(high) * 0.1 or 1.0
        low, high = low - margin, high + margin
    if is_steady:
        low, high = round_out(low, high)
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.limit_size(False, False)
    plotext.plotsize(width, height)
    for curve, segments in drawn:
        is_dotted = curve.marker.isupper() and has_color
        marker = curve.marker if is_ascii or not has_color else "•" if is_dotted else "braille"
        for x, y in segments:
            plotext.plot(x.tolist(), y.tolist(), marker=marker, color=curve.color)
    plotext.xlim(left, right)
    plotext.ylim(low, high)
    ticks = nice_ticks(left, right, max(2, width // 14))
    plotext.xticks(ticks, [short_number(value) for value in ticks])
    ticks = nice_ticks(low, high, max(3, height // 3))
    plotext.yticks(ticks, [short_number(10**value if view.is_log else value) for value in ticks])
    text: str = plotext.build()
    text = text if has_color else plotext.uncolorize(text)
    return (text.translate(ASCII_FRAME) if is_ascii else text).rstrip("\n")


def round_out(low: float, high: float) -> tuple[float, float]:
    """把两端向外放到整齐的数，约放宽二十分之一。"""
    step = 10.0 ** math.floor(math.log10(high - low)) / 2
    step = step / 5 if (high - low) / step < 5 else step
    return math.floor(low / step) * step, math.ceil(high / step) * step


def legend_items(runs: Sequence[WatchedRun], view: View) -> list[tuple[str, int, str]]:
    """图例的（文字, 颜色, 标记），只含有点可画的线。"""
    return legend_of(curves_of(runs, view))


def legend_of(curves: Sequence[Curve]) -> list[tuple[str, int, str]]:
    return [(curve.label, curve.color, curve.marker) for curve in curves if drawable(curve.y).any()]


def values_at(curves: Sequence[Curve], x: float) -> list[tuple[str, float, float]]:
    """光标处各条线的（图例, 最近一点的横坐标, 值）。"""
    found: list[tuple[str, float, float]] = []
    for curve in curves:
        near = _nearest(curve, x)
        if near is not None:
            found.append((curve.label, float(curve.x[near]), float(curve.y[near])))
    return found


def _nearest(curve: Curve, x: float) -> int | None:
    """横坐标最近、又画得出来的点；从 `x` 的两边一圈大过一圈地找，平常看几个点就够。"""
    middle, reach = int(np.searchsorted(curve.x, x)), 16
    while True:
        first, last = max(0, middle - reach), min(len(curve.x), middle + reach)
        keep = np.flatnonzero(drawable(curve.y[first:last])) + first
        is_whole = first == 0 and last == len(curve.x)
        if len(keep) and (first == 0 or curve.x[keep[0]] <= x) and (last == len(curve.x) or curve.x[keep[-1]] >= x):
            return int(keep[np.argmin(np.abs(curve.x[keep] - x))])
        if is_whole:
            return None
        reach *= 16


def span_of(curves: Sequence[Curve]) -> tuple[float, float] | None:
    ends = [(float(curve.x.min()), float(curve.x.max())) for curve in curves if len(curve.x)]
    ends = [pair for pair in ends if all(map(math.isfinite, pair))]
    return (min(low for low, _high in ends), max(high for _low, high in ends)) if ends else None
