"""把图与数据写成文件：CSV（每个运行一份）与 SVG。监视界面使用，写到工作区的 `exports/`。"""

import csv
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape

from nanogpt.i18n import _
from nanogpt.text import visible
from workbench.chart import METRICS, X_AXES, Curve, View, curves_of, span_of, visible_part
from workbench.run_state import ITER_FIELDS
from workbench.series import nice_ticks, reduce_series, short_number
from workbench.watched_run import WatchedRun

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 960, 540, 80, 40, 20, 60
# 与终端里相近的 256 色
COLORS = {245: "#8a8a8a", 33: "#0087ff", 208: "#ff8700", 35: "#00af5f", 170: "#d75fd7", 37: "#00afaf",
          160: "#d70000", 142: "#afaf00", 99: "#875fff"}


def export(workspace: Path, runs: Sequence[WatchedRun], view: View) -> list[Path]:
    """写出各文件并返回它们；写不了时抛出 `OSError`。"""
    folder = workspace / "exports"
    folder.mkdir(mode=0o700, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    written = []
    for run in runs:
        path = folder / f"{run.out_dir.resolve().name}-{stamp}.csv"
        write_csv(path, run)
        written.append(path)
    path = folder / f"{runs[0].out_dir.resolve().name}-{view.metric}-{stamp}.svg"
    path.write_text(svg(curves_of(runs, view), view, ", ".join(run.name for run in runs)), encoding="utf-8")
    return [*written, path]


def write_csv(path: Path, run: WatchedRun) -> None:
    """一行一步；评估的两列只在评估过的那一步有值，缺失为空。"""
    with run.lock:
        names = ("iter", "time", *ITER_FIELDS)
        columns = [run.state.column(name) for name in names]
        evals = {int(step): (train, val) for step, train, val in zip(
            *(run.state.eval_column(name) for name in ("iter", "train_loss", "val_loss")), strict=True)}
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "eval_train_loss", "eval_val_loss"])
        for row in zip(*columns, strict=True):
            pair = evals.pop(int(row[0]), (math.nan, math.nan))
            writer.writerow([int(row[0]), *map(_cell, row[1:]), *map(_cell, pair)])
        for step, pair in evals.items():
            writer.writerow([step, *[""] * (len(names) - 1), *map(_cell, pair)])


def _cell(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""


def svg(curves: Sequence[Curve], view: View, title: str) -> str:
    """自足的一张图；没有可画的点时只有框。"""
    span = view.span or span_of(curves) or (0.0, 1.0)
    shown = replace(view, span=span)
    drawn = [(curve, reduce_series(*visible_part(curve, shown), WIDTH)) for curve in curves]
    values = [(float(y.min()), float(y.max())) for _curve, pieces in drawn for _x, y in pieces]
    low, high = (min(v[0] for v in values), max(v[1] for v in values)) if values else (0.0, 1.0)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(x: float, y: float) -> str:
        across = (x - span[0]) / max(1e-12, span[1] - span[0])
        return f"{LEFT + across * width:.1f},{TOP + (high - y) / (high - low) * height:.1f}"

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
           f'font-size="13">', f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           _text(LEFT, 24, title, 'font-size="15"')]
    out += _axes(span, (low, high), view, place)
    for index, (curve, pieces) in enumerate(drawn):
        color = COLORS.get(curve.color, "#000000")
        for xs, ys in pieces:
            points = " ".join(place(float(x), float(y)) for x, y in zip(xs, ys, strict=True))
            out.append(f'<polyline fill="none" stroke="{color}" stroke-width="1.5" points="{points}"/>')
        out.append(_text(WIDTH - 220, TOP + 18 * (index + 1), curve.label, f'fill="{color}"'))
    return "\n".join([*out, "</svg>", ""])


def _axes(span: tuple[float, float], values: tuple[float, float], view: View,
          place: Callable[[float, float], str]) -> list[str]:
    out = [f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}" fill="none" '
           f'stroke="#444"/>']
    for tick in nice_ticks(*span, 8):
        x = place(tick, values[0]).split(",")[0]
        out.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{short_number(tick)}</text>')
    for tick in nice_ticks(*values, 6):
        y = place(span[0], tick).split(",")[1]
        label = short_number(10**tick if view.is_log else tick)
        out.append(f'<text x="{LEFT - 8}" y="{y}" text-anchor="end" dominant-baseline="middle">{label}</text>')
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#ddd"/>')
    out.append(_text(LEFT, HEIGHT - 14, f"{_(METRICS[view.metric][0])} / {_(X_AXES[view.x_axis])}"))
    return out


def _text(x: float, y: float, text: str, more: str = "") -> str:
    # 这两个码位不许出现在 XML 里
    shown = visible(text, keep="").replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")
    return f'<text x="{x}" y="{y}" {more}>{escape(shown)}</text>'
