"""采样界面里模型一侧的动作：选模型、参数组与模板、并排比较、时间机器、逐 token、困惑度。

`SampleScreen` 继承它。一页文字的动作在 `PlaygroundPages`。
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from textual.binding import Binding, BindingType

from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.playground.controls import PRESET_TITLES, PRESETS, apply_preset
from workbench.playground.models import ModelChoice, all_models, checkpoints_of, local_folders, matching
from workbench.playground.session import refreshed
from workbench.playground.template import TEMPLATES, Template
from workbench.screens.ask import AskScreen
from workbench.screens.picker import Item, PickerScreen, containing
from workbench.screens.playground_pages import PlaygroundPages
from workbench.widgets.playground_panes import ControlPane

NEW_TEMPLATE = "edit"


class PlaygroundTools(PlaygroundPages):
    """都可以在命令面板里找到。"""

    # F7 编辑框自己也用，所以抢先
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f4", "choose_model", N_("Model"), id="sample.model",
                tooltip=N_("any checkpoint, a GPT-2, a Hugging Face folder")),
        Binding("f7", "controls", N_("Settings"), id="sample.controls", priority=True,
                tooltip=N_("temperature, top_k, stop ... and presets of them")),
        Binding("alt+t", "inspect", N_("Tokens"), id="sample.inspect", priority=True,
                tooltip=N_("each token's probability and its alternatives")),
        Binding("f8", "compare", N_("Compare"), id="sample.compare",
                tooltip=N_("the same prompt and seed to several models, side by side")),
        Binding("f9", "time_machine", N_("Time machine"), show=False, id="sample.time_machine",
                tooltip=N_("the same prompt and seed to every checkpoint of this run")),
    ]

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
        if self.is_free() and (found := await self._pick_models(N_("Model"))):
            self.play.choose(found[0])
            self.play.generation = None
            self.show_now()

    def _refresh_choice(self) -> None:
        """载入的是正在训练的运行新存的一个：名字旁的步数跟上。"""
        choice = self.play.choice
        if choice is not None and self.play.model is not None and choice.out_dir in self.bench.store.runs:
            self.play.choice = refreshed(choice, checkpoints_of(self.bench.store.runs[choice.out_dir]))

    # ---- 参数 ----

    def action_controls(self) -> None:
        """去参数那里，或者回来；窄的屏上它与文字换着显示。"""
        pane = self.query_one(ControlPane)
        is_leaving = pane.has_focus_within
        self.set_class(not is_leaving, "-controls")
        # `focus()` 要过一会儿才生效，紧跟着打的字就丢了
        self.set_focus(self.editor if is_leaving else pane.keys)
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
                self.try_to(lambda: self.play.store.save_preset(name, dict(self.play.controls.edits)),
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
            self.try_to(lambda: self.play.store.save_template(name, template), _("Saved as {name}").format(name=name))
        self.play.use_template(name or _("own"), template)

    # ---- 比较、逐 token、困惑度 ----

    def action_compare(self) -> None:
        self.run_worker(self._compare(), group="dialog", exclusive=True)

    async def _compare(self) -> None:
        if self.is_free() and (found := await self._pick_models(N_("Compare: mark the models"), is_many=True)):
            self._open_comparison(found)

    def action_time_machine(self) -> None:
        choice = self.play.choice
        run = self.bench.store.runs.get(choice.out_dir) if choice is not None and choice.out_dir is not None else None
        found = checkpoints_of(run) if run is not None else []
        further = [model for model in found[1:] if model.iter != found[0].iter]
        # 从早到晚，最近的一个在最后
        steps = [*further, found[0]] if found else []
        if not self.is_free() or self.bench.refuse_if_read_only():
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
        if not self.is_free() or self.bench.refuse_if_read_only():
            return
        if self.play.choice is None:
            self.bench.say(_("no model is chosen"), "warning", 3.0)
            return
        if at is None or not self.play.conversation.turns[at].text:
            self.bench.say(_("There is no text yet."), "warning", 3.0)
            return
        self.app.push_screen(InspectScreen(self.play, at))

    def action_perplexity(self) -> None:
        from workbench.screens.perplexity import PerplexityScreen

        if not self.is_free() or self.bench.refuse_if_read_only():
            return
        if self.play.choice is None:
            self.bench.say(_("no model is chosen"), "warning", 3.0)
            return
        self.app.push_screen(PerplexityScreen(self.play))


def _shown(values: dict[str, str]) -> str:
    return visible("  ".join(f"{name} {text}" for name, text in values.items()), keep="")[:200]
