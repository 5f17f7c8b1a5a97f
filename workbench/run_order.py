"""运行列表的次序：轮着换的几种，或查询里 `sort:键` 要的任何一个。不依赖界面，运行列表使用。"""

import math
from collections.abc import Callable, Iterable
from typing import Any

from nanogpt.i18n import N_
from workbench.query import value_of
from workbench.watched_run import WatchedRun

LIVE = ("starting", "running", "stalled")


def _small(value: float) -> float:
    """缺失的排在最后。"""
    return value if math.isfinite(value) else math.inf


# 名字与排序的依据；第一种是平时的
ORDERS: tuple[tuple[str, Callable[[WatchedRun], Any]], ...] = (
    (N_("live first, then newest"),
     lambda run: (run.status not in LIVE, -_small(run.state.last_time) if run.state.version else 0.0, run.name)),
    (N_("name"), lambda run: run.name),
    (N_("loss"), lambda run: _small(run.state.latest("loss"))),
    (N_("best val"), lambda run: _small(run.state.best_val_loss)),
    (N_("progress"), lambda run: -(run.state.progress or 0.0)),
    (N_("speed"), lambda run: _small(-run.state.latest("tokens_per_second"))))


def ordered(runs: Iterable[WatchedRun], index: int, is_reversed: bool = False) -> list[WatchedRun]:
    """按 `ORDERS[index]`。"""
    return sorted(runs, key=ORDERS[index][1], reverse=is_reversed)


def ordered_by(runs: Iterable[WatchedRun], key: str) -> list[WatchedRun]:
    """按一个指标或配置键，`-` 开头则倒着；没有这个值的总在最后。数与文字混着时数在前。"""
    name = key.removeprefix("-")
    found = [(value_of(name, run), run) for run in runs]
    have = [(value, run) for value, run in found if value is not None]

    def place(pair: tuple[Any, WatchedRun]) -> tuple[bool, float, str]:
        value = pair[0]
        is_number = isinstance(value, (int, float))
        return not is_number, float(value) if is_number else 0.0, str(value).casefold()

    have.sort(key=place, reverse=key.startswith("-"))
    return [run for _value, run in have] + [run for value, run in found if value is None]
