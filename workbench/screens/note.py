"""一个运行的笔记与标签：运行目录里的 `notes.md`，一行文字，`#` 开头的词是标签，查询找得到。"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from nanogpt.atomic import write_atomic
from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.widgets.lines import LineView, line_of

if TYPE_CHECKING:
    from workbench.watched_run import WatchedRun

NOTES = "notes.md"
MAX_BYTES = 4096


def read_note(out_dir: Path) -> str:
    """一行，已净化；没有则空。"""
    try:
        with open(out_dir / NOTES, "rb") as file:
            text = file.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    return visible(" ".join(text.split()), keep="")


class NoteScreen(ModalScreen[None]):
    """改一行笔记；空的就删掉文件。"""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", N_("cancel"), id="note.cancel", tooltip=N_("leave it as it was"))]

    def __init__(self, run: WatchedRun):
        super().__init__()
        self.noted, self.before = run, read_note(run.out_dir)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield LineView(id="head")
            yield Input(self.before, id="text", compact=True)

    def on_mount(self) -> None:
        self.query_one("#head", LineView).show([
            line_of((_("Note and #tags of {name}").format(name=self.noted.name), "bold")),
            line_of((_("enter saves it to {file}").format(file=NOTES), "dim"))])
        self.query_one("#text", Input).focus()

    @on(Input.Submitted)
    def save(self, event: Input.Submitted) -> None:
        if event.value == self.before or self.app.refuse_if_read_only():  # type: ignore[attr-defined]
            # 显示的是净化过的：没有改就别写回去
            self.dismiss(None)
            return
        try:
            if event.value.strip():
                write_atomic(self.noted.out_dir / NOTES, event.value.strip() + "\n")
            else:
                (self.noted.out_dir / NOTES).unlink(missing_ok=True)
        except OSError as error:
            self.app.say_error(error)  # type: ignore[attr-defined]
        self.dismiss(None)

    async def action_dismiss(self, result: None = None) -> None:
        self.dismiss(result)
