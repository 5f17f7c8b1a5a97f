"""向人解释一个运行现在怎样、为什么结束了、接下来能做什么。监视界面与列表的详情使用。"""

import time
from pathlib import Path

from nanogpt.i18n import _, language
from nanogpt.rundir import CHECKPOINT, holder
from nanogpt.text import visible
from workbench.launch import console_tail
from workbench.watched_run import WatchedRun

GOOD, BAD, WARN = "bold green", "bold red", "bold yellow"


def explain(run: WatchedRun, tail_lines: int = 4) -> list[tuple[str, str]]:
    """（一行文字, 样式）若干；一切正常时为空。文字已净化。"""
    if not run.out_dir.exists():
        return [(_("The run directory is gone; what was read is still shown."), BAD)]
    if run.follower.is_missing and run.state.version:
        return [(_("The log cannot be read: {problem}").format(problem=run.follower.problem), BAD)]
    explainer = _EXPLAINERS.get(run.status)
    return explainer(run, tail_lines) if explainer else []


def has_checkpoint(out_dir: Path) -> bool:
    return (out_dir / CHECKPOINT).is_file()


def resume_hint(run: WatchedRun) -> str:
    if not has_checkpoint(run.out_dir):
        return _("There is no checkpoint to resume from.")
    if not run.state.checkpoints:
        return _("r resumes from its checkpoint.")
    return _("r resumes from the checkpoint of iteration {iter}.").format(iter=run.state.checkpoints[-1]["iter"])


def _gap() -> str:
    """两句之间：中文的句号之后不空格。"""
    return "" if language() == "zh" else " "


def _last_error(run: WatchedRun) -> list[tuple[str, str]]:
    if not run.state.errors:
        return []
    error = run.state.errors[-1]
    lines = [(visible(error["message"], keep=""), BAD)]
    return [*lines, (visible(error["hint"], keep=""), "")] if error["hint"] else lines


def _tail(run: WatchedRun, lines: int) -> list[tuple[str, str]]:
    return [("  " + line, "dim") for line in console_tail(run.out_dir, lines).split("\n") if line]


def _last_iter(run: WatchedRun) -> int | None:
    """最后训练的那一步：`end` 记的是下一步的号。"""
    last, most = run.state.last_iter, run.state.max_iters
    return last if last is None or most is None else min(last, most)


def _finished(run: WatchedRun, _lines: int) -> list[tuple[str, str]]:
    return [(_("Finished at iteration {iter}. p samples from it; r trains on.").format(iter=_last_iter(run)), GOOD)]


def _stopped(run: WatchedRun, _lines: int) -> list[tuple[str, str]]:
    return [(_("Stopped on request at iteration {iter}.").format(iter=run.state.last_iter) + _gap() + resume_hint(run),
             WARN)]


def _diverged(run: WatchedRun, _lines: int) -> list[tuple[str, str]]:
    what = _("Diverged: the loss is no longer a finite number. The checkpoint was not overwritten; c clones it.")
    return [(what, BAD), *_last_error(run)]


def _failed(run: WatchedRun, lines: int) -> list[tuple[str, str]]:
    if run.is_silent_failure:
        code = None if run.process is None else run.process.poll()
        what = _("The trainer ended before its first step.") if code is None else \
            _("The trainer ended before its first step, with exit code {code}.").format(code=code)
        return [(what, BAD), *_tail(run, lines)]
    return [(_("Failed at iteration {iter}.").format(iter=run.state.last_iter) + _gap() + resume_hint(run), BAD),
            *(_last_error(run) or _tail(run, lines))]


def _interrupted(run: WatchedRun, lines: int) -> list[tuple[str, str]]:
    what = _("Interrupted: the trainer is gone without a farewell (killed, or the machine went down).")
    return [(what + _gap() + resume_hint(run), BAD), *_tail(run, lines)]


def _stalled(run: WatchedRun, _lines: int) -> list[tuple[str, str]]:
    found = holder(run.out_dir) or {}
    age = run.state.age_seconds(time.time()) or 0.0
    who = visible(f"pid {found.get('pid', '?')}, {found.get('host', '?')}", keep="")[:80]
    lines = [(_("Stalled: nothing new for {seconds:.0f} s, though the trainer ({who}) is alive. s stops it.").format(
        seconds=age, who=who), WARN)]
    if run.state.ranks:
        rank, last = min(run.state.ranks.items(), key=lambda item: item[1]["time"])
        lines.append((_("Longest silent: rank {rank} on {host}, at iteration {iter}.").format(
            rank=rank, host=visible(last["host"], keep="")[:60], iter=last["iter"]), WARN))
    return lines


_EXPLAINERS = {"finished": _finished, "stopped": _stopped, "diverged": _diverged, "failed": _failed,
               "interrupted": _interrupted, "stalled": _stalled}
