"""采样界面里写之外的动作：选模型、参数组与模板、旁枝、改一轮、存取、复制、`$EDITOR`、比较、逐 token、困惑度。

`SampleScreen` 继承它，给出 `editor`、`transcript` 与 `show_now`。
"""

from __future__ import annotations

import asyncio
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
from nanogpt.text import visible
from workbench.playground.controls import PRESET_TITLES, PRESETS, apply_preset
from workbench.playground.models import ModelChoice, all_models, checkpoints_of, local_folders, matching
from workbench.playground.session import Playground
from workbench.playground.template import TEMPLATES, Template
from workbench.screens.ask import AskScreen
from workbench.screens.base import WorkbenchScreen
from workbench.screens.confirm import ConfirmScreen
from workbench.screens.picker import Item, PickerScreen, containing
from workbench.terminal import wrap
from workbench.widgets.playground_panes import ControlPane
from workbench.widgets.prompt_editor import PromptEditor

if TYPE_CHECKING:
    from workbench.widgets.playground_panes import TranscriptPane

NEW_TEMPLATE = "edit"


class PlaygroundTools(WorkbenchScreen):
    """都可以在命令面板里找到。"""

    # F6、F7 编辑框自己也用，Alt+字母它会当成字，所以抢先；别的不抢：抢先的键会跑到刚打的字前面
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f4", "choose_model", N_("Model"), id="sample.model",
                tooltip=N_("any checkpoint, a GPT-2, a Hugging Face folder")),
        Binding("f6", "mode", N_("Complete / Chat"), id="sample.mode", priority=True,
                tooltip=N_("continue a text, or talk in turns; each keeps its own page")),
        Binding("f7", "controls", N_("Settings"), id="sample.controls", priority=True,
                tooltip=N_("temperature, top_k, stop ... and presets of them")),
        Binding("alt+t", "inspect", N_("Tokens"), id="sample.inspect", priority=True,
                tooltip=N_("each token's probability and its alternatives")),
        Binding("alt+e", "external_editor", N_("$EDITOR"), show=False, id="sample.editor", priority=True,
                tooltip=N_("write the prompt in $EDITOR")),
        Binding("f8", "compare", N_("Compare"), id="sample.compare",
                tooltip=N_("the same prompt and seed to several models, side by side")),
        Binding("f9", "time_machine", N_("Time machine"), show=False, id="sample.time_machine",
                tooltip=N_("the same prompt and seed to every checkpoint of this run")),
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

    @staticmethod
    def wrapped(text: str, width: int) -> list[str]:
        return wrap(text, max(10, width))

    def turn_page(self) -> None:
        """换了一篇：画面从头来。"""
        self.transcript.forget()
        if not self.play.is_chat and not self.editor.text and self.play.draft:
            self.editor.put(self.play.draft)
        self.show_now()

    # ---- 模型 ----

    def _models(self) -> list[ModelChoice]:
        return all_models(list(self.bench.store.runs.values()), self._folders)

    _folders: list[ModelChoice] = []  # noqa: RUF012

    async def _pick_models(self, title: str, *, is_many: bool = False) -> list[ModelChoice]:
        """打开选单；放弃则空。目录在线程里找。"""
        self._folders = await asyncio.to_thread(local_folders, self.bench.workspace)
        choice = self.play.choice
        models = self._models()

        def find(typed: str) -> list[Item]:
            return [Item(model.key, model.name, model.detail, model) for model in matching(models, typed)]

        return await self.app.push_screen_wait(PickerScreen(
            title, find, is_many=is_many, cursor=choice.key if choice else None)) or []

    def action_choose_model(self) -> None:
        self.run_worker(self._choose_model(), group="dialog", exclusive=True)

    async def _choose_model(self) -> None:
        if not self.play.is_busy and (found := await self._pick_models(N_("Model"))):
            self.play.choose(found[0])
            self.play.generation = None
            self.show_now()

    def _refresh_choice(self) -> None:
        """载入的是正在训练的运行新存的一个：名字旁的步数跟上。"""
        choice, model = self.play.choice, self.play.engine.model
        if choice is not None and model is not None and choice.out_dir in self.bench.store.runs:
            from workbench.playground.session import refreshed

            self.play.choice = refreshed(choice, checkpoints_of(self.bench.store.runs[choice.out_dir]))

    # ---- 参数 ----

    def action_controls(self) -> None:
        """去参数那里，或者回来；窄的屏上它与文字换着显示。"""
        pane = self.query_one(ControlPane)
        is_leaving = pane.has_focus_within
        self.set_class(not is_leaving, "-controls")
        if is_leaving:
            self.editor.focus()
        else:
            pane.keys.focus()
        self.refresh_bindings()

    def action_presets(self) -> None:
        self.run_worker(self._choose_preset(), group="dialog", exclusive=True)

    async def _choose_preset(self) -> None:
        own = self.play.store.read_presets()
        items = [Item(name, _(PRESET_TITLES[name]), _shown(values), (values, False))
                 for name, values in PRESETS.items()]
        items += [Item(f"own {name}", name, _shown(values), (values, True)) for name, values in own.items()]
        found = await self.app.push_screen_wait(PickerScreen(N_("Presets of the settings"),
                                                             lambda typed: containing(items, typed)))
        for values, is_whole in found or ():
            try:
                apply_preset(self.play.controls, values, is_whole=is_whole)
            except BadInput as error:
                self.bench.say_error(error)
            self.query_one(ControlPane).refresh_rows()
            self.show_now()

    def action_save_preset(self) -> None:
        def answered(name: str | None) -> None:
            if name:
                self._try(lambda: self.play.store.save_preset(name, dict(self.play.controls.edits)),
                          _("Saved as {name}").format(name=name))

        self.app.push_screen(AskScreen(N_("Name of the preset"), N_("it holds every value that differs")), answered)

    def action_templates(self) -> None:
        self.run_worker(self._choose_template(), group="dialog", exclusive=True)

    async def _choose_template(self) -> None:
        known: dict[str, Template] = {**TEMPLATES, **self.play.store.read_templates()}
        items = [Item(NEW_TEMPLATE, _("edit the present one"), "", None)]
        items += [Item(("template", name), name, template.user.replace("\n", "\\n"), (name, template))
                  for name, template in known.items()]
        found = await self.app.push_screen_wait(PickerScreen(N_("Chat template"),
                                                             lambda typed: containing(items, typed)))
        for value in found or ():
            if value is None:
                await self._edit_template()
            else:
                self.play.use_template(*value)
            self.show_now()

    async def _edit_template(self) -> None:
        from workbench.screens.template import TemplateScreen

        answer = await self.app.push_screen_wait(TemplateScreen(self.play.template))
        if answer is None:
            return
        name, template = answer
        if name:
            self._try(lambda: self.play.store.save_template(name, template), _("Saved as {name}").format(name=name))
        self.play.use_template(name or _("own"), template)

    # ---- 一轮一轮 ----

    def action_branch(self, step: int) -> None:
        at = self.transcript.cursor
        if at is None or not self.play.conversation.move_branch(at, step):
            return
        turn = self.play.conversation.turns[self.play.conversation.turns[at].parent or 0]
        self.transcript.cursor = turn.children[turn.chosen]
        if not self.play.is_chat and (path := self.play.conversation.path()):
            first = self.play.conversation.turns[path[0]]
            if first.text != self.editor.text:
                self.editor.put(first.text)
        self.show_now()

    def action_edit_turn(self) -> None:
        at = self.transcript.cursor
        if at is None or self.play.is_busy:
            return
        self.play.editing = at
        self.editor.put(self.play.conversation.turns[at].text)
        self.editor.focus()
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
                self.play.begin_anew()
                self.turn_page()
                self.editor.focus()

        if self.play.is_busy:
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

        if not self.bench.refuse_if_read_only() and self.play.conversation.path():
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
                self.editor.put(self.play.draft if not self.play.is_chat else "")
                self.turn_page()

        if not self.play.is_busy:
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

    # ---- 比较、逐 token、困惑度 ----

    def action_compare(self) -> None:
        self.run_worker(self._compare(), group="dialog", exclusive=True)

    async def _compare(self) -> None:
        if not self.play.is_busy and (found := await self._pick_models(N_("Compare: mark the models"), is_many=True)):
            self._open_comparison(found)

    def action_time_machine(self) -> None:
        choice = self.play.choice
        run = self.bench.store.runs.get(choice.out_dir) if choice is not None and choice.out_dir is not None else None
        found = checkpoints_of(run) if run is not None else []
        further = [model for model in found[1:] if model.iter != found[0].iter]
        # 从早到晚，最近的一个在最后
        steps = [*further, found[0]] if found else []
        if self.play.is_busy or self.bench.refuse_if_read_only():
            return
        if len(steps) < 2:
            self.bench.say(_("This run has kept one checkpoint only; checkpoint_interval keeps further ones."),
                           "warning")
            return
        self._open_comparison(steps)

    def _open_comparison(self, choices: list[ModelChoice]) -> None:
        from workbench.screens.compare import CompareScreen

        if self.bench.refuse_if_read_only():
            return
        try:
            keys = self.play.comparison_keys(self.editor.text)
        except BadInput as error:
            self.bench.say_error(error)
            return
        self.app.push_screen(CompareScreen(self.play, choices, keys))

    def action_inspect(self) -> None:
        from workbench.screens.inspect import InspectScreen

        at = self.transcript.cursor
        if self.play.is_busy or self.play.choice is None or self.bench.refuse_if_read_only():
            return
        if at is None or not self.play.conversation.turns[at].text:
            self.bench.say(_("There is no text yet."), "warning", 3.0)
            return
        self.app.push_screen(InspectScreen(self.play, at))

    def action_perplexity(self) -> None:
        from workbench.screens.perplexity import PerplexityScreen

        if self.play.is_busy or self.bench.refuse_if_read_only():
            return
        if self.play.choice is None:
            self.bench.say(_("no model is chosen"), "warning", 3.0)
            return
        self.app.push_screen(PerplexityScreen(self.play))

    def _try(self, do: Any, then: str) -> None:
        try:
            do()
        except BadInput as error:
            self.bench.say_error(error)
        else:
            self.bench.say(then, seconds=3.0)


def _shown(values: dict[str, str]) -> str:
    return visible("  ".join(f"{name} {text}" for name, text in values.items()), keep="")[:200]
