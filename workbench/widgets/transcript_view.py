"""写出来的文字：一篇接着写的，或一场对话。光标停在某一轮上。

`SampleScreen` 用 `look` 给它对话与裁切的位置。全部文字在这里净化。
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.strip import Strip

from nanogpt.i18n import _
from nanogpt.text import visible
from workbench.playground.conversation import CHAT
from workbench.playground.template import USER
from workbench.terminal import is_ascii_only
from workbench.widgets.lines import line_of
from workbench.widgets.segment_view import Segment, SegmentView

if TYPE_CHECKING:
    from workbench.playground.conversation import Conversation
    from workbench.playground.session import Crop


class TranscriptView(SegmentView):
    """`cursor` 是选中的一轮（没有则 None）；键都由所在的屏来管。"""

    MARGIN = 2

    def __init__(self, *, id: str | None = None):
        super().__init__(id=id)
        self._shown_of: dict[int, tuple[int, str]] = {}

    def look(self, talk: Conversation, crop: Crop | None) -> None:
        path = talk.path()
        if self.cursor not in path:
            self.cursor = path[-1] if path else None
        self.put(self._build(talk, path, crop))

    def _build(self, talk: Conversation, path: list[int], crop: Crop | None) -> list[Segment]:
        found: list[Segment] = []
        is_chat = talk.mode == CHAT
        for index in path:
            turn = talk.turns[index]
            place, count = talk.siblings(index)
            branch = f"<{place}/{count}>" if count > 1 else ""
            style = "" if turn.role == USER else "cyan"
            # 末尾不许有会被新文字推后的东西：那样每次都得从头折行
            if is_chat:
                name = _("you") if turn.role == USER else visible(turn.model or _("model"), keep="")
                found.append(("\n\n" * bool(found) + f"{name} {branch}".rstrip() + "\n", "bold", index))
            cut = crop.offset if crop is not None and crop.turn == index else 0
            shown = self._shown(index, turn.text)
            if cut:
                mark = "\n" + _("(the model does not see what is above)") + "\n"
                found += [(visible(turn.text[:cut]).expandtabs(4), "dim", index), (mark, "yellow", index)]
                shown = visible(turn.text[cut:]).expandtabs(4)
            found.append((shown, style if is_chat else style or "bold", index))
        return found

    def _shown(self, index: int, text: str) -> str:
        """净化过的文字；长了的只净化新的一段。"""
        size, shown = self._shown_of.get(index, (0, ""))
        if size > len(text):
            size, shown = 0, ""
        if size != len(text):
            shown += visible(text[size:]).expandtabs(4)
            self._shown_of[index] = (len(text), shown)
        return shown

    def forget(self) -> None:
        """换了一场对话：轮的编号从头来。"""
        self._shown_of.clear()
        self.cursor, self.is_following = None, True

    def rows_of(self, start: int, end: int) -> list[Strip]:
        found = self.owned(start, end)
        is_here = self.has_focus and bool(found) and found[0][2] == self.cursor
        bar = ("|" if is_ascii_only() else "▌") if is_here else " "
        return [line_of((f"{bar} ", "bold"), *((text, style) for text, style, _turn in found), width=self.size.width)]

    def to_end(self, is_end: bool) -> None:
        turns = self.owners()
        if turns:
            self.cursor = turns[-1 if is_end else 0]
        self.is_following, self.top = is_end, 0
        self.renew()

    def move(self, step: int) -> None:
        """光标到前一轮或后一轮，并让它看得见；已经到头就滚动。"""
        turns = self.owners()
        if self.cursor not in turns:
            return
        place = turns.index(self.cursor) + step
        if 0 <= place < len(turns):
            self.cursor = turns[place]
            self.show_row(self.row_of(self.cursor))
        else:
            self.scroll_rows(step)
