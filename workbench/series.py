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
    kept = values[keep]
    half = min(window, len(kept)) // 2
    smoothed = np.full(len(values), np.nan)
    if len(kept) == 0:
        return smoothed
    sums = np.concatenate(([0.0], np.cumsum(kept)))
    low = np.maximum(np.arange(len(kept)) - half, 0)
    high = np.minimum(np.arange(len(kept)) + half + 1, len(kept))
    smoothed[keep] = (sums[high] - sums[low]) / (high - low)
    return smoothed


def reduce_series(x: np.ndarray, y: np.ndarray, columns: int,
                  span: tuple[float, float] | None = None) -> list[Segment]:
    """每列至多留首、尾、最小、最大四个点，缺口处断开；返回依次相连的各段。

    `span` 是画布横轴的两端：列按它分，数据变长时旧的点才不会换列；缺省为数据自己的两端。
    代价与点数成线性，一百万点约 0.05 秒；结果至多 `4 * columns` 个点。
    """
    if len(x) and np.any(np.diff(x) < 0):
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
    keep = drawable(y)
    gap_x, x, y = x[~keep], x[keep], y[keep]
    if len(x) == 0:
        return []
    left, right = (float(x[0]), float(x[-1])) if span is None else (min(span[0], x[0]), max(span[1], x[-1]))
    scale = columns / (right - left) if right > left else 0.0
    bins = np.minimum(((x - left) * scale).astype(np.int64), columns - 1)
    starts = np.flatnonzero(np.diff(bins, prepend=-1))
    ends = np.append(starts[1:], len(x)) - 1
    points = np.stack([y[starts], np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts), y[ends]], axis=1)
    places = np.stack([x[starts], x[starts], x[ends], x[ends]], axis=1)
    # 缺口只在整列没有可画的点时才看得见，段数因此不超过列数。
    gap_bins = np.unique(np.floor((gap_x - left) * scale)) if scale else np.empty(0)
    gap_bins = np.setdiff1d(gap_bins, bins[starts])
    cuts = np.unique(np.searchsorted(bins[starts], gap_bins))
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
