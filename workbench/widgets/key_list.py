"""启动界面里的各个列表：键都是自己的，hjkl 与方向键都行。三页的列表与表单使用。"""

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import OptionList

from nanogpt.i18n import N_


class KeyList(OptionList, inherit_bindings=False):
    """启动界面里的各个列表。不要 Textual 自带的绑定：左右键要留给翻页，每个键都要有编号与说明。"""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", N_("Choose"), show=False, id="keys.select",
                tooltip=N_("choose it; on a config key: change its value")),
        Binding("down,j", "cursor_down", N_("Down"), show=False, id="keys.down", tooltip=N_("one row down")),
        Binding("up,k", "cursor_up", N_("Up"), show=False, id="keys.up", tooltip=N_("one row up")),
        Binding("pagedown,ctrl+f", "page_down", N_("Page down"), show=False, id="keys.page_down",
                tooltip=N_("one screen down")),
        Binding("pageup,ctrl+b", "page_up", N_("Page up"), show=False, id="keys.page_up",
                tooltip=N_("one screen up")),
        Binding("home,g", "first", N_("First"), show=False, id="keys.first", tooltip=N_("the first row")),
        Binding("end,G", "last", N_("Last"), show=False, id="keys.last", tooltip=N_("the last row")),
    ]
