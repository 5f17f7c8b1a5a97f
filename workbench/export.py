"""把图与数据写成文件：CSV（每个运行一份）、SVG 与 PNG。监视界面使用，写到工作区的 `exports/`。"""

import csv
import math
import time
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from nanogpt.errors import BadInput
from nanogpt.i18n import _
from workbench.chart import View, curves_of
from workbench.picture import HEIGHT, WIDTH, Picture, picture_of
from workbench.run_state import ITER_FIELDS
from workbench.watched_run import WatchedRun


def export(workspace: Path, runs: Sequence[WatchedRun], view: View) -> list[Path]:
    """写出各文件并返回它们；写不了时抛出 `OSError`，日志没有读完时 `BadInput`。百万步要几秒，放在线程里调用。"""
    from workbench.png import write_png

    if any(run.follower.is_behind for run in runs):
        # 很长的日志读完之前只有草图
        raise BadInput("still_reading", _("the log is still being read"), "", _("try again in a few seconds"))
    folder = workspace / "exports"
    folder.mkdir(mode=0o700, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    written = []
    for run in runs:
        path = folder / f"{run.out_dir.resolve().name}-{stamp}.csv"
        write_csv(path, run)
        written.append(path)
    picture = picture_of(curves_of(runs, view), view, ", ".join(run.name for run in runs))
    path = folder / f"{runs[0].out_dir.resolve().name}-{view.metric}-{stamp}.svg"
    path.write_text(svg(picture), encoding="utf-8")
    write_png(path.with_suffix(".png"), picture)
    return [*written, path, path.with_suffix(".png")]


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


def svg(picture: Picture) -> str:
    """自足的一份 SVG；外来的文字已净化，这里转义。"""
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for line in picture.lines:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line.points)
        out.append(f'<polyline fill="none" stroke="{line.color}" stroke-width="{line.width}" points="{points}"/>')
    for label in picture.labels:
        middle = ' dominant-baseline="middle"' if label.is_centered else ""
        out.append(f'<text x="{label.x:.1f}" y="{label.y:.1f}" font-size="{label.size}" fill="{label.color}" '
                   f'text-anchor="{label.anchor}"{middle}>{escape(label.text)}</text>')
    return "\n".join([*out, "</svg>", ""])
