"""`nanogpt-workbench plot`：在普通终端里画出运行的损失曲线与状态，不开应用。

读运行目录的 `events.jsonl`（经 `Follower` 与 `RunState`），写到 stdout；`quickstart` 也用它画图。
"""

import json
import math
import os
import shutil
import sys
import time
from typing import Any

from nanogpt.events import encode_event
from nanogpt.i18n import _
from nanogpt.text import visible
from workbench.chart import View, draw, legend_items
from workbench.run_state import ITER_FIELDS, RunState
from workbench.series import drawable, short_number
from workbench.terminal import cells, fit, is_ascii_only
from workbench.watched_run import STATUS_WORDS, WatchedRun, open_run


class Screen:
    """输出的去处：大小、能不能用颜色与非 ASCII 字符。只有终端才上色。"""

    def __init__(self, columns: int = 0, rows: int = 0):
        self.is_terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.has_color = self.is_terminal and not os.environ.get("NO_COLOR")
        self.is_ascii = is_ascii_only()
        self._asked = (columns, rows)

    @property
    def size(self) -> tuple[int, int]:
        found = shutil.get_terminal_size()
        return max(30, self._asked[0] or found.columns), max(12, self._asked[1] or found.lines)

    def paint(self, text: str, color: int) -> str:
        return f"\x1b[38;5;{color}m{text}\x1b[0m" if self.has_color else text


def figure(value: float | None, pattern: str = "{:.4f}") -> str:
    return _("n/a") if value is None or not math.isfinite(value) else pattern.format(value)


def duration(seconds: float | None) -> str:
    if seconds is None or not seconds < 1e9:
        return _("n/a")
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def place(state: RunState) -> str:
    last, most = state.last_iter, state.max_iters
    # 第 `max_iters` 步也要训练，所以训练完时的步数比它多一。
    done = _("n/a") if last is None else str(last if most is None else min(last, most))
    total = "" if most is None else f"/{most}"
    return done + total + ("" if state.progress is None else f" ({state.progress:.0%})")


def progress_line(state: RunState, *, has_ended: bool = False) -> str:
    """一行进度，给快速上手与多运行的图用。"""
    return _("iter {place}  loss {loss}  val {val}  {speed} tokens/s  ETA {eta}").format(
        place=place(state), loss=figure(state.latest("loss")), val=figure(state.latest("val_loss")),
        speed=figure(state.latest("tokens_per_second"), "{:,.0f}"),
        eta=duration(None if has_ended else state.eta_seconds))


def status_lines(run: WatchedRun) -> list[str]:
    """一个运行的状态块，每行都已净化、未截断。"""
    state = run.state
    device = visible(state.device_name, keep="") or _("n/a")
    params = _("n/a") if state.params is None else short_number(state.params)
    lines = [
        f"{run.name}  [{_(STATUS_WORDS[run.status])}]",
        _("iter {place}  ETA {eta}").format(
            place=place(state), eta=duration(None if run.has_ended else state.eta_seconds)),
        _("train loss {loss}  val loss {val}  best val loss {best}").format(
            loss=figure(state.latest("loss")), val=figure(state.latest("val_loss")),
            best=figure(state.best_val_loss)),
        _("lr {lr}  {speed} tokens/s  MFU {mfu}").format(
            lr=figure(state.latest("lr"), "{:.3g}"), mfu=figure(state.latest("mfu"), "{:.1%}"),
            speed=figure(state.latest("tokens_per_second"), "{:,.0f}")),
        _("device {device}  parameters {params}").format(device=device, params=params),
    ]
    return lines + notice_lines(run)


def notice_lines(run: WatchedRun) -> list[str]:
    """状态块之后的事：单独的评估、日志不见了、坏行、非有限的损失、最近的错误。"""
    lines = []
    if run.state.eval_only_results:
        result = run.state.eval_only_results[-1]
        lines.append(_("evaluated at iter {iter}: train loss {train}, val loss {val}").format(
            iter=result["iter"], train=figure(result["train_loss"]), val=figure(result["val_loss"])))
    skipped = run.follower.bad_lines + run.state.ignored_events
    if run.follower.is_missing and run.state.version:
        lines.append(_("the log cannot be read: {problem}").format(problem=run.follower.problem))
    if run.follower.resets:
        lines.append(_("the log was replaced or truncated; read again from the start"))
    if run.state.gap_count:
        lines.append(_("{count} loss values are not finite; they are gaps in the curve").format(
            count=run.state.gap_count))
    if skipped:
        lines.append(_("{count} bad lines in the log were skipped").format(count=skipped))
    if run.state.errors:
        lines.append(_("error: {what}").format(what=visible(run.state.errors[-1]["message"], keep="")))
    return lines


def draw_chart(runs: list[WatchedRun], screen: Screen, width: int, height: int) -> str:
    """损失图与它下面的图例。"""
    text = draw(runs, View(), width, height, has_color=screen.has_color, is_ascii=screen.is_ascii)
    return f"{text}\n{_legend(runs, screen, width)}" if text else _("no loss to draw yet")


def _legend(runs: list[WatchedRun], screen: Screen, width: int) -> str:
    is_plain = screen.is_ascii or not screen.has_color
    lines, used = [""], 0
    for label, color, marker in legend_items(runs, View()):
        label = fit(label, width - 6)
        needed = 4 + cells(label) + 2
        if used and used + needed > width:
            lines.append("")
            used = 0
        lines[-1] += screen.paint(marker * 2 if is_plain else "──", color) + f" {label}   "
        used += needed
    return "\n".join(line.rstrip() for line in lines)


def render(runs: list[WatchedRun], screen: Screen) -> str:
    """整屏：图、图例、状态；行数不超过终端的高度（极矮的终端除外）。"""
    width, rows = screen.size
    if len(runs) == 1:
        status = status_lines(runs[0])
    else:
        status = []
        for run in runs:
            status += [f"{run.name}  [{_(STATUS_WORDS[run.status])}]",
                       f"  {progress_line(run.state, has_ended=run.has_ended)}"]
            status += [f"  {line}" for line in notice_lines(run)]
    status = [fit(line, width - 1).rstrip() for line in status]
    chart = draw_chart(runs, screen, width - 1, max(8, min(30, rows - len(status) - 3)))
    return chart + "\n" + "\n".join(status)


def follow(runs: list[WatchedRun], screen: Screen, period_seconds: float = 1.0) -> None:
    """原地重画，直到都结束；没有新东西就什么也不写。"""
    drawn_lines, size = 0, (0, 0)
    while True:
        is_changed = any([run.refresh() for run in runs])
        if is_changed or size != screen.size:
            # 大小变了，原来的行已被终端重排，只能整屏重来。
            back = "" if not drawn_lines else f"\x1b[{drawn_lines}A\r" if size == screen.size else "\x1b[2J\x1b[H"
            size = screen.size
            text = "\n".join(render(runs, screen).split("\n")[-(size[1] - 1):])
            drawn_lines = text.count("\n") + 1
            sys.stdout.write(f"{back}\x1b[J{text}\n")
            sys.stdout.flush()
        if all(run.has_ended for run in runs):
            return
        time.sleep(period_seconds)


def summary(run: WatchedRun) -> dict[str, Any]:
    """`--json` 的一个对象；非有限的数写 null。"""
    state = run.state
    losses = state.column("loss")
    losses = losses[drawable(losses)]
    fields = {
        "run": str(run.out_dir), "status": run.status, "config": state.config, "params": state.params,
        "tokens_per_iter": state.tokens_per_iter, "world_size": state.world_size, "device_name": state.device_name,
        "last_iter": state.last_iter, "max_iters": state.max_iters, "progress": state.progress,
        "eta_seconds": state.eta_seconds, "resumed_from_iter": state.resumed_from_iter, "sessions": state.sessions,
        "last_event_time": state.last_time, "best_val_loss": state.best_val_loss,
        "iter": {"count": state.iter_count, "min_loss": float(losses.min()) if len(losses) else None,
                 **{name: state.latest(name) for name in ITER_FIELDS}},
        "step_parts": state.step_parts(),
        "eval": {"count": state.eval_count, "train_loss": state.latest("train_loss"),
                 "val_loss": state.latest("val_loss")},
        "eval_only": list(state.eval_only_results), "checkpoints": list(state.checkpoints),
        "warnings": list(state.warnings), "errors": list(state.errors),
        "bad_lines": run.follower.bad_lines, "ignored_events": state.ignored_events,
    }
    strict: dict[str, Any] = json.loads(encode_event(fields))
    return strict


def run_plot(paths: list[str], is_json: bool = False, is_once: bool = False) -> int:
    """`plot` 子命令；返回退出码。"""
    runs = [open_run(path) for path in paths]
    screen = Screen()
    try:
        if screen.is_terminal and not is_once and not is_json:
            follow(runs, screen)
            return 0
        for run in runs:
            run.refresh()
        if is_json:
            for run in runs:
                print(json.dumps(summary(run)))
        else:
            print(render(runs, screen))
    except KeyboardInterrupt:
        print()
    return 0
