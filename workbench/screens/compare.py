"""并排比较，与「时间机器」：同样的提示与种子，几个模型或一个运行的许多检查点，各自的文字与困惑度。"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nanogpt.atomic import write_atomic
from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.playground.comparison import Comparison
from workbench.playground.status import STAGES
from workbench.screens.base import WorkbenchScreen
from workbench.widgets.comparison_view import ComparisonView
from workbench.widgets.hint_bar import HintBar
from workbench.widgets.lines import LineView, line_of

if TYPE_CHECKING:
    from workbench.playground.models import ModelChoice
    from workbench.playground.session import Playground

SHOW_SECONDS = 0.2


class CompareScreen(WorkbenchScreen):
    """`keys`：`generate` 请求的键，提示也在其中。"""

    HINTS = ("compare.back", "compare.left", "compare.again", "compare.use", "compare.copy", "compare.save",
             "compare.down")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace", "leave", N_("Back"), id="compare.back",
                tooltip=N_("stop at once; when nothing runs, leave")),
        Binding("left,h", "move(-1)", N_("model"), id="compare.left", tooltip=N_("the model to the left")),
        Binding("right,l", "move(1)", N_("next model"), show=False, id="compare.right",
                tooltip=N_("the model to the right")),
        Binding("down,j", "scroll(1)", N_("scroll"), id="compare.down", tooltip=N_("all columns down")),
        Binding("up,k", "scroll(-1)", N_("scroll up"), show=False, id="compare.up", tooltip=N_("all columns up")),
        Binding("pagedown,J", "scroll(10)", N_("page down"), show=False, id="compare.page_down",
                tooltip=N_("ten rows down")),
        Binding("pageup,K", "scroll(-10)", N_("page up"), show=False, id="compare.page_up", tooltip=N_("ten rows up")),
        Binding("n,ctrl+n", "again", N_("Again"), id="compare.again", tooltip=N_("all once more, with the next seed")),
        Binding("enter", "use", N_("use"), id="compare.use", tooltip=N_("go on with this model")),
        Binding("y", "copy", N_("copy"), id="compare.copy", tooltip=N_("copy this text; also written to a file")),
        Binding("w,ctrl+s", "save", N_("save"), id="compare.save",
                tooltip=N_("write texts and figures to transcripts/compare-TIME.json")),
    ]

    def __init__(self, play: Playground, choices: list[ModelChoice], keys: dict[str, Any]):
        super().__init__()
        self.play, self.choices, self.keys = play, choices, keys
        self.comparison = Comparison(play.engine, choices, keys)
        self.view = ComparisonView(id="columns")
        self._seen: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        yield LineView(id="title", classes="title")
        yield LineView(id="asked")
        yield self.view
        yield HintBar()

    def on_mount(self) -> None:
        self.view.focus()
        self.set_interval(SHOW_SECONDS, self.poll_server)
        self.renew()

    def on_unmount(self) -> None:
        self.comparison.stop()

    def poll_server(self) -> None:
        self.play.poll()
        self.comparison.step()
        seen = (self.play.engine.version, self.comparison, self.comparison.has_ended)
        if seen != self._seen:
            self._seen = seen
            self.renew()

    def renew(self) -> None:
        if not self.is_mounted or not self.query("#asked"):
            return
        found, width = self.comparison, self.size.width
        done = sum(entry.has_ended for entry in found.entries)
        said = _("{done} of {count} models").format(done=done, count=len(found.entries))
        load = self.play.engine.load
        if found.current is not None and load is not None and not load.has_ended:
            said += "; " + _(STAGES.get(load.stage, STAGES["starting"]))
        self.query_one("#title", LineView).show([
            line_of((f" {_('Side by side')} ", "bold reverse"), f"  {said}  ",
                    (f"seed {self.keys.get('seed')}", "dim"), width=width)])
        shown = visible(self.keys["prompt"][:400], keep="").strip()
        self.query_one("#asked", LineView).show([line_of((_("prompt") + " ", "dim"), (shown, "bold"), width=width)])
        self.view.look(found)

    # ---- 键 ----

    def action_leave(self) -> None:
        if self.comparison.has_ended:
            self.dismiss()
        else:
            self.comparison.stop()
            self.renew()

    def action_move(self, step: int) -> None:
        self.view.move(step)

    def action_scroll(self, rows: int) -> None:
        self.view.scroll_rows(rows)

    def action_again(self) -> None:
        if self.comparison.has_ended:
            self.keys = {**self.keys, "seed": self.keys.get("seed", 0) + 1}
            self.comparison = Comparison(self.play.engine, self.choices, self.keys)
            self.renew()

    def action_use(self) -> None:
        if self.comparison.has_ended:
            self.play.choose(self.comparison.entries[self.view.cursor].choice)
            self.dismiss()

    def action_copy(self) -> None:
        entry = self.comparison.entries[self.view.cursor]
        if entry.text:
            self.app.copy_to_clipboard(self.keys["prompt"] + entry.text)

    def action_save(self) -> None:
        import time

        if self.bench.refuse_if_read_only():
            return
        path = self.play.store.transcripts / time.strftime("compare-%Y%m%d-%H%M%S.json")
        text = json.dumps({"format": "nanogpt-comparison-1", "request": self.keys, "models": self.comparison.rows()},
                          ensure_ascii=False, indent=1)
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            write_atomic(path, text + "\n")
        except OSError as error:
            self.bench.say_error(error)
            return
        self.bench.say(_("Written: {files}").format(files=path))
