"""启动界面：选预设、数据集、设备，改任何一个键；旁边是估算，下面是将要执行的命令。

应用打开它；它的全部状态在 `Draft` 里。启动经由 `app.start_run` 与 `app.open_monitor`，显示的命令就是要跑的。
"""

import asyncio
import shlex
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static, TabbedContent, TabPane

from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.draft import Draft, first_draft
from workbench.keymap import own_bindings
from workbench.machine import Device, list_devices
from workbench.messages import LanguageChanged
from workbench.own_text import OwnText
from workbench.preparation import Preparation
from workbench.screens.doctor import DoctorScreen
from workbench.screens.nodes import NodesScreen
from workbench.screens.own_text import OwnTextScreen
from workbench.screens.save_preset import SavePresetScreen
from workbench.watched_run import WatchedRun
from workbench.widgets.figures import figures_text
from workbench.widgets.hint_bar import HintBar
from workbench.widgets.key_list import KeyList
from workbench.widgets.launch_panes import (
    Chosen,
    DatasetPane,
    MachinePane,
    PresetPane,
    Refused,
    Wanted,
    read_only_error,
)
from workbench.widgets.option_form import OptionForm

TABS = ("preset", "dataset", "machine", "keys")
TITLES = {"preset": N_("Preset"), "dataset": N_("Data"), "machine": N_("Machine"), "keys": N_("All keys")}
ABOUT_TABS = {"preset": N_("choose a preset"), "dataset": N_("choose and prepare a dataset"),
              "machine": N_("choose the device, the processes and the machines"),
              "keys": N_("change any key of the config")}
# 换语言时重建部件，正在准备的数据集与设备表不该重来，所以都放在界面的普通属性里


class LaunchScreen(Screen[None]):
    """`preset` 是一开始选中的预设；`clone_of` 则照着那个运行填好。"""

    HINTS = ("launch.start", "dataset.own_text", "dataset.prepare", "dataset.check", "dataset.cancel", "machine.next",
             "form.search", "form.reset", "form.reset_all", "launch.save", "launch.copy", "launch.nodes",
             "launch.close", "app.quit")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r,f5", "launch", N_("Start"), id="launch.start", priority=True,
                tooltip=N_("check everything and start training")),
        Binding("ctrl+s", "save", N_("Save"), id="launch.save", priority=True,
                tooltip=N_("write the changed keys to presets/<name>.toml")),
        Binding("y", "copy", N_("Copy"), id="launch.copy", tooltip=N_("copy the command that will run")),
        Binding("N", "nodes", N_("Each machine's command"), id="launch.nodes",
                tooltip=N_("with several machines: the command of each, to copy one by one")),
        Binding("h,left", "tab(-1)", N_("Left page"), id="launch.left", show=False, tooltip=N_("the page before")),
        Binding("l,right", "tab(1)", N_("Right page"), id="launch.right", show=False, tooltip=N_("the page after")),
        *[Binding(str(number), f"show_tab('{tab}')", TITLES[tab], id=f"launch.{tab}", show=False,
                  tooltip=ABOUT_TABS[tab]) for number, tab in enumerate(TABS, 1)],
        Binding("escape", "close", N_("Back"), id="launch.close", tooltip=N_("leave without starting")),
    ]

    def __init__(self, preset: str | None = None, clone_of: WatchedRun | None = None):
        super().__init__()
        self._preset, self._clone_of = preset, clone_of
        self._tab = TABS[3] if clone_of is not None else TABS[0]
        self._devices: list[Device] = []
        self._preparations: dict[str, Preparation] = {}
        self._own_text = OwnText()
        self._error: BadInput | None = None
        self._note = ""
        self.draft: Draft | None = None

    # ---- 生命周期 ----

    def compose(self) -> ComposeResult:
        if self.draft is None:
            workspace: Path = self.app.workspace  # type: ignore[attr-defined]
            self.draft, self._error = first_draft(workspace, self._preset, self._clone_of)
        yield Static(id="title", markup=False)
        with Horizontal(id="body"):
            with TabbedContent(initial=self._tab):
                for number, tab in enumerate(TABS, 1):
                    with TabPane(f"{number} {_(TITLES[tab])}", id=tab):
                        yield self._pane(tab, self.draft)
            yield VerticalScroll(Static(markup=False), id="figures", can_focus=False)
        yield Static(id="problem", markup=False)
        yield VerticalScroll(Static(markup=False), id="command", can_focus=False)
        yield HintBar()

    def _pane(self, tab: str, draft: Draft) -> Vertical:
        if tab == "preset":
            return PresetPane(draft)
        if tab == "dataset":
            return DatasetPane(draft, self._preparations, self.is_read_only)
        return MachinePane(draft, self._devices) if tab == "machine" else OptionForm(draft.train, id="train-form")

    def on_mount(self) -> None:
        self.set_class(self.app.is_ascii, "-ascii")  # type: ignore[attr-defined]
        self._find_devices()
        self._focus_tab()
        self.show_plan()

    @on(LanguageChanged)
    def show_language(self) -> None:
        self.refresh(recompose=True)

    async def recompose(self) -> None:
        """换了语言：部件重建，草稿与页码不变。"""
        await super().recompose()
        self._focus_tab()
        self.show_plan()

    @property
    def is_read_only(self) -> bool:
        return bool(self.app.is_read_only)  # type: ignore[attr-defined]

    @work(exclusive=True, group="devices")
    async def _find_devices(self) -> None:
        self._devices = await asyncio.to_thread(list_devices)
        if self.draft is not None and self.is_mounted:
            self.draft.has_cuda = any(device.name.startswith("cuda") for device in self._devices)
            pane = self.query_one(MachinePane)
            pane.devices = self._devices
            pane.refresh_rows()
            self.show_plan()

    # ---- 显示 ----

    def show_plan(self) -> None:
        """草稿变了：标题、估算、命令与第一处不对的地方都重写。"""
        draft = self.draft
        assert draft is not None
        changes = len(draft.train.edits) + len(draft.machine.edits)
        title = _("New run: {preset}").format(preset=visible(draft.preset or _("no preset"), keep=""))
        title += " | " + _("changed keys: {n}").format(n=changes) if changes else ""
        self.query_one("#title", Static).update((_("read-only") + " | " if self.is_read_only else "") + title)
        self.query_one("#figures Static", Static).update(figures_text(draft, self._devices))
        self.query_one("#command Static", Static).update("\n".join(self.command_lines()))
        self.show_problem(self._error or self._key_error(draft))

    def _key_error(self, draft: Draft) -> BadInput | None:
        try:
            draft.check_keys()
        except BadInput as error:
            return error
        return None

    def show_problem(self, error: BadInput | None) -> None:
        box = self.query_one("#problem", Static)
        box.set_class(error is None, "-note")
        text = str(error) if error is not None else self._note
        box.update(text)
        box.display = bool(text)

    def command_lines(self) -> list[str]:
        """显示、复制、执行的都是这个命令；多台机器时每台一行。"""
        assert self.draft is not None
        return self.draft.plan().node_lines()

    # ---- 选与改 ----

    def _changed(self) -> None:
        self._error, self._note = None, ""
        assert self.draft is not None
        self.draft.fit_accumulation()
        self.query_one("#train-form", OptionForm).refresh_rows()
        self.query_one(PresetPane).refresh_rows()
        self.query_one(DatasetPane).refresh_rows()
        self.query_one(MachinePane).refresh_rows()
        self.show_plan()

    @on(Chosen)
    def take_choice(self, event: Chosen) -> None:
        """选好一项就翻到下一页。"""
        event.stop()
        assert self.draft is not None
        try:
            if event.what == "preset":
                self.draft.choose_preset(event.name)
            elif event.what in ("dataset", "device"):
                self.draft.train.set(event.what, event.name)
        except BadInput as error:
            self._error = error
            self.show_plan()
            return
        self._changed()
        following = {"preset": "dataset", "dataset": "machine"}.get(event.what)
        if following:
            self.action_show_tab(following)

    @on(Refused)
    def take_refusal(self, event: Refused) -> None:
        event.stop()
        self._error = event.error
        self.show_plan()

    @on(Wanted)
    def open_wanted(self, event: Wanted) -> None:
        event.stop()
        assert self.draft is not None
        if event.what == "own_text":
            self.app.push_screen(OwnTextScreen(self._own_text), self._take_own)
        else:
            self.app.push_screen(DoctorScreen(event.name, self.draft.config().block_size))

    def _take_own(self, name: str | None) -> None:
        """刚做好的数据集就是要训练的。"""
        assert self.draft is not None
        if name is not None:
            self.draft.forget_datasets()
            self.draft.train.set("dataset", name)
            self._changed()
            self.query_one(DatasetPane).show_new(name)
            self._note = _("{name} is ready: ctrl+r trains on it").format(name=name)
            self.show_plan()

    @on(OptionForm.Changed)
    def take_change(self, event: OptionForm.Changed) -> None:
        event.stop()
        self._changed()

    @on(TabbedContent.TabActivated)
    def remember_tab(self, event: TabbedContent.TabActivated) -> None:
        if event.pane.id != self._tab:
            self._tab = event.pane.id or TABS[0]

    def _focus_tab(self) -> None:
        self._first_list().focus()

    def action_show_tab(self, tab: str) -> None:
        self._tab = tab
        self.query_one(TabbedContent).active = tab
        self._focus_tab()

    def hidden_bindings(self) -> list[tuple[Binding, Widget, str]]:
        """各页自己的键：（绑定, 部件, 页），不管现在翻在哪一页；命令面板用。"""
        panes: list[tuple[str, Widget]] = [
            ("dataset", self.query_one(DatasetPane)), ("machine", self.query_one(MachinePane)),
            ("keys", self.query_one("#train-form", OptionForm)), (self._tab, self._first_list())]
        return [(binding, pane, page) for page, pane in panes for binding in own_bindings(type(pane))
                if pane.check_action(binding.action, ())]

    def _first_list(self) -> KeyList:
        return self.query_one(f"#{self._tab}", TabPane).query(KeyList).first()

    def action_tab(self, step: int) -> None:
        self.action_show_tab(TABS[(TABS.index(self._tab) + step) % len(TABS)])

    # ---- 做 ----

    def action_copy(self) -> None:
        # 应用的 `copy_to_clipboard` 管 tmux 与 SSH
        self.app.copy_to_clipboard("\n".join(self.command_lines()))
        self._note = _("copied")
        self.show_problem(None)

    def action_nodes(self) -> None:
        assert self.draft is not None
        plan = self.draft.plan()
        self.app.push_screen(NodesScreen(plan.node_lines(), f"{plan.master_addr}:{plan.master_port}"))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        return action != "nodes" or (self.draft is not None and self.draft.plan().nodes > 1)

    def action_launch(self) -> None:
        if self.is_read_only:
            self._error = read_only_error()
            self.show_plan()
        else:
            self._launch()

    @work(exclusive=True, group="launch")
    async def _launch(self) -> None:
        """查过、建好目录、启动、打开监视；哪一步不成就把话留在屏幕上。"""
        draft, app = self.draft, self.app
        assert draft is not None
        self._note = _("checking...")
        self.show_problem(None)
        self._note = ""
        try:
            await asyncio.to_thread(draft.check)
            out_dir = draft.make_out_dir()
        except BadInput as error:
            self._error = error
            self.show_plan()
            if error.code == "dataset_missing":
                # 在这一页按 `p` 就能准备它
                self.action_show_tab("dataset")
            return
        self._error = None
        self.show_plan()
        if app.start_run(draft.start_command(), out_dir):  # type: ignore[attr-defined]
            app.open_monitor(out_dir)  # type: ignore[attr-defined]
        else:
            self._error = BadInput("cannot_start", _("the command could not be started"),
                                   visible(shlex.join(draft.start_command()), keep=""), _("try it in a shell"))
            self.show_plan()

    def action_save(self) -> None:
        if self.is_read_only:
            self._error = read_only_error()
            self.show_plan()
            return
        assert self.draft is not None
        self.app.push_screen(SavePresetScreen(self.draft), self._take_saved)

    def _take_saved(self, path: Path | None) -> None:
        """存好的就是现在的预设；改动都在里面了。"""
        assert self.draft is not None
        if path is None:
            return
        try:
            self.draft.rest_on(path.stem)
        except BadInput as error:
            self._error = error
        self._changed()
        self._note = _("saved: {file}").format(file=visible(str(path), keep=""))
        self.show_plan()

    def action_close(self) -> None:
        self.dismiss()
