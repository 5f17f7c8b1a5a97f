"""底部的提示：此刻有用的几个键。取自当前屏的 `Binding`，所以与帮助、命令面板说的是一回事。"""

from textual.binding import Binding
from textual.screen import Screen

from nanogpt.i18n import _
from workbench.terminal import cells, is_ascii_only
from workbench.widgets.lines import LineView, Piece, line_of

_KEY_NAMES = {"question_mark": "?", "slash": "/", "plus": "+", "minus": "-", "left_square_bracket": "[",
              "right_square_bracket": "]", "escape": "esc", "equals_sign": "=",
              "less_than_sign": "<", "greater_than_sign": ">", "underscore": "_"}
_ARROWS = {"left": "←", "right": "→", "up": "↑", "down": "↓"}


def key_name(key: str) -> str:
    """键的写法：`question_mark` → `?`。"""
    *modifiers, last = key.split("+") if key != "+" else ["+"]
    last = _KEY_NAMES.get(last, last)
    if not is_ascii_only():
        last = _ARROWS.get(last, last)
    return "+".join([*modifiers, last])


def bindings_of(screen: Screen[object]) -> list[tuple[Binding, list[str], bool, object]]:
    """当前屏的（绑定, 它的各个键, 此刻可用吗, 所属节点），一个动作一项，只含有 `id` 的；屏自己的在前，应用的在后。"""
    found: dict[str, tuple[Binding, list[str], bool, object]] = {}
    for key, (node, binding, is_enabled, _tooltip) in screen.active_bindings.items():
        if binding.id is None:
            continue
        if binding.id in found:
            found[binding.id][1].append(key)
        else:
            found[binding.id] = (binding, [key], is_enabled, node)
    return sorted(found.values(), key=lambda item: (item[3] is screen.app, item[3] is not screen))


class HintBar(LineView):
    """一行，放不下的键不写；帮助的键总在右端。"""

    DEFAULT_CSS = "HintBar { dock: bottom; height: 1; }"

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda _screen: self.renew())
        self.call_after_refresh(self.renew)

    def on_resize(self) -> None:
        self.renew()

    def _wanted(self) -> list[tuple[Binding, list[str], bool]]:
        found = {binding.id: (binding, keys, is_enabled) for binding, keys, is_enabled, _n in bindings_of(self.screen)}
        order: tuple[str, ...] = getattr(self.screen, "HINTS", ())
        if order:
            return [found[name] for name in order if name in found]
        return [item for item in found.values() if item[0].show]

    def renew(self) -> None:
        # 一打开就关掉的屏，排着的这一次到时它已不在
        if not self.is_attached:
            return
        width = self.size.width
        # 输入框里 `?` 是一个字
        focused = self.screen.focused
        key = "f1" if focused is not None and focused.check_consume_key("question_mark", "?") else "?"
        last: list[Piece] = [(f" {key} ", "bold reverse"), (" " + _("help"), "")]
        room = width - sum(cells(text) for text, _style in last) - 1
        pieces: list[Piece] = []
        used = 0
        for binding, keys, is_enabled in self._wanted():
            if not is_enabled or binding.id == "app.help":
                continue
            key = binding.key_display or key_name(keys[0])
            part: list[Piece] = [(f" {key} ", "bold reverse"), (f" {_(binding.description)} ", "")]
            size = sum(cells(text) for text, _style in part)
            if used + size <= room:
                pieces += part
                used += size
        pieces.append((" " * max(0, room + 1 - used), ""))
        self.show([line_of(*pieces, *last, width=width)])
