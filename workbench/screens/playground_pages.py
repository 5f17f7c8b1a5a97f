"""采样界面里一页文字的动作：旁枝、改一轮、复制、新的一页、存取、历史、`$EDITOR`。

`PlaygroundTools` 继承它，`SampleScreen` 又继承 `PlaygroundTools`，给出 `editor`、`transcript` 与 `show_now`。
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import SuspendNotSupported
from textual.binding import Binding, BindingType

from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from workbench.playground.conversation import CHAT, COMPLETE
from workbench.playground.session import Playground
from workbench.screens.ask import AskScreen
from workbench.screens.base import WorkbenchScreen
from workbench.screens.confirm import ConfirmScreen
from workbench.screens.picker import Item, PickerScreen, containing
from workbench.widgets.playground_panes import ControlPane
from workbench.widgets.prompt_editor import PromptEditor

if TYPE_CHECKING:
    from workbench.widgets.playground_panes import TranscriptPane


class PlaygroundPages(WorkbenchScreen):
    """都可以在命令面板里找到。"""

    # F6 编辑框自己也用，Alt+字母它会当成字，所以抢先；别的不抢：抢先的键会跑到刚打的字前面
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f6", "mode", N_("Mode"), id="sample.mode", priority=True,
                tooltip=N_("continue a text, or talk in turns; each keeps its own page")),
        Binding("alt+e", "external_editor", N_("$EDITOR"), show=False, id="sample.editor", priority=True,
                tooltip=N_("write the prompt in $EDITOR")),
        Binding("ctrl+s", "save", N_("Save"), id="sample.save",
                tooltip=N_("write the page to transcripts/NAME.json")),
        Binding("ctrl+o", "reopen", N_("Reopen"), show=False, id="sample.reopen",
                tooltip=N_("go on with a page saved before")),
        Binding("alt+n", "new_talk", N_("New page"), show=False, id="sample.new", priority=True,
                tooltip=N_("begin anew with an empty page")),
    ]

    @property
    def play(self) -> Playground:
        """应用留着的那一个；离开再回来，写的还在。"""
        if self.bench.playground is None:
            self.bench.playground = Playground(self.bench.workspace, self.bench.is_read_only)
        return self.bench.playground

    if TYPE_CHECKING:
        @property
        def editor(self) -> PromptEditor: ...

        @property
        def transcript(self) -> TranscriptPane: ...

        def show_now(self) -> None: ...

    _history_at = 0
    _unsent = ""
    # 改一轮之前编辑框里的
    _before_edit = ""

    def is_free(self) -> bool:
        """正在写就说一声，返回假。"""
        if self.play.is_busy:
            self.bench.say(_("it is still writing") + "; " + _("esc stops it"), "warning", 3.0)
        return not self.play.is_busy

    def turn_page(self) -> None:
        """换了一篇：画面从头来，编辑框里是这一篇的。"""
        self.transcript.forget()
        if self.editor.text != self.play.draft:
            self.editor.put(self.play.draft)
        self.editor.placeholder = self.placeholder()
        self.show_now()

    def placeholder(self) -> str:
        return _("a message; ctrl+r sends it") if self.play.is_chat else _("prompt; empty: begin with a line break")

    def action_mode(self) -> None:
        """complete 与 chat 互换；各有各的一篇，换回来还在。"""
        if self.is_free():
            self.play.draft = self.editor.text
            self.play.use_mode(COMPLETE if self.play.is_chat else CHAT)
            self.turn_page()

    # ---- 一轮一轮 ----

    def action_branch(self, step: int) -> None:
        at = self.transcript.cursor
        if at is None or not self.play.conversation.move_branch(at, step):
            return
        turn = self.play.conversation.turns[self.play.conversation.turns[at].parent or 0]
        self.transcript.cursor = turn.children[turn.chosen]
        if not self.play.is_chat and self.editor.text != self.play.first_text:
            self.editor.put(self.play.first_text)
        self.show_now()

    def action_edit_turn(self) -> None:
        at = self.transcript.cursor
        if at is None or not self.is_free():
            return
        if self.play.editing is None:
            self._before_edit = self.editor.text
        self.play.editing = at
        self.editor.put(self.play.conversation.turns[at].text)
        self.editor.focus()
        self.show_now()

    def give_up_editing(self) -> None:
        """不改了：编辑框里是改之前的。"""
        self.play.editing = None
        self.editor.put(self._before_edit)
        self.show_now()

    def action_write(self) -> None:
        self.editor.focus()

    def action_copy(self, is_all: bool) -> None:
        talk = self.play.conversation
        turns = talk.path() if is_all or self.transcript.cursor is None else [self.transcript.cursor]
        between = "\n\n" if self.play.is_chat else ""
        if text := between.join(talk.turns[index].text for index in turns):
            self.app.copy_to_clipboard(text)

    def action_new_talk(self) -> None:
        def answered(is_yes: bool | None) -> None:
            if is_yes:
                self.play.draft = self.editor.text
                self.play.begin_anew()
                self.turn_page()
                self.editor.focus()

        if not self.is_free():
            return
        if self.play.conversation.path():
            self.app.push_screen(ConfirmScreen(_("Begin an empty page?"), _("What is not saved is gone.")), answered)
        else:
            answered(True)

    # ---- 存取、历史、外面的编辑器 ----

    def action_save(self) -> None:
        def answered(name: str | None) -> None:
            if name is not None:
                try:
                    path = self.play.save(name)
                except BadInput as error:
                    self.bench.say_error(error)
                else:
                    self.bench.say(_("Written: {files}").format(files=path))

        if self.bench.refuse_if_read_only():
            return
        if not self.play.conversation.path():
            self.bench.say(_("There is no text yet."), "warning", 3.0)
        else:
            self.app.push_screen(AskScreen(N_("Save the page as"), N_("empty: the time; it goes into transcripts/")),
                                 answered)

    def action_reopen(self) -> None:
        items = [Item(path, path.name, "", path) for path in self.play.store.list_transcripts()]

        def answered(found: list[Any] | None) -> None:
            for path in found or ():
                try:
                    self.play.reopen(path)
                except BadInput as error:
                    self.bench.say_error(error)
                    return
                self.query_one(ControlPane).refresh_rows()
                self.turn_page()

        if self.is_free():
            self.app.push_screen(PickerScreen(N_("Saved pages"), lambda typed: containing(items, typed)), answered)

    @on(PromptEditor.Recalled)
    def recall(self, event: PromptEditor.Recalled) -> None:
        """历史里往前往后；回到最后是还没有发出的。"""
        event.stop()
        prompts = self.play.store.prompts
        if self._history_at == 0:
            self._unsent = self.editor.text
        at = max(-len(prompts), min(0, self._history_at + event.step))
        if at != self._history_at:
            self._history_at = at
            self.editor.put(prompts[at] if at < 0 else self._unsent)

    def action_external_editor(self) -> None:
        """把提示交给 `$EDITOR`，存了再收回来。"""
        words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
        with tempfile.TemporaryDirectory(prefix="nanogpt-prompt-") as folder:
            path = Path(folder, "prompt.txt")
            before = self.editor.text.encode("utf-8", "replace")
            path.write_bytes(before)
            try:
                with self.app.suspend():
                    code = subprocess.run([*words, str(path)], check=False).returncode
                after = path.read_bytes()
            except (OSError, ValueError, SuspendNotSupported) as error:
                why = error.strerror if isinstance(error, OSError) else error
                self.bench.say(_("cannot open {editor}: {why}").format(editor=words[0] if words else "", why=why),
                               "error")
                return
        self.app.refresh()
        if code == 0 and after != before:
            text = after.decode("utf-8", "replace")
            # 编辑器总在末尾添一个换行
            self.editor.put(text if before.endswith(b"\n") else text.removesuffix("\n"))

    def try_to(self, do: Any, then: str) -> None:
        try:
            do()
        except BadInput as error:
            self.bench.say_error(error)
        else:
            self.bench.say(then, seconds=3.0)
