"""由键的元数据生成的表单：分组、说明、合法值、边打字边查错，改动过的做记号，按名字搜索。

启动界面给它一份 `EditedValues`（训练的键、机器的键都行）；它改其中的 `edits`，再发 `Changed`。
这里没有写死任何一个键。
"""

from typing import Any, ClassVar

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from textual import on
from textual.actions import SkipAction
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option as Row

from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from nanogpt.options import Option, coerce
from nanogpt.text import visible
from workbench.draft import EditedValues
from workbench.terminal import fit
from workbench.widgets.key_list import KeyList


class OptionForm(Vertical):
    """一组键的表单。回车改值，空格换下一个合法值，`d` 还原，`/` 搜索。"""

    DEFAULT_CSS = """
    OptionForm { height: 1fr; }
    OptionForm KeyList, OptionForm KeyList:focus { height: 1fr; border: none; padding: 0; background: transparent;
                         text-wrap: nowrap; text-overflow: ellipsis; }
    OptionForm .help { height: auto; max-height: 5; color: $text-muted; }
    OptionForm .help.-bad { color: $text-error; }
    OptionForm Input { display: none; background: $surface; }
    OptionForm Input.-invalid { color: $text-error; }
    OptionForm Input.-open { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", N_("Search"), id="form.search", tooltip=N_("find a key by its name or its help")),
        Binding("space", "cycle", N_("Next value"), id="form.cycle", show=False,
                tooltip=N_("the next legal value, where there are few")),
        Binding("d", "reset", N_("Undo change"), id="form.reset", tooltip=N_("back to the preset's value")),
        Binding("U", "reset_all", N_("Undo all"), id="form.reset_all",
                tooltip=N_("every key back to the preset's value")),
        Binding("escape", "close", N_("Close"), id="form.close", show=False,
                tooltip=N_("close the editor, then the search")),
    ]

    class Changed(Message):
        """某个键的值改了；全部还原时 `key` 为空。"""

        def __init__(self, form: "OptionForm", key: str):
            super().__init__()
            self.form, self.key = form, key

        @property
        def control(self) -> "OptionForm":
            return self.form

    def __init__(self, values: EditedValues, id: str | None = None):
        super().__init__(id=id)
        self.values = values
        self._width = max(map(cell_len, values.options), default=0)

    def compose(self) -> ComposeResult:
        yield Input(self.values.search, placeholder=_("search by name"), classes="search", select_on_focus=False,
                    compact=True)
        yield KeyList(markup=False)
        yield Static(classes="help", markup=False)
        yield Input(classes="edit", compact=True)

    def on_mount(self) -> None:
        self.search_input.set_class(bool(self.values.search), "-open")
        self._fill()
        if self.values.pending is not None:
            self._open_editor(self.values.pending)

    @property
    def keys(self) -> KeyList:
        return self.query_one(KeyList)

    @property
    def search_input(self) -> Input:
        return self.query_one(".search", Input)

    @property
    def edit_input(self) -> Input:
        return self.query_one(".edit", Input)

    @property
    def current(self) -> Option | None:
        """光标下的键。"""
        row = self.keys.highlighted_option
        return self.values.options.get(row.id or "") if row is not None else None

    # ---- 显示 ----

    def _fill(self) -> None:
        """按搜索的字重建列表；组名是不能选的行。"""
        rows, group = [], ""
        for option in self._found():
            if option.group != group and not self.values.search.strip():
                group = option.group
                rows.append(Row(Text(_(group), style="bold"), disabled=True))
            rows.append(Row(self._row(option), id=option.name))
        keys = self.keys
        keys.clear_options()
        keys.add_options(rows)
        names = [row.id for row in rows]
        at = self.values.cursor or ""
        at = at if at in names else next((name for name in names if name is not None), "")
        keys.highlighted = names.index(at) if at else None
        self._show_help()

    def _found(self) -> list[Option]:
        """合乎搜索的键：名字以它开头的在前，名字里有的其次，只在说明里有的最后。"""
        wanted = self.values.search.casefold().strip().replace(" ", "_")
        ranked = [(0 if option.name.startswith(wanted) else 1 if wanted in option.name else 2, option)
                  for option in self.values.options.values()
                  if wanted in option.name or self.values.search.casefold().strip() in _(option.help).casefold()]
        return [option for _rank, option in sorted(ranked, key=lambda item: item[0])]

    def _row(self, option: Option) -> Text:
        is_changed = option.name in self.values.edits
        mark = "* " if is_changed else "  "
        row = Text(mark + set_cell_size(option.name, self._width) + "  " + _shown(self.values.text(option.name)))
        # 窄的地方行尾会截去：原来的值比单位要紧
        if is_changed:
            row.stylize("bold", 0, len(mark) + self._width)
            row.append("  " + _("was {value}").format(value=_shown(str(self.values.base[option.name]))), "dim")
        if option.unit and not option.choices:
            row.append(f" {_(option.unit)}", "dim")
        return row

    def _show_help(self) -> None:
        """光标下的键的说明；正在打字而值不合法时，先说错在哪。"""
        option, help_box = self.current, self.query_one(".help", Static)
        problem = self._problem() if option is not None else None
        help_box.set_class(problem is not None, "-bad")
        if option is None:
            help_box.update(_("no key has this in its name"))
        elif problem is not None:
            help_box.update(visible(f"{problem.what}\n{problem.hint}"))
        else:
            default = _("default: {value}").format(value=_shown(str(option.default)))
            help_box.update(f"{_(option.help)}\n" + _("legal: {legal}").format(legal=option.legal) + _("; ") + default)

    def _problem(self) -> BadInput | None:
        option = self.current
        if self.values.pending is None or option is None:
            return None
        try:
            coerce(option, self.values.pending, "")
        except BadInput as error:
            return error
        return None

    def refresh_rows(self) -> None:
        """值在别处改了：各行重写，光标不动。"""
        for row in self.keys.options:
            if row.id is not None:
                self.keys.replace_option_prompt(row.id, self._row(self.values.options[row.id]))
        self._show_help()

    # ---- 改 ----

    def _change(self, name: str, text: str) -> bool:
        try:
            self.values.set(name, text)
        except BadInput:
            return False
        self.refresh_rows()
        self.post_message(self.Changed(self, name))
        return True

    def _open_editor(self, text: str) -> None:
        # 预设里的值也来自外面：框里的字是看得见的写法
        text = visible(text, keep="")
        self.values.pending = text
        editor = self.edit_input
        editor.value = text
        editor.add_class("-open")
        self.screen.set_focus(editor)  # `focus()` 要过一会儿才生效，紧跟着打的字就丢了
        self._show_help()

    def _close_editor(self) -> None:
        self.values.pending = None
        self.edit_input.remove_class("-open")
        self.screen.set_focus(self.keys)
        self._show_help()

    @on(OptionList.OptionHighlighted)
    def remember_cursor(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self.values.cursor = event.option.id
        self._show_help()

    @on(OptionList.OptionSelected)
    def edit_key(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        option = self.current
        if option is None:
            return
        if option.type is bool:
            self.action_cycle()
        else:
            self._open_editor(self.values.text(option.name))

    @on(Input.Changed, ".edit")
    def check_typed(self, event: Input.Changed) -> None:
        event.stop()
        if self.values.pending is not None:
            self.values.pending = event.value
            self.edit_input.set_class(self._problem() is not None, "-invalid")
            self._show_help()

    @on(Input.Submitted, ".edit")
    def take_typed(self, event: Input.Submitted) -> None:
        event.stop()
        option = self.current
        if option is None:
            return
        # 没有改的不写回去：框里是净化过的。不合法的留着，让人接着改
        is_same = event.value == visible(self.values.text(option.name), keep="")
        if is_same or self._change(option.name, event.value):
            self._close_editor()

    @on(Input.Changed, ".search")
    def take_search(self, event: Input.Changed) -> None:
        event.stop()
        if event.value != self.values.search:
            # 打着字时光标跟着最像的那个走
            self.values.search, self.values.cursor = event.value, self.values.cursor if not event.value else None
            self._fill()

    @on(Input.Submitted, ".search")
    def leave_search(self, event: Input.Submitted) -> None:
        event.stop()
        self.keys.focus()

    def action_search(self) -> None:
        self.search_input.add_class("-open")
        self.screen.set_focus(self.search_input)

    def action_cycle(self) -> None:
        option = self.current
        if option is None:
            return
        legal: list[Any] = list(option.choices) or ([True, False] if option.type is bool else [])
        if option.allows_auto:
            legal = ["auto", *legal]
        if legal:
            now = self.values.value(option.name)
            at = legal.index(now) if now in legal else -1
            self._change(option.name, str(legal[(at + 1) % len(legal)]))

    def action_reset(self) -> None:
        option = self.current
        if option is not None:
            self.values.reset(option.name)
            self.refresh_rows()
            self.post_message(self.Changed(self, option.name))

    def action_reset_all(self) -> None:
        if self.values.edits:
            self.values.edits.clear()
            self.refresh_rows()
            self.post_message(self.Changed(self, ""))

    def action_close(self) -> None:
        """先收起编辑，再收起搜索；都没有就交给界面。"""
        if self.values.pending is not None:
            self._close_editor()
        elif self.search_input.has_class("-open"):
            self.values.search = ""
            self.search_input.value = ""
            self.search_input.remove_class("-open")
            self._fill()
            self.keys.focus()
        else:
            raise SkipAction()


def one_line(text: str, width: int = 200) -> str:
    """外来的文字，净化成至多 `width` 格的一行，叠加符不成堆。"""
    return fit(visible(text, keep=""), width)


def _shown(text: str) -> str:
    # 空的也要看得见
    return one_line(text) or '""'
