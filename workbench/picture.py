"""一张图由哪些线与字组成：与终端里同样的数列、同样的看法，只是画在白纸上。

`workbench.export` 把它写成 SVG，`workbench.png` 画成 PNG。坐标以点计，左上角是原点。
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from nanogpt.i18n import _
from nanogpt.text import visible
from workbench.chart import METRICS, X_AXES, Curve, View, span_of, visible_part
from workbench.series import nice_ticks, reduce_series, short_number
from workbench.terminal import fit

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 960, 540, 80, 40, 20, 60
FRAME, GRID, INK = "#444444", "#dddddd", "#000000"
# 与终端里相近的 256 色
COLORS = {245: "#8a8a8a", 33: "#0087ff", 208: "#ff8700", 35: "#00af5f", 170: "#d75fd7", 37: "#00afaf",
          137: "#af875f", 160: "#d70000", 142: "#afaf00", 99: "#875fff"}
TITLE_CELLS, LABEL_CELLS, LABEL_WIDTH = 110, 30, 220
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """折线。"""

    points: tuple[Point, ...]
    color: str
    width: float = 1.0


@dataclass(frozen=True)
class Label:
    """一行字；`anchor`：`start`、`middle`、`end`，`y` 是基线，`is_centered` 时是字的中线。"""

    x: float
    y: float
    text: str
    color: str = INK
    size: int = 13
    anchor: str = "start"
    is_centered: bool = False


@dataclass
class Picture:
    """先画线，后写字，都按次序。"""

    lines: list[Line] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


def picture_of(curves: Sequence[Curve], view: View, title: str) -> Picture:
    """没有可画的点时只有框。"""
    span = view.span or span_of(curves) or (0.0, 1.0)
    shown = replace(view, span=span)
    drawn = [(curve, reduce_series(*visible_part(curve, shown), WIDTH)) for curve in curves]
    values = [(float(y.min()), float(y.max())) for _curve, pieces in drawn for _x, y in pieces]
    low, high = (min(v[0] for v in values), max(v[1] for v in values)) if values else (0.0, 1.0)
    if high <= low:
        low, high = low - 0.5, high + 0.5

    def place(x: float, y: float) -> Point:
        across = (x - span[0]) / max(1e-12, span[1] - span[0])
        down = (high - y) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), TOP + down * (HEIGHT - TOP - BOTTOM)

    picture = Picture()
    for tick in nice_ticks(span[0], span[1], 8):
        picture.labels.append(Label(place(tick, low)[0], HEIGHT - BOTTOM + 20, short_number(tick), anchor="middle"))
    for tick in nice_ticks(low, high, 6):
        y = place(span[0], tick)[1]
        text = short_number(10**tick if view.is_log else tick)
        picture.lines.append(Line(((LEFT, y), (WIDTH - RIGHT, y)), GRID))
        picture.labels.append(Label(LEFT - 8, y, text, anchor="end", is_centered=True))
    left, right, bottom = float(LEFT), float(WIDTH - RIGHT), float(HEIGHT - BOTTOM)
    picture.lines.append(Line(((left, TOP), (right, TOP), (right, bottom), (left, bottom), (left, TOP)), FRAME))
    for curve, pieces in drawn:
        for xs, ys in pieces:
            points = tuple(place(float(x), float(y)) for x, y in zip(xs, ys, strict=True))
            picture.lines.append(Line(points, COLORS.get(curve.color, INK), 1.5))
    _write_labels(picture, [curve for curve, pieces in drawn if pieces], view, title)
    return picture


def _write_labels(picture: Picture, curves: Sequence[Curve], view: View, title: str) -> None:
    axes = f"{_(METRICS[view.metric][0])} / {_(X_AXES[view.x_axis])}"
    picture.labels += [Label(LEFT, 24, _outside(title, TITLE_CELLS), size=15), Label(LEFT, HEIGHT - 14, axes)]
    picture.labels += [Label(WIDTH - LABEL_WIDTH, TOP + 18 * (index + 1), _outside(curve.label, LABEL_CELLS),
                             COLORS.get(curve.color, INK)) for index, curve in enumerate(curves)]


def _outside(text: str, cells: int) -> str:
    # 这两个码位不许出现在 XML 里
    return fit(visible(text, keep="").replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd"), cells)
