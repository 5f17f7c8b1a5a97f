"""把草稿存成工作区的预设：问一个名字；同名的已在，就再按一次回车才改它。启动界面打开它。"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.draft import Draft
from workbench.messages import LanguageChanged
from workbench.preset_file import is_preset_name, preset_path, save_preset
from workbench.terminal import wrap
from workbench.widgets.launch_panes import read_only_error
from workbench.widgets.lines import LineView, line_of


class SavePresetScreen(ModalScreen[Path]):
    """存好了就以那个文件关闭，作罢则 None。"""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "give_up", N_("cancel"), id="save.cancel", tooltip=N_("leave without saving"))]

    def __init__(self, draft: Draft):
        super().__init__()
        self.draft = draft
        self.error: BadInput | None = None
        self._overwriting: str | None = None

    def compose(self) -> ComposeResult:
        own = self.draft.workspace / "presets" / f"{self.draft.preset}.toml"
        with Vertical(classes="dialog"):
            yield LineView(id="head")
            # 文件名也是外面来的：当不了预设名字的不拿来当默认
            is_own = is_preset_name(self.draft.preset) and own.is_file()
            yield Input(self.draft.preset if is_own else "", id="name", compact=True)
            yield LineView(id="trouble")

    def on_mount(self) -> None:
        self.renew()
        self.query_one("#name", Input).focus()

    @on(LanguageChanged)
    def renew(self) -> None:
        width = max(20, min(62, int(self.app.size.width * 0.9) - 6))
        self.query_one("#head", LineView).show([
            line_of((_("Save as a preset named:"), "bold")),
            line_of((_("enter saves it to {file}, esc does not").format(file="presets/"), "dim"))])
        text = visible(str(self.error)) if self.error is not None else ""
        self.query_one("#trouble", LineView).show([line_of((line, "red")) for line in wrap(text, width) if line])

    @on(Input.Submitted)
    def save(self, event: Input.Submitted) -> None:
        event.stop()
        name = event.value.strip()
        values: dict[str, Any] = self.draft.train.values()
        values.pop("out_dir")
        try:
            if self.app.is_read_only:  # type: ignore[attr-defined]
                raise read_only_error()
            path = preset_path(name, self.draft.workspace)
            if path.exists() and self._overwriting != name:
                self._overwriting = name
                raise BadInput("preset_exists", _("there is already a preset {name}").format(name=name), str(path),
                               _("Enter again changes it, and keeps its comments; or give another name"))
            save_preset(name, values, self.draft.workspace)
        except BadInput as error:
            self.error = error
            self.renew()
            return
        self.dismiss(path)

    def action_give_up(self) -> None:
        self.dismiss(None)
