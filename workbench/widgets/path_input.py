"""路径的输入框：Tab 补全，候选由 `OwnTextScreen` 写在旁边；一次粘贴的几行是几个路径。"""

import asyncio
import shlex
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.events import Paste
from textual.message import Message
from textual.widgets import Input

from nanogpt.i18n import N_
from workbench.path_completion import candidates, common, escaped, last_word


class PathInput(Input):
    """`found` 是最后一个词的候选，`chosen` 是 Tab 轮到的那一个。"""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right", "go_in", N_("go in"), show=False, id="path.right",
                tooltip=N_("at the end: list what is in the completed folder"))]

    class Listed(Message):
        """候选变了。"""

    def __init__(self, value: str = "", *, id: str | None = None):
        super().__init__(value, id=id, compact=True, select_on_focus=False)
        self.found: list[str] = []
        self.chosen = -1
        self._completed = ""

    async def list_candidates(self) -> None:
        """框里的字变了：重新列；是 Tab 自己换的就不必。"""
        if self.value == self._completed and self.chosen >= 0:
            return
        self.chosen = -1
        word = last_word(self.value)[1]
        found = await asyncio.to_thread(candidates, word)
        if word == last_word(self.value)[1]:
            self.found = found
            self.post_message(self.Listed())

    async def complete(self) -> bool:
        """补到候选的公共部分；已经到头就轮到下一个候选。没有可补的返回 False。"""
        start, word = last_word(self.value)
        if self.chosen < 0 or self.value != self._completed:
            self.chosen, self.found = -1, await asyncio.to_thread(candidates, word)
            longest = common(self.found)
            if not self.found or self.found == [word]:
                return False
            if len(longest) > len(word) or len(self.found) == 1:
                self._put(start, longest)
                self.found = await asyncio.to_thread(candidates, longest)
                self.post_message(self.Listed())
                return True
        self.chosen = (self.chosen + 1) % len(self.found)
        self._put(start, self.found[self.chosen])
        self.post_message(self.Listed())
        return True

    def _put(self, start: int, path: str) -> None:
        self._completed = self.value[:start] + escaped(path)
        self.value = self._completed
        self.cursor_position = len(self.value)

    async def action_go_in(self) -> None:
        if self.chosen >= 0 and self.cursor_position == len(self.value):
            self.chosen, self._completed = -1, ""
            await self.list_candidates()
        else:
            self.action_cursor_right()

    def _on_paste(self, event: Paste) -> None:
        lines = [line.strip() for line in event.text.splitlines() if line.strip()]
        if len(lines) > 1:
            event.prevent_default()
            event.stop()
            self.insert_text_at_cursor(" ".join(map(shlex.quote, lines)))
