"""准备数据集时说的话：进度、速度、剩余时间、提醒与结果，给人看的行或给程序看的 JSON 行。

`nanogpt.prepare_build` 与它的各步使用；工作台读 `--json` 的行，或者日志里给人看的最后一行。
"""

import json
import sys
import time
from typing import Any

from nanogpt.errors import UserError
from nanogpt.i18n import N_, _
from nanogpt.text import visible

STAGES = {"convert": N_("converting"), "survey": N_("reading"), "train_tokenizer": N_("training the tokenizer"),
          "tokenize": N_("tokenizing"), "write": N_("writing")}
# 终端上改写同一行；日志里隔这么久（秒）才写一行。
TERMINAL_S, LOG_S = 0.1, 2.0


class Report:
    """一次准备的报告。`as_json` 时标准输出只有 JSON 行，字段见 `docs/data.md`。"""

    def __init__(self, as_json: bool = False):
        self.as_json = as_json
        self._is_terminal = not as_json and sys.stderr.isatty()
        self._stage, self._total, self._done, self._skipped = "", 0, 0, 0
        self._began = self._said = time.monotonic()

    def stage(self, name: str, total_bytes: int, done_bytes: int = 0) -> None:
        """开始一步；`done_bytes` 是上一次已经做好的，不算进速度。"""
        self._stage, self._total, self._done, self._skipped = name, total_bytes, done_bytes, done_bytes
        self._began = time.monotonic()
        if self.as_json:
            self._emit("progress", **self._figures())
        elif not total_bytes:
            print(_("{stage} …").format(stage=_(STAGES[name])), flush=True)

    def advance(self, count: int) -> None:
        """又做完了 `count` 字节。"""
        self._done += count
        now, is_over = time.monotonic(), self._done >= self._total
        if self.as_json:
            if is_over or now - self._said >= 0.5:
                self._said = now
                self._emit("progress", **self._figures())
        elif self._is_terminal:
            if is_over or now - self._said >= TERMINAL_S:
                self._said = now
                print(f"\r{self._line()}\x1b[K", end="\n" if is_over else "", file=sys.stderr, flush=True)
        elif now - self._said >= LOG_S:
            self._said = now
            print(self._line(), flush=True)

    def _figures(self) -> dict[str, Any]:
        """这一步到了哪里：字节、每秒字节、剩余秒数（还不知道则 None）。"""
        passed, made = time.monotonic() - self._began, self._done - self._skipped
        rate = made / passed if passed > 0 and made else None
        return {"stage": self._stage, "done_bytes": self._done, "total_bytes": self._total, "bytes_per_second": rate,
                "eta_s": (self._total - self._done) / rate if rate else None}

    def _line(self) -> str:
        figures = self._figures()
        percent = min(100, 100 * self._done // max(1, self._total))
        line = f"{_(STAGES[self._stage])}: {percent}%"
        if figures["bytes_per_second"]:
            line += _(" ({rate:.1f} MB/s, {left} left)").format(
                rate=figures["bytes_per_second"] / 1e6, left=_clock(figures["eta_s"]))
        return line

    def note(self, code: str, message: str) -> None:
        """值得知道而不必做什么的事。"""
        if self.as_json:
            self._emit("note", code=code, message=message)
        else:
            print(visible(message, keep=""), flush=True)

    def warn(self, code: str, message: str, hint: str = "") -> None:
        """多半该做点什么的事。"""
        if self.as_json:
            self._emit("warning", code=code, message=message, hint=hint)
        else:
            line = _("warning: {message}").format(message="; ".join(filter(None, (message, hint))))
            print(visible(line, keep=""), file=sys.stderr, flush=True)

    def error(self, error: UserError) -> None:
        """给程序看的错误；给人看的由 `run_main` 写到标准错误。"""
        if self.as_json:
            self._emit("error", code=error.code, message=error.what, where=error.where, hint=error.hint)

    def end(self, folder: str, meta: dict[str, Any]) -> None:
        """做好了：写在哪里，有多少。"""
        if self.as_json:
            self._emit("end", folder=folder, **{key: value for key, value in meta.items() if key != "tokenizer"})
            return
        print(_("vocab size: {count:,}").format(count=meta["vocab_size"]))
        for split in ("train", "val"):
            print(_("{split} has {count:,} tokens").format(split=split, count=meta[f"{split}_tokens"]))
        print(_("written to {folder}").format(folder=visible(folder, keep="")))

    def _emit(self, event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, **fields}, ensure_ascii=True), flush=True)


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}" if minutes >= 60 else f"{minutes}:{second:02d}"


def progress(label: str, done: int, total: int) -> None:
    """终端上的一行进度；不是终端时不出声。"""
    if sys.stderr.isatty():
        end = "\n" if done >= total else ""
        print(f"\r{label}: {min(100, 100 * done // max(1, total))}%", end=end, file=sys.stderr, flush=True)
