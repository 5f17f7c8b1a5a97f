"""状态行说什么：在载入、在写、写完了的数字、错在哪。`SampleScreen` 显示它；不导入 textual。"""

import time
from typing import Any

from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.playground.requests import FAILED, Generation, Problem
from workbench.playground.session import Playground
from workbench.watched_run import WatchedRun

STAGES = {"starting": N_("loading: torch is starting"), "reading": N_("loading: reading the checkpoint"),
          "downloading": N_("loading: downloading the weights"), "building": N_("loading: building the model")}
FINISHES = {"length": N_("done"), "stop": N_("done: a stop text came"), "end_of_text": N_("done: end of text"),
            "cancelled": N_("cancelled")}
Said = tuple[list[str], bool]


def status(play: Playground, run: WatchedRun | None, began: float) -> Said:
    """（各行, 是不是坏消息），已净化。`began`：这次生成从何时开始（单调时钟）。"""
    lines, is_bad = _status(play, run, began)
    return [visible(line, keep="\t") for text in lines for line in text.split("\n")], is_bad


def _status(play: Playground, run: WatchedRun | None, began: float) -> Said:
    running = play.generation
    if running is not None and not running.has_ended:
        return [_working(play, running, began)], False
    if play.choice is None:
        return [_("F4 chooses a model")], False
    if play.choice.path is not None and play.choice.stamp() is None:
        return [no_checkpoint(run)], True
    if play.editing is not None:
        return [_("editing: ctrl+r makes a branch, esc gives up")], False
    if play.engine.problem_when_idle is not None:
        return play.engine.problem_when_idle.lines(), True
    counted = play.count
    if counted is not None and counted.status == FAILED and counted.problem is not None and not _is_gone(
            counted.problem):
        return counted.problem.lines(), True
    if running is not None:
        return _ended(play, running)
    load = play.engine.load
    if load is not None and load.status == FAILED and load.problem is not None and not _is_gone(load.problem):
        return load.problem.lines(), True
    if load is not None and not load.has_ended:
        return [_(STAGES.get(load.stage, STAGES["starting"]))], False
    return [_("; ").join([*_counts(play), _("ctrl+r samples")])], False


def _is_gone(problem: Problem) -> bool:
    return problem.code == "cancelled"


def _working(play: Playground, running: Generation, began: float) -> str:
    load = play.engine.load
    if load is not None and not load.has_ended:
        return _(STAGES.get(load.stage, STAGES["starting"])) + _("; ") + _("esc cancels")
    written = sum(sample.size for sample in running.samples)
    if not written:
        return _("reading the prompt") + _("; ") + _("esc stops")
    parts = [_("writing: {n} characters").format(n=f"{written:,}"),
             _("{seconds:.1f} s").format(seconds=max(0.0, time.monotonic() - began)),
             *progress(running, play.model.block_size if play.model is not None else None)]
    return _(", ").join(parts) + _("; ") + _("esc stops")


def _ended(play: Playground, running: Generation) -> Said:
    if running.problem is not None:
        if _is_gone(running.problem):
            return [_("cancelled")], False
        return running.problem.lines(), True
    finishes = dict.fromkeys(sample.finish for sample in running.samples)
    word = "cancelled" if running.is_cancelled else next(iter(finishes), "length")
    model = play.model
    parts = [_(FINISHES.get(word, FINISHES["length"])),
             *statistics(running, model.block_size if model is not None else None)]
    if running.is_full:
        parts.append(_("only the beginning is kept"))
    return [_("; ").join(parts)], False


def _counts(play: Playground) -> list[str]:
    """编辑框里的有多长，装不装得下。"""
    model, counted = play.model, play.count
    parts: list[str] = []
    if counted is not None and counted.tokens is not None and model is not None:
        parts.append(_("prompt: {n} of {full} tokens").format(n=f"{counted.tokens:,}", full=model.block_size))
        if counted.cropped_tokens:
            parts.append(_("the first {n} are not seen").format(n=f"{counted.cropped_tokens:,}"))
    return parts


def no_checkpoint(run: WatchedRun | None) -> str:
    """还没有检查点：何时会有。"""
    if run is None or run.has_ended:
        return _("There is no checkpoint: the run ended before it saved one.")
    firsts = [value for name in ("eval_interval", "max_iters") if type(value := run.state.config.get(name)) is int]
    when = " " + _("It saves the first one at iter {n}.").format(n=min(firsts)) if firsts else ""
    return _("There is no checkpoint yet.") + when


def progress(generation: Generation, block_size: int | None) -> list[str]:
    """还在写时的数字：速度，上下文用到哪里。"""
    parts: list[str] = []
    if (rate := generation.live_rate) is not None:
        parts.append(_("{n} tok/s").format(n=f"{rate:,.1f}"))
    if generation.prompt_tokens is not None and block_size is not None:
        used = min(block_size, generation.prompt_tokens + max(sample.new_tokens for sample in generation.samples))
        parts.append(_("context {used}/{full}").format(used=used, full=block_size))
    return parts


def statistics(generation: Generation, block_size: int | None) -> list[str]:
    """一次生成的数字：速度、第一个 token、用了多少上下文。"""
    parts: list[str] = []
    if generation.tokens_per_second is not None:
        parts.append(_("{n} tok/s").format(n=f"{generation.tokens_per_second:,.1f}"))
    if generation.first_token_ms is not None:
        parts.append(_("first token {ms} ms").format(ms=f"{generation.first_token_ms:,.0f}"))
    if generation.context_tokens is not None:
        full: Any = block_size if block_size is not None else "?"
        parts.append(_("context {used}/{full}").format(used=generation.context_tokens, full=full))
    if generation.cropped_tokens:
        parts.append(_("{n} tokens cut").format(n=generation.cropped_tokens))
    return parts
