"""启动界面的三页：预设、数据集、设备。各自发出「选了什么」，由启动界面改草稿。

列表里的标题、说明、设备名与日志都来自外面，显示前经过 `one_line`，也不当标记解析。
"""

from typing import Any, ClassVar

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option as Row

from nanogpt.dataset import list_datasets
from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _, language
from nanogpt.presets import read_about
from workbench.draft import Draft, ordered_presets
from workbench.machine import Device
from workbench.preparation import Preparation
from workbench.widgets.key_list import KeyList
from workbench.widgets.option_form import OptionForm, one_line

NEEDS = {"cpu": N_("a CPU is enough"), "gpu": N_("needs a GPU"), "8 gpus": N_("needs 8 GPUs"), "mps": N_("needs a Mac")}
CHOSEN, TAKEN = "> ", "* "
LOG_SECONDS = 0.25


class Chosen(Message):
    """在某一页上选了一项：`what` 是 `preset`、`dataset` 或 `device`。"""

    def __init__(self, what: str, name: str):
        super().__init__()
        self.what, self.name = what, name


class Wanted(Message):
    """要打开另一屏：`own_text`，或检查名为 `name` 的数据集的 `doctor`。"""

    def __init__(self, what: str, name: str = ""):
        super().__init__()
        self.what, self.name = what, name


class Refused(Message):
    """做不到，`error` 说明为什么。"""

    def __init__(self, error: BadInput):
        super().__init__()
        self.error = error


def in_language(about: dict[str, str], key: str) -> str:
    """标题或说明，按界面的语言；没有译文就用原文。"""
    own = about.get(f"{key}_zh", "") if language() == "zh" else ""
    return one_line(own or about.get(key, ""), 600)


class PresetPane(Vertical):
    """预设的列表与光标下那个的说明。"""

    def __init__(self, draft: Draft):
        super().__init__()
        self.draft = draft

    def compose(self) -> ComposeResult:
        yield KeyList(markup=False)
        yield Static(classes="help", markup=False)

    def on_mount(self) -> None:
        self.refresh_rows()

    def refresh_rows(self) -> None:
        keys = self.query_one(KeyList)
        before = keys.highlighted_option.id if keys.highlighted_option else self.draft.preset
        self._abouts = {name: read_about(path) for name, path in ordered_presets(self.draft.workspace).items()}
        keys.clear_options()
        for name, about in self._abouts.items():
            row = Text(CHOSEN if name == self.draft.preset else "  ")
            row.append(in_language(about, "title") or one_line(name))
            row.append("  " + one_line(name), "dim")
            keys.add_option(Row(row, id=name))
        names = list(self._abouts)
        keys.highlighted = names.index(before) if before in names else (0 if names else None)

    @on(OptionList.OptionHighlighted)
    def show_about(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        about = self._abouts.get(event.option.id or "", {})
        needs = about.get("needs", "")
        lines = [in_language(about, "description"), _(NEEDS.get(needs, "")) or one_line(needs)]
        self.query_one(".help", Static).update("\n".join(line for line in lines if line))

    @on(OptionList.OptionSelected)
    def choose(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.post_message(Chosen("preset", event.option.id or ""))


class DatasetPane(Vertical):
    """数据集的列表；还没备好的可以从这里准备，输出就显示在下面。"""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "prepare", N_("Prepare"), id="dataset.prepare", tooltip=N_("run this dataset's prepare.py")),
        Binding("a", "own_text", N_("Own text"), id="dataset.own_text",
                tooltip=N_("make a dataset from text of your own, with a preview")),
        Binding("c", "check", N_("Check"), id="dataset.check",
                tooltip=N_("what is wrong with this dataset, and how to mend it")),
        Binding("x", "cancel", N_("Cancel"), id="dataset.cancel", tooltip=N_("stop preparing; twice: kill it")),
    ]

    def __init__(self, draft: Draft, preparations: dict[str, Preparation], is_read_only: bool):
        super().__init__()
        self.draft, self.preparations, self.is_read_only = draft, preparations, is_read_only
        self._rows: dict[str, dict[str, Any]] = {}

    def compose(self) -> ComposeResult:
        yield KeyList(markup=False)
        yield Static(classes="help", markup=False)
        yield VerticalScroll(Static(markup=False), classes="log", can_focus=False)

    def on_mount(self) -> None:
        self.refresh_rows()
        self.set_interval(LOG_SECONDS, self.follow_log)

    def refresh_rows(self) -> None:
        keys = self.query_one(KeyList)
        chosen = self.draft.train.value("dataset")
        before = keys.highlighted_option.id if keys.highlighted_option else chosen
        self._rows = {row["name"]: row for row in list_datasets(self.draft.workspace)}
        keys.clear_options()
        width = max((cell_len(one_line(name)) for name in self._rows), default=0)
        for name, row in self._rows.items():
            state = _("{n} tokens").format(n=f"{sum(row['tokens'].values()):,}") if row["is_prepared"] else (
                _("problem") if row["problem"] else _("not prepared"))
            shown = set_cell_size(one_line(name), width)
            keys.add_option(Row(Text(f"{CHOSEN if name == chosen else '  '}{shown}  {state}"), id=name))
        names = list(self._rows)
        keys.highlighted = names.index(before) if before in names else (0 if names else None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """没有在准备的就没有可取消的。"""
        found = self.preparations.get(self.current) if self.is_mounted else None
        return action != "cancel" or (found is not None and found.was_running)

    @property
    def current(self) -> str:
        row = self.query_one(KeyList).highlighted_option
        return row.id or "" if row is not None else ""

    @on(OptionList.OptionHighlighted)
    def show_dataset(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self._show_help()
        self.follow_log()

    def _show_help(self) -> None:
        row = self._rows.get(self.current)
        if row is None:
            text = _("no dataset here")
        elif row["problem"]:
            text = one_line(row["problem"])
        elif row["is_prepared"]:
            parts = [_("train {n} tokens").format(n=f"{row['tokens']['train']:,}"),
                     _("validation {n}").format(n=f"{row['tokens']['val']:,}"),
                     _("vocabulary {n}").format(n=row["vocab_size"] or "GPT-2"), f"{row['bytes'] / 2**20:,.1f} MiB"]
            text = _(", ").join(parts)
        else:
            text = _("not prepared: p prepares it here")
        self.query_one(".help", Static).update(text)

    def _preparation(self) -> Preparation | None:
        """光标下的数据集的准备；上一个应用开始的也认。"""
        name = self.current
        if name and name not in self.preparations:
            try:
                self.preparations[name] = Preparation(name, self.draft.workspace)
            except BadInput:
                return None
        return self.preparations.get(name)

    def follow_log(self) -> None:
        """日志有变才重画；刚结束的刷新列表。"""
        found, log = self._preparation(), self.query_one(".log", VerticalScroll)
        lines: list[str] = []
        if found is not None:
            is_running = found.is_running()
            if is_running or found.process is not None:
                state = (_("preparing; x cancels") if is_running else
                         _("cancelled") if found.is_cancelled else
                         _("prepared") if found.exit_code == 0 else
                         _("failed, exit code {n}").format(n=found.exit_code))
                lines = [*found.tail(), f"-- {state}"]
            if found.was_running and not is_running:
                self.draft.forget_datasets()
                self.refresh_rows()
                self.post_message(Chosen("prepared", found.name))
            if found.was_running != is_running:
                found.was_running = is_running
                self.refresh_bindings()
        text = "\n".join(lines)
        if text != getattr(self, "_shown", None):
            self._shown = text
            log.query_one(Static).update(text)
            log.display = bool(text)
            log.scroll_end(animate=False)

    def action_prepare(self) -> None:
        found = self._preparation()
        if found is None:
            return
        try:
            if self.is_read_only:
                raise read_only_error()
            found.start()
        except BadInput as error:
            self.post_message(Refused(error))
        self.follow_log()

    def action_own_text(self) -> None:
        self.post_message(Refused(read_only_error()) if self.is_read_only else Wanted("own_text"))

    def action_check(self) -> None:
        if name := self.current:
            self.post_message(Refused(read_only_error()) if self.is_read_only else Wanted("doctor", name))

    def show_new(self, name: str) -> None:
        """刚做好的：列出来，光标在它上面。"""
        self.refresh_rows()
        keys = self.query_one(KeyList)
        keys.highlighted = list(self._rows).index(name) if name in self._rows else keys.highlighted

    def action_cancel(self) -> None:
        found = self._preparation()
        if found is not None and not self.is_read_only:
            found.cancel()
            self.follow_log()

    @on(OptionList.OptionSelected)
    def choose(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.post_message(Chosen("dataset", event.option.id or ""))


class MachinePane(Vertical):
    """设备的列表，下面是进程与机器的表单。"""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.focus_next", N_("Next"), id="machine.next", tooltip=N_("devices, then processes")),
        Binding("space", "toggle_gpu", N_("This GPU too"), id="machine.gpu", show=False,
                tooltip=N_("train on several GPUs: take this one, or leave it; one process each")),
    ]

    def __init__(self, draft: Draft, devices: list[Device]):
        super().__init__()
        self.draft, self.devices = draft, devices

    def compose(self) -> ComposeResult:
        yield KeyList(markup=False, classes="devices")
        yield OptionForm(self.draft.machine, id="machine-form")

    def on_mount(self) -> None:
        self.refresh_rows()

    def refresh_rows(self) -> None:
        keys, chosen = self.query_one(".devices", KeyList), self.draft.train.value("device")
        rows = [Device("auto", _("the best that this machine has")), *self.devices]
        names = [device.name for device in rows]
        before = keys.highlighted_option.id if keys.highlighted_option else chosen
        keys.clear_options()
        for device in rows:
            is_taken = device.name.startswith("cuda:") and int(device.name[5:]) in self.draft.gpus
            row = Text(TAKEN if is_taken else CHOSEN if device.name == chosen and not self.draft.gpus else "  ")
            row.append(set_cell_size(device.name, 7) + " " + one_line(device.title))
            if device.memory_mib:
                row.append(f"  {device.memory_mib / 1024:,.0f} GiB", "dim")
            keys.add_option(Row(row, id=device.name))
        keys.highlighted = names.index(before) if before in names else 0
        self.query_one(OptionForm).refresh_rows()

    def action_toggle_gpu(self) -> None:
        row = self.query_one(".devices", KeyList).highlighted_option
        name = row.id or "" if row is not None else ""
        if name.startswith("cuda:"):
            self.draft.toggle_gpu(int(name.removeprefix("cuda:")))
            self.post_message(Chosen("gpus", name))
        else:
            self.post_message(Refused(BadInput("not_a_gpu", _("only GPUs are taken together, not {name}").format(
                name=name), "", _("for several processes on a CPU set ranks below"))))

    @on(OptionList.OptionSelected, ".devices")
    def choose(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.post_message(Chosen("device", event.option.id or ""))


def read_only_error() -> BadInput:
    return BadInput("read_only", _("the workbench was opened with --read-only"), "",
                    _("open it without --read-only to start or write anything"))
