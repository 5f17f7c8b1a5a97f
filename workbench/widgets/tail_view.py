"""可以滚动、搜索、跟着末尾走的若干行：日志、事件、配置差异都用它。文字在这里净化。"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from textual.strip import Strip

from nanogpt.i18n import _
from nanogpt.rundir import CONSOLE
from nanogpt.text import visible
from workbench.terminal import cells, pad, wrap
from workbench.widgets.lines import LineView, Piece, line_of

if TYPE_CHECKING:
    from pathlib import Path

    from workbench.watched_run import WatchedRun

Row = tuple[str, str]
# 跟着走时只看得见末尾一屏，所以只读一点；滚动与搜索时才读这么多
TAIL_BYTES, FOLLOW_BYTES, LINE_CHARS = 256 * 1024, 16 * 1024, 2000


class TailView(LineView):
    """`fill(rows)` 给出全部行（文字, 样式）；往上滚就停住，`follow()` 回到末尾。"""

    def __init__(self, *, id: str | None = None):
        super().__init__(id=id)
        self.rows: list[Row] = []
        self.top = 0
        self.is_following = True
        self.query_text = ""
        self._wrapped: list[Row] = []
        self._wrapped_for: tuple[int, int] = (0, 0)
        self._version = 0

    def fill(self, rows: list[Row]) -> None:
        if rows != self.rows:
            self.rows = rows
            self._version += 1
        self.renew()

    def on_resize(self) -> None:
        self.renew()

    def renew(self) -> None:
        width, height = self.size
        if width < 2 or height < 1:
            return
        if self._wrapped_for != (self._version, width):
            self._wrapped_for = (self._version, width)
            self._wrapped = [(part, style) for text, style in self.rows for part in wrap(text, width)]
        most = max(0, len(self._wrapped) - height)
        self.top = most if self.is_following else max(0, min(self.top, most))
        self.show([self._line(*row) for row in self._wrapped[self.top:self.top + height]])

    def _line(self, text: str, style: str) -> Strip:
        start = text.casefold().find(self.query_text) if self.query_text else -1
        if start < 0:
            return line_of((text, style), width=self.size.width)
        end = start + len(self.query_text)
        pieces: list[Piece] = [(text[:start], style), (text[start:end], "reverse"), (text[end:], style)]
        return line_of(*pieces, width=self.size.width)

    def scroll_rows(self, rows: int) -> None:
        most = max(0, len(self._wrapped) - self.size.height)
        self.top = max(0, min(most, self.top + rows))
        self.is_following = self.top >= most
        self.renew()

    def follow(self) -> None:
        self.is_following = True
        self.renew()

    def to_top(self) -> None:
        self.top, self.is_following = 0, False
        self.renew()

    def search(self, text: str, *, is_back: bool = True, is_fresh: bool = True) -> bool:
        """跳到含 `text` 的行；默认从末尾往前找。空的取消。返回是否找到。"""
        self.query_text = text.casefold()
        if not self.query_text:
            self.renew()
            return True
        hits = [index for index, (row, _style) in enumerate(self._wrapped) if self.query_text in row.casefold()]
        here = len(self._wrapped) if is_fresh else self._found
        beyond = [index for index in hits if (index < here if is_back else index > here)]
        if not hits:
            self.renew()
            return False
        self._found = (beyond or hits)[-1 if is_back else 0]
        self.top = max(0, self._found - self.size.height // 2)
        self.is_following = False
        self.renew()
        return True

    _found = 0


class ConsoleTail(TailView):
    """`console.log` 的末尾至多 256 KiB；停住时不再读，看到的不会跑掉。"""

    _out_dir: Path | None = None
    _seen: tuple[int, ...] = ()

    def read(self, out_dir: Path) -> None:
        self._out_dir = out_dir
        if self.is_following:
            self._load(FOLLOW_BYTES)
        self.renew()

    def scroll_rows(self, rows: int) -> None:
        self._load_more()
        super().scroll_rows(rows)

    def to_top(self) -> None:
        self._load_more()
        super().to_top()

    def search(self, text: str, *, is_back: bool = True, is_fresh: bool = True) -> bool:
        self._load_more()
        return super().search(text, is_back=is_back, is_fresh=is_fresh)

    def _load_more(self) -> None:
        if self.is_following:
            self._load(TAIL_BYTES)

    def _load(self, most_bytes: int) -> None:
        if self._out_dir is None:
            return
        try:
            with open(self._out_dir / CONSOLE, "rb") as file:
                found = os.fstat(file.fileno())
                seen = (found.st_size, found.st_mtime_ns, most_bytes)
                if seen == self._seen:
                    return
                self._seen = seen
                file.seek(max(0, found.st_size - most_bytes))
                data = file.read(most_bytes)
        except OSError as error:
            self.fill([(_("no console.log here: {why}").format(why=error.strerror), "dim")])
            return
        self.fill([(shown(line), "") for line in console_lines(data)])


def shown(line: str) -> str:
    return visible(line[:LINE_CHARS], keep="\t").expandtabs(4)


def console_lines(data: bytes) -> list[str]:
    """进度条用回车改写同一行：只留最后的样子。"""
    found = [line.rstrip("\r").rpartition("\r")[2] for line in data.decode("utf-8", "replace").split("\n")]
    return found[:-1] if found and not found[-1] else found


def event_rows(run: WatchedRun) -> list[Row]:
    """警告、错误、检查点与样本，按时间。"""
    state = run.state
    rows: list[tuple[float, str, str]] = []
    for kind, style, records in ((_("warning"), "yellow", state.warnings), (_("error"), "bold red", state.errors)):
        rows += [(record["time"], f"{kind} {record['code']}: {record['message']} {record['hint']}", style)
                 for record in list(records)]
    rows += [(record["time"], _("checkpoint at iteration {iter}, {mib:.1f} MiB in {ms:.0f} ms").format(
        iter=record["iter"], mib=(record["bytes"] or 0) / 2**20, ms=record["save_ms"]), "")
        for record in list(state.checkpoints)]
    rows += [(record["time"], _("sample at iteration {iter}: {text}").format(
        iter=record["iter"], text=record["prompt"] + record["text"]), "cyan") for record in list(state.samples)]
    rows.sort(key=lambda row: row[0] if row[0] == row[0] else 0.0)
    return [(f"{_clock(when)}  {visible(text[:LINE_CHARS], keep='')}", style) for when, text, style in rows]


def _clock(when: float) -> str:
    try:
        return time.strftime("%H:%M:%S", time.localtime(when))
    except (ValueError, OverflowError, OSError):
        return "--:--:--"


def difference_rows(runs: list[WatchedRun]) -> list[Row]:
    """配置里不全相同的键，一行一个；各运行的值依次排成列，列头是图里的字母。"""
    configs = [run.state.config for run in runs]
    table = [["", *(chr(ord("a") + index % 26) for index in range(len(runs)))]]
    for name in sorted({name for config in configs for name in config}):
        values = [visible(str(config.get(name, "-")), keep="")[:40] for config in configs]
        if len(set(values)) > 1:
            table.append([visible(name, keep=""), *values])
    if len(table) == 1:
        return [(_("the configs are the same"), "dim")]
    widths = [max(map(cells, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(pad(text, width) for text, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return [(line, "" if index else "bold") for index, line in enumerate(lines)]
