"""选单：边打字边筛，选一个或标记几个。模型、存下的对话、参数组与模板都从这里选。"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.messages import LanguageChanged
from workbench.terminal import cells, pad
from workbench.widgets.lines import LineView, line_of


@dataclass(frozen=True)
class Item:
    """`key` 认出它：标记、列表变了之后的光标都靠它。`title` 与 `detail` 是外来的文字。"""

    key: Any
    title: str
    detail: str
    value: Any


def containing(items: Sequence[Item], typed: str) -> list[Item]:
    """每个词都要有的那些。"""
    words = typed.casefold().split()
    return [item for item in items if all(word in f"{item.title} {item.detail}".casefold() for word in words)]


class PickerScreen(ModalScreen["list[Any] | None"]):
    """以选中的值（总是列表）关闭；放弃则 None。`find(打的字)` 给出此刻的各项，要快。"""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", N_("up"), show=False, id="picker.up", tooltip=N_("one up")),
        Binding("down", "move(1)", N_("down"), show=False, id="picker.down", tooltip=N_("one down")),
        Binding("pageup", "move(-10)", N_("page up"), show=False, id="picker.page_up",
                tooltip=N_("ten up")),
        Binding("pagedown", "move(10)", N_("page down"), show=False, id="picker.page_down",
                tooltip=N_("ten down")),
        Binding("tab", "mark", N_("mark"), id="picker.mark", tooltip=N_("mark it, to take several")),
        Binding("ctrl+a", "mark_all", N_("mark all"), priority=True, id="picker.mark_all",
                tooltip=N_("mark all that are shown, or none")),
        Binding("enter", "take", N_("take"), id="picker.take", tooltip=N_("take what is marked")),
        Binding("escape", "give_up", N_("cancel"), id="picker.cancel", tooltip=N_("choose nothing")),
    ]

    def __init__(self, title: str, find: Callable[[str], Sequence[Item]], *, is_many: bool = False,
                 marked: Sequence[Any] = (), cursor: Any = None):
        super().__init__()
        self.head, self.find, self.is_many = title, find, is_many
        self.marked: dict[Any, Item | None] = dict.fromkeys(marked)
        self.items: list[Item] = []
        self.cursor = cursor

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog wide"):
            yield LineView(id="head")
            yield Input(id="typed", compact=True)
            yield LineView(id="items")

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self.renew()

    def on_resize(self) -> None:
        self.renew()

    def check_action(self, action: str, _parameters: tuple[object, ...]) -> bool | None:
        return self.is_many or action not in ("mark", "mark_all")

    # ---- 画 ----

    @on(LanguageChanged)
    @on(Input.Changed)
    def renew(self) -> None:
        self.items = list(self.find(self.query_one(Input).value))
        keys = [item.key for item in self.items]
        for item in self.items:
            if item.key in self.marked:
                self.marked[item.key] = item
        if self.cursor not in keys:
            self.cursor = keys[0] if keys else None
        self._draw()

    def _draw(self) -> None:
        width = max(20, min(92, int(self.app.size.width * 0.9) - 6))
        hint = _("type to search; enter takes, tab marks, ctrl+a marks all") if self.is_many else _(
            "type to search; enter takes, esc cancels")
        count = _("{n} marked").format(n=len(self.marked)) if self.marked else ""
        self.query_one("#head", LineView).show([line_of((_(self.head), "bold"), "  ", (count, "bold yellow")),
                                                line_of((hint, "dim"))])
        height = max(3, int(self.app.size.height * 0.9) - 8)
        keys = [item.key for item in self.items]
        at = keys.index(self.cursor) if self.cursor in keys else 0
        top = max(0, min(at - height // 2, len(keys) - height))
        shown = self.items[top:top + height]
        left = min(width // 2, max((cells(visible(item.title, keep="")) for item in shown), default=0))
        lines = []
        for item in shown:
            mark = "* " if item.key in self.marked else "  "
            row = f"{mark}{pad(visible(item.title, keep=''), left)}  {visible(item.detail, keep='')}"
            lines.append(line_of((pad(row, width), "reverse" if item.key == self.cursor else "")))
        self.query_one("#items", LineView).show(lines or [line_of((_("nothing here"), "dim"))])

    # ---- 做 ----

    @on(Input.Submitted)
    def submit(self, event: Input.Submitted) -> None:
        """输入框收下了回车：字打得再快，也已经都在里面。"""
        event.stop()
        self.renew()
        self.action_take()

    def action_move(self, step: int) -> None:
        keys = [item.key for item in self.items]
        if keys:
            at = keys.index(self.cursor) if self.cursor in keys else 0
            self.cursor = keys[max(0, min(len(keys) - 1, at + step))]
            self._draw()

    def action_mark(self) -> None:
        item = next((item for item in self.items if item.key == self.cursor), None)
        if item is not None:
            if item.key in self.marked:
                del self.marked[item.key]
            else:
                self.marked[item.key] = item
            self.action_move(1)

    def action_mark_all(self) -> None:
        if all(item.key in self.marked for item in self.items):
            for item in self.items:
                self.marked.pop(item.key, None)
        else:
            self.marked.update({item.key: item for item in self.items})
        self._draw()

    def action_take(self) -> None:
        marked = [item.value for item in self.marked.values() if item is not None]
        here = [item.value for item in self.items if item.key == self.cursor]
        if marked or here:
            self.dismiss(marked or here)

    def action_give_up(self) -> None:
        self.dismiss(None)
