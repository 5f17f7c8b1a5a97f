"""画图之前对数列做的事：丢掉画不了的数、按列缩减、平滑、选刻度。

输入是 `RunState.column` 给的 float64 数组，输出交给 `plot` 与图表部件。只用 numpy。
"""

import math

import numpy as np

# 更大的数在画布的算术里会溢出；损失也不会真有这么大。
LARGEST_DRAWN = 1e100

Segment = tuple[np.ndarray, np.ndarray]


def drawable(values: np.ndarray) -> np.ndarray:
    """哪些点画得出来：有限且不大得离谱。"""
    with np.errstate(invalid="ignore"):
        is_drawable: np.ndarray = np.abs(values) <= LARGEST_DRAWN
    return is_drawable


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """居中的滑动平均，两端窗口变窄；画不了的点不计入，原位仍是 NaN。"""
    keep = drawable(values)
    kept = values if keep.all() else values[keep]
    count, half = len(kept), min(window, len(kept)) // 2
    sums = np.concatenate(([0.0], np.cumsum(kept)))
    means = np.empty(count)
    means[half:count - half] = (sums[2 * half + 1:] - sums[:count - 2 * half]) / (2 * half + 1)
    sizes = np.arange(half + 1, 2 * half + 1)
    means[:half] = sums[half + 1:2 * half + 1] / sizes
    means[count - half:] = (sums[-1] - sums[count - 2 * half:count - half]) / sizes[::-1]
    if kept is values:
        return means
    smoothed = np.full(len(values), np.nan)
    smoothed[keep] = means
    return smoothed


def sort_by_x(x: np.ndarray, y: np.ndarray) -> Segment:
    """按横坐标排好；平常的日志本来就是，只花一次比较。"""
    if np.any(x[1:] < x[:-1]):
        order = np.argsort(x, kind="stable")
        return x[order], y[order]
    return x, y


def reduce_series(x: np.ndarray, y: np.ndarray, columns: int,
                  span: tuple[float, float] | None = None) -> list[Segment]:
    """每列至多留首、尾、最小、最大四个点，缺口处断开；返回依次相连的各段。

    `span` 是画布横轴的两端：列按它分，数据变长时旧的点才不会换列；缺省为数据自己的两端。
    代价与点数成线性，一百万点约 5 毫秒；结果至多 `4 * columns` 个点。
    """
    x, y = sort_by_x(x, y)
    keep, gap_x = drawable(y), x[:0]
    if not keep.all():
        gap_x, x, y = x[~keep], x[keep], y[keep]
    if len(x) == 0:
        return []
    left, right = (float(x[0]), float(x[-1])) if span is None else (min(span[0], x[0]), max(span[1], x[-1]))
    # 列与列的分界；`x` 有序，所以找各列的头一点只要二分
    edges = np.linspace(left, right, columns + 1)[1:-1]
    starts = np.unique(np.concatenate(([0], np.searchsorted(x, edges))))
    starts = starts[starts < len(x)]
    ends = np.append(starts[1:], len(x)) - 1
    points = np.stack([y[starts], np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts), y[ends]], axis=1)
    places = np.stack([x[starts], x[starts], x[ends], x[ends]], axis=1)
    # 缺口只在整列没有可画的点时才看得见，段数因此不超过列数。
    bins = np.searchsorted(edges, x[starts], side="right")
    gap_bins = np.setdiff1d(np.searchsorted(edges, gap_x, side="right"), bins)
    cuts = np.unique(np.searchsorted(bins, gap_bins))
    pieces = zip(np.split(places, cuts), np.split(points, cuts), strict=True)
    return [(piece_x.ravel(), piece_y.ravel()) for piece_x, piece_y in pieces if len(piece_x)]


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """`[low, high]` 之内的整齐刻度，间隔是 1、2、5 乘以 10 的幂，约 `count` 个。"""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    rough = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.75)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)] if last - first < 100 else [low, high]


def short_number(value: float) -> str:
    """刻度用的短写法：1500 → `1.5k`，2000000 → `2M`。"""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < size * 1000:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}" if value else "0"
