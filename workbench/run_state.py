"""一个运行的当前状态：事件逐个折叠成数列与标量。

`Follower` 的事件经 `apply_event` 进来（唯一的写者），图、状态栏与 `--json` 读出去。
不依赖界面。进程是死是活不归这里判断：没有 `end` 事件时 `status` 停在 `running`。
"""

import math
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from statistics import median
from typing import Any

import numpy as np

from workbench.iter_event import LARGEST_ITER, Event, IterEvent
from workbench.series import drawable

ITER_FIELDS = ("loss", "lr", "grad_norm", "iter_ms", "tokens_per_second", "mfu", "memory_mib")
# 物理上不会是负数的量：时钟被拨动时写者可能算出负的，读出时当作缺失。
NEVER_NEGATIVE = ("iter_ms", "tokens_per_second", "mfu", "memory_mib")
# 只有 `log_timing` 打开时才有的，一步的各部分；只留最近的，不成列
STEP_PARTS = ("data_ms", "forward_ms", "backward_ms", "optimizer_ms", "logging_ms")
END_STATUSES = ("finished", "stopped", "diverged", "failed")
KEPT_RECORDS = 500
KEPT_TEXT = 4000
KEPT_STEPS = 100
ETA_WINDOW = 20

_ITER_COLUMNS = ("iter", "time", *ITER_FIELDS)
_ROW = attrgetter(*_ITER_COLUMNS)
_PARTS = attrgetter("iter_ms", *STEP_PARTS)
_NUMERIC = frozenset((float, int, type(None)))
_NAN = math.nan


class _WrongTypeError(ValueError):
    """事件里某个字段的类型不对。"""


def _iteration(event: dict[str, Any], name: str = "iter") -> int:
    value = event.get(name)
    if type(value) is not int or not 0 <= value < LARGEST_ITER:
        raise _WrongTypeError(name)
    return value


def _number(event: dict[str, Any], name: str) -> float:
    """缺失、null 与非有限数都是 NaN。"""
    value = event.get(name)
    if type(value) not in _NUMERIC:
        raise _WrongTypeError(name)
    try:
        number = _NAN if value is None else float(value)
    except OverflowError as error:
        raise _WrongTypeError(name) from error
    return number if math.isfinite(number) else _NAN


def _text(event: dict[str, Any], name: str) -> str:
    value = event.get(name, "")
    if value is None:
        return ""
    if type(value) is not str:
        raise _WrongTypeError(name)
    return value[:KEPT_TEXT]


def _count(event: dict[str, Any], name: str) -> int | None:
    return None if event.get(name) is None else _iteration(event, name)


class RunState:
    """数列用 `column(name)` 取，其余是普通属性；`version` 每个生效的事件加一。

    `gap_count`：有多少步的损失画不出来（缺失、非有限、大得离谱）。
    """

    def __init__(self) -> None:
        self.version = 0
        self.ignored_events = 0
        self.status = "starting"
        self.config: dict[str, Any] = {}
        self.params: int | None = None
        self.tokens_per_iter: int | None = None
        self.world_size: int | None = None
        self.device_name = ""
        self.peak_flops = _NAN
        self.resumed_from_iter: int | None = None
        self.last_iter: int | None = None
        self.last_time = _NAN
        self.sessions = 0
        self.checkpoints: deque[dict[str, Any]] = deque(maxlen=KEPT_RECORDS)
        self.samples: deque[dict[str, Any]] = deque(maxlen=KEPT_RECORDS)
        self.warnings: deque[dict[str, Any]] = deque(maxlen=KEPT_RECORDS)
        self.errors: deque[dict[str, Any]] = deque(maxlen=KEPT_RECORDS)
        self.eval_only_results: deque[dict[str, Any]] = deque(maxlen=KEPT_RECORDS)
        self.ranks: dict[int, dict[str, Any]] = {}
        self.steps: deque[tuple[float, ...]] = deque(maxlen=KEPT_STEPS)
        self.gap_count = 0
        self._iters = {name: array("d") for name in _ITER_COLUMNS}
        self._evals = {name: array("d") for name in ("iter", "time", "train_loss", "val_loss")}
        self._reported_best = _NAN
        self._status_before_eval: str | None = None
        self._handlers = {
            "start": self._apply_start, "iter": self._apply_iter, "eval": self._apply_eval,
            "checkpoint": self._apply_checkpoint, "sample": self._apply_sample, "rank": self._apply_rank,
            "warning": self._apply_warning, "error": self._apply_error, "end": self._apply_end,
        }

    # ---- 写 ----

    def apply_events(self, events: Iterable[Event]) -> None:
        """依次折叠；相连的 `IterEvent` 整批接到各列上，每个约 0.5 微秒。"""
        for kind, group in groupby(events, type):
            if kind is IterEvent:
                found = list(group)
                self._append_rows(list(map(_ROW, found)))
                # 一次启动里，要么每行都有，要么都没有
                if _PARTS(found[-1])[1] is not None:
                    self._keep_parts(map(_PARTS, found[-KEPT_STEPS:]))
                self.version += len(found)
            else:
                for event in group:
                    self.apply_event(event)  # type: ignore[arg-type]

    def apply_event(self, event: dict[str, Any]) -> None:
        """一个没有走快路的事件。不认识的跳过；类型不对的不生效，记入 `ignored_events`。"""
        handler = self._handlers.get(event["event"])
        if handler is None:
            return
        try:
            handler(event)
        except (_WrongTypeError, OverflowError, KeyError, TypeError):
            self.ignored_events += 1
            return
        self.version += 1

    def _append_rows(self, rows: Sequence[Sequence[float | None]]) -> None:
        """各行按 `_ITER_COLUMNS` 的次序，已经查过：迭代号是合法的整数，别的是有限的数或 None。"""
        columns = dict(zip(_ITER_COLUMNS, map(_doubles, zip(*rows, strict=True)), strict=True))
        for name, values in columns.items():
            self._iters[name].extend(values)
        self.gap_count += _gaps(columns["loss"])
        self.last_iter, self.last_time = int(columns["iter"][-1]), columns["time"][-1]

    def _apply_iter(self, event: dict[str, Any]) -> None:
        parts = [_number(event, name) for name in ("iter_ms", *STEP_PARTS)]
        self._append_rows([[_iteration(event), *(_number(event, name) for name in _ITER_COLUMNS[1:])]])
        self._keep_parts([parts])

    def _keep_parts(self, rows: "Iterable[Sequence[float | None]]") -> None:
        """最近若干步的（整步, 各部分）的毫秒数；缺了任何一项的不留。"""
        for row in rows:
            known = tuple(value for value in row if value is not None and 0 <= value < math.inf)
            if len(known) == len(row):
                self.steps.append(known)

    def _apply_start(self, event: dict[str, Any]) -> None:
        config, when = event.get("config"), _number(event, "time")
        if type(config) is not dict:
            raise _WrongTypeError("config")
        # 配置都是标量；别的不是配置，也不必让读者处理任意深的嵌套。
        config = {name[:100]: value[:KEPT_TEXT] if type(value) is str else value for name, value in config.items()
                  if type(value) in (str, int, float, bool, type(None))}
        resumed, params = _count(event, "resumed_from_iter"), _count(event, "params")
        tokens_per_iter, world_size = _count(event, "tokens_per_iter"), _count(event, "world_size")
        device_name, peak_flops = _text(event, "device_name"), _number(event, "peak_flops")
        if config.get("eval_only") is True:
            if self._status_before_eval is None:
                self._status_before_eval = self.status
        else:
            self._status_before_eval = None
            self.sessions += 1
            self.resumed_from_iter = resumed
            self._drop_from(resumed or 0)
        if self._status_before_eval is None or not self.config:
            self.config, self.params, self.tokens_per_iter = config, params, tokens_per_iter
            self.world_size, self.device_name, self.peak_flops = world_size, device_name, peak_flops
        self.ranks.clear()
        self.status, self.last_time = "running", when

    def _drop_from(self, first: int) -> None:
        """丢掉续训会逐点重算的部分。评估与检查点发生在第 `first` 步之前，所以留着。"""
        _keep(self._iters, np.frombuffer(self._iters["iter"][:]) < first)
        _keep(self._evals, np.frombuffer(self._evals["iter"][:]) <= (first if first else -1))
        for records in (self.checkpoints, self.samples):
            kept = [record for record in records if record["iter"] <= first and first]
            records.clear()
            records.extend(kept)
        self.steps.clear()
        self._reported_best, self.gap_count = _NAN, _gaps(self._iters["loss"])
        points = self._iters["iter"]
        self.last_iter = first if first else (int(points[-1]) if points else None)

    def _apply_eval(self, event: dict[str, Any]) -> None:
        iteration, when = _iteration(event), _number(event, "time")
        train, val, best = (_number(event, name) for name in ("train_loss", "val_loss", "best_val_loss"))
        self.last_time = when
        if self._status_before_eval is not None:
            self.eval_only_results.append({"iter": iteration, "time": when, "train_loss": train, "val_loss": val})
            return
        if self._evals["iter"] and self._evals["iter"][-1] == iteration:
            for column in self._evals.values():
                column.pop()
        for name, value in (("iter", iteration), ("time", when), ("train_loss", train), ("val_loss", val)):
            self._evals[name].append(value)
        self.last_iter = max(iteration, self.last_iter or 0)
        self._reported_best = best

    def _apply_checkpoint(self, event: dict[str, Any]) -> None:
        record: dict[str, Any] = {
            "iter": _iteration(event), "time": _number(event, "time"), "path": _text(event, "path"),
            "bytes": _count(event, "bytes"), "save_ms": _number(event, "save_ms")}
        self.checkpoints.append(record)
        self.last_time = record["time"]

    def _apply_sample(self, event: dict[str, Any]) -> None:
        self.samples.append({"iter": _iteration(event), "time": _number(event, "time"),
                             "prompt": _text(event, "prompt"), "text": _text(event, "text")})

    def _apply_rank(self, event: dict[str, Any]) -> None:
        rank = _iteration(event, "rank")
        # 名额有限，免得一串乱写的 rank 吃光内存。
        if rank in self.ranks or len(self.ranks) < 65536:
            self.ranks[rank] = {"host": _text(event, "host"), "iter": _iteration(event),
                                "time": _number(event, "time"), "iter_ms": _number(event, "iter_ms")}

    def _apply_warning(self, event: dict[str, Any]) -> None:
        self.warnings.append(self._notice(event))

    def _apply_error(self, event: dict[str, Any]) -> None:
        self.errors.append(self._notice(event))

    def _notice(self, event: dict[str, Any]) -> dict[str, Any]:
        return {"time": _number(event, "time"), "code": _text(event, "code"),
                "message": _text(event, "message"), "hint": _text(event, "hint")}

    def _apply_end(self, event: dict[str, Any]) -> None:
        status, iteration, when = event.get("status"), _count(event, "iter"), _number(event, "time")
        if status not in END_STATUSES:
            raise _WrongTypeError("status")
        before, self._status_before_eval = self._status_before_eval, None
        # 评估完了，训练仍停在原来的地方；从没训练过的，评估的结局就是它的结局。
        self.status = status if before in (None, "starting") else before
        if before is None and iteration is not None:
            self.last_iter = iteration
        self.last_time = when

    # ---- 读 ----

    def column(self, name: str, step: int = 1) -> np.ndarray:
        """`iter` 事件的一列（或每 `step` 点取一点），float64 的副本；缺失为 NaN。一百万点约 2 毫秒。"""
        column = self._iters[name]
        # 整段的切片是一次复制，隔着取则逐个来
        values = np.frombuffer(column[::step] if step > 1 else column[:], dtype=np.float64)
        return np.where(values < 0, _NAN, values) if name in NEVER_NEGATIVE else values

    def eval_column(self, name: str) -> np.ndarray:
        """`eval` 事件的一列，float64 的副本。"""
        return np.frombuffer(self._evals[name][:], dtype=np.float64)

    def elapsed_seconds(self) -> np.ndarray:
        """各点距第一点的秒数，从不减小：时钟往回拨的那一步算作没有流逝。"""
        when = self.column("time")
        if len(when) == 0:
            return when
        steps = np.diff(when, prepend=when[0])
        return np.cumsum(np.where(np.isfinite(steps) & (steps > 0), steps, 0.0))

    def latest(self, name: str) -> float:
        """某列最后一个值；没有、缺失或不合理时为 NaN。"""
        values = self._evals[name] if name in ("train_loss", "val_loss") else self._iters[name]
        value = values[-1] if values else _NAN
        return _NAN if not math.isfinite(value) or (name in NEVER_NEGATIVE and value < 0) else value

    def step_parts(self) -> dict[str, float] | None:
        """最近若干步里 `iter_ms` 与各部分的中位数，毫秒；没有打开 `log_timing` 则 None。"""
        columns = zip(*self.steps, strict=True)
        return dict(zip(("iter_ms", *STEP_PARTS), map(median, columns), strict=True)) if self.steps else None

    @property
    def iter_count(self) -> int:
        return len(self._iters["iter"])

    @property
    def eval_count(self) -> int:
        return len(self._evals["iter"])

    @property
    def best_val_loss(self) -> float:
        """训练器报的最好值；没报过就取曲线上最小的。"""
        if math.isfinite(self._reported_best):
            return self._reported_best
        return min((value for value in self._evals["val_loss"] if math.isfinite(value)), default=_NAN)

    @property
    def max_iters(self) -> int | None:
        value = self.config.get("max_iters")
        return value if type(value) is int and 0 < value < LARGEST_ITER else None

    @property
    def progress(self) -> float | None:
        """0 到 1；不知道总数时为 None。"""
        if self.max_iters is None or self.last_iter is None:
            return None
        return min(1.0, self.last_iter / self.max_iters)

    @property
    def eta_seconds(self) -> float | None:
        """按最近若干步的中位数估计还要多久，不含评估；结束了或不知道时为 None。"""
        recent = [ms for ms in self._iters["iter_ms"][-ETA_WINDOW:] if math.isfinite(ms) and ms > 0]
        if self.status != "running" or self.max_iters is None or self.last_iter is None or not recent:
            return None
        return max(0, self.max_iters - self.last_iter) * median(recent) / 1000

    def age_seconds(self, now: float) -> float | None:
        """最近一个事件距今多久，从不为负；没有事件时为 None。"""
        return max(0.0, now - self.last_time) if math.isfinite(self.last_time) else None


def _doubles(values: Sequence[float | None]) -> "array[float]":
    try:
        return array("d", values)  # type: ignore[arg-type]
    except TypeError:
        return array("d", [_NAN if value is None else value for value in values])


def _gaps(losses: "array[float]") -> int:
    return int(np.count_nonzero(~drawable(np.array(losses))))


def _keep(columns: "dict[str, array[float]]", is_kept: np.ndarray) -> None:
    if is_kept.all():
        return
    for column in columns.values():
        kept = np.frombuffer(column[:])[is_kept]
        del column[:]
        column.frombytes(kept.tobytes())
