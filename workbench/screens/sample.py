"""采样界面：选一个模型，让它接着写（complete）或与它对话（chat）；写多少显示多少，随时停得下来。

应用从运行列表或监视界面打开它。一切状态在 `Playground`；选模型、存取、比较等动作在 `PlaygroundTools`。
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import TextArea

from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.messages import LanguageChanged
from workbench.playground.controls import summary
from workbench.playground.models import ModelChoice, checkpoints_of
from workbench.playground.session import modes
from workbench.playground.status import status
from workbench.screens.playground_tools import PlaygroundTools
from workbench.terminal import wrap
from workbench.widgets.hint_bar import HintBar
from workbench.widgets.lines import LineView, Piece, line_of
from workbench.widgets.option_form import OptionForm
from workbench.widgets.playground_panes import ControlPane, TranscriptPane
from workbench.widgets.prompt_editor import PromptEditor

if TYPE_CHECKING:
    from workbench.watched_run import WatchedRun

# 新文字一秒显示五次：人看着流畅，经 SSH 也不费
SHOW_SECONDS = 0.2
# 停下手这么久才去数 token
COUNT_SECONDS = 0.4
STATUS_LINES = 5


class SampleScreen(PlaygroundTools):
    """`run`：从它的最近一个检查点开始；None 则先选模型。"""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (34, "-medium")]  # noqa: RUF012
    HINTS = ("controls.presets", "controls.save", "controls.template", "transcript.edit", "transcript.inspect",
             "transcript.copy", "transcript.left", "transcript.new", "transcript.perplexity", "sample.run",
             "form.search", "sample.again", "sample.model", "sample.mode", "sample.controls", "sample.cancel",
             "sample.go_on", "sample.compare", "sample.time_machine", "sample.inspect", "sample.save")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r,f5", "run", N_("Sample"), id="sample.run",
                tooltip=N_("send what is in the editor; the model writes on")),
        Binding("ctrl+n", "again", N_("Again"), id="sample.again",
                tooltip=N_("once more, with the next seed")),
        Binding("ctrl+g", "go_on", N_("Go on"), id="sample.go_on",
                tooltip=N_("write on from where it ended")),
        Binding("escape", "cancel", N_("Back"), id="sample.cancel",
                tooltip=N_("stop at once; when nothing runs, leave")),
    ]

    def __init__(self, run: WatchedRun | None = None):
        super().__init__()
        self.first_run = run
        self._began = 0.0
        self._typed_at: float | None = None
        self._seen: tuple[object, ...] = ()
        self._is_sending = False

    # ---- 生命 ----

    def compose(self) -> ComposeResult:
        yield LineView(id="title", classes="title")
        with Horizontal(id="body"):
            yield TranscriptPane(id="transcript")
            yield ControlPane(self.play.controls, id="controls")
        yield LineView(id="status")
        yield LineView(id="settings")
        yield PromptEditor(self.play.draft, id="prompt", placeholder=self.placeholder())
        yield HintBar()

    def on_mount(self) -> None:
        self.play.open()
        self._choose_first()
        self.editor.focus()
        self.set_interval(SHOW_SECONDS, self.poll_server)
        self._typed_at = time.monotonic()
        self.renew()

    def _choose_first(self) -> None:
        """从哪个运行打开的，就用它的模型；原来就是它的另一个检查点，不换。"""
        run, before = self.first_run, self.play.choice
        if run is not None and (before is None or before.out_dir != run.out_dir):
            found = checkpoints_of(run)
            self.play.choose(found[0] if found else ModelChoice("resume", run.out_dir))
        else:
            self.play.warm_up()

    def on_unmount(self) -> None:
        self.play.close()

    @on(LanguageChanged)
    async def rebuild_controls(self) -> None:
        """表单里的说明写死在各行里：换一张新的。"""
        self.editor.placeholder = self.placeholder()
        # 词表之外的字：让服务用这种语言再说一遍
        self._typed_at = time.monotonic()
        old = self.query_one(ControlPane)
        had_focus = old.has_focus_within
        await old.remove()
        new = ControlPane(self.play.controls, id="controls")
        await self.query_one("#body").mount(new)
        if had_focus:
            new.keys.focus()
        self.renew()

    def hidden_bindings(self) -> list[tuple[Binding, Any, str]]:
        """命令面板里也要有的：焦点不在那里时，文字与参数各自的键。"""
        from workbench.keymap import own_bindings

        controls = self.query_one(ControlPane)
        return [(binding, node, "") for node in (self.transcript, controls, controls.keys, self.editor)
                for binding in own_bindings(type(node))]

    @property
    def editor(self) -> PromptEditor:
        return self.query_one("#prompt", PromptEditor)

    @property
    def transcript(self) -> TranscriptPane:
        return self.query_one("#transcript", TranscriptPane)

    def on_screen_resume(self) -> None:
        # 比较时装的是别的模型：回来就换回选中的
        if not self.play.is_busy and self.play.engine.load is not None:
            self.play.warm_up()
        super().on_screen_resume()

    @property
    def run_of_choice(self) -> WatchedRun | None:
        choice = self.play.choice
        if choice is None or choice.out_dir is None:
            return None
        return self.bench.store.runs.get(choice.out_dir) or self.first_run

    # ---- 显示 ----

    def poll_server(self) -> None:
        """取来新的；停下手一会儿了就数 token。"""
        play = self.play
        was_busy = play.is_busy
        is_changed = play.poll()
        if was_busy and not play.is_busy:
            # 写完了：再数一遍，裁切的记号才跟得上
            self._typed_at = 0.0
            self._refresh_choice()
        if self._typed_at is not None and not play.is_busy and play.model is not None \
                and not play.engine.is_busy and time.monotonic() - self._typed_at >= COUNT_SECONDS:
            self._typed_at = None
            play.count_tokens(self.editor.text)
        if is_changed or play.is_busy or self._state() != self._seen:
            self.show_now()

    def _state(self) -> tuple[object, ...]:
        play = self.play
        return play.engine.version, play.conversation, play.conversation.version, play.choice, self.size

    def renew(self) -> None:
        if not self.is_mounted or not self.query("#prompt"):
            return
        if self.play.engine.load is None and not self.play.is_busy:
            # 还没有检查点时打开的：一有就载入
            self.play.warm_up()
        self.show_now()

    def on_resize(self) -> None:
        self.call_after_refresh(self.renew)

    def show_now(self) -> None:
        self._seen = self._state()
        width = self.size.width
        self.query_one("#title", LineView).show([line_of(*self._title(), width=width)])
        lines, is_bad = status(self.play, self.run_of_choice, self._began)
        shown = [line_of((text, "bold red" if is_bad else "dim"), width=width - 1)
                 for line in lines for text in wrap(line, max(10, width - 1))]
        self.query_one("#status", LineView).show(shown[:STATUS_LINES])
        self.query_one("#settings", LineView).show([line_of(*self._settings(), width=width)])
        self.transcript.look(self.play.conversation, self.play.crop)
        self.editor.mark(self.play.bad_places())
        self.refresh_bindings()

    def _title(self) -> list[Piece]:
        play, model = self.play, self.play.model
        name = play.choice.name if play.choice is not None else _("no model is chosen")
        pieces: list[Piece] = [(f" {_('Sample: {run}').format(run=name)} ", "bold reverse"), (" ", "")]
        if play.choice is not None:
            choice = play.choice if model is None or model.iter is None else replace(
                play.choice, iter=model.iter, val_loss=model.val_loss)
            pieces.append((choice.detail, ""))
        if model is not None and model.params is not None:
            pieces.append(("  " + _("{params}, context {n}").format(params=short_count(model.params),
                                                                     n=model.block_size), "dim"))
        mode = modes()[play.conversation.mode] + (f": {play.template_name}" if play.is_chat else "")
        pieces.append((f"  {visible(mode, keep='')}", "bold cyan"))
        last = self.transcript.cursor
        if last is not None and last in play.conversation.path():
            place, count = play.conversation.siblings(last)
            if count > 1:
                pieces.append((f"  <{place}/{count}>", "bold"))
        return pieces

    def _settings(self) -> list[Piece]:
        pieces: list[Piece] = []
        for name, text, is_changed in summary(self.play.controls):
            shown = visible(text, keep="")[:24] or '""'
            pieces += [(f" {name} ", "dim"), (shown, "bold" if is_changed else "")]
        return pieces

    # ---- 写 ----

    @on(TextArea.Changed, "#prompt")
    def take_prompt(self, event: TextArea.Changed) -> None:
        event.stop()
        self.play.draft = event.text_area.text
        self._typed_at = time.monotonic()
        if self.play.bad_places():
            self.play.count = None
            self.editor.mark([])
        if not self.play.is_busy and self.play.generation is not None:
            # 又动手写了：上一次的数字让给这一次的
            self.play.generation = None
            self.show_now()

    @on(OptionForm.Changed)
    def take_control(self, event: OptionForm.Changed) -> None:
        event.stop()
        if not self.play.is_busy:
            # 设备与精度要重新载入
            self.play.warm_up()
        self.show_now()

    async def _begin(self, name: str) -> None:
        """`name` 是 `Playground` 的方法。`FILE:` 的文件在线程里读：它可以很大。"""
        if self._is_sending or not self.is_free():
            return
        self._is_sending = True
        text, was_editing = self.editor.text, self.play.editing is not None
        try:
            if text.startswith("FILE:"):
                from nanogpt.prompt import read_prompt

                text = await asyncio.to_thread(read_prompt, text)
            if name == "go_on":
                self.play.go_on()
            else:
                {"send": self.play.send, "regenerate": self.play.regenerate}[name](text)
        except BadInput as error:
            self.bench.say_error(error)
            return
        finally:
            self._is_sending = False
        self._began = time.monotonic()
        if self.play.is_chat and name == "send":
            self.editor.put("")
        elif was_editing:
            # 接着写的一篇里，编辑框总是它的开头
            self.editor.put(self.play.first_text)
        self.transcript.cursor, self.transcript.is_following = None, True
        self.query_one(ControlPane).refresh_rows()
        self.show_now()

    async def action_run(self) -> None:
        await self._begin("send")

    async def action_again(self) -> None:
        await self._begin("regenerate")

    async def action_go_on(self) -> None:
        await self._begin("go_on")

    def action_cancel(self) -> None:
        """先停；再收起参数；再不改了；最后离开。"""
        if self.play.is_busy:
            self.play.stop()
            self.show_now()
        elif self.query_one(ControlPane).has_focus_within:
            self.action_controls()
        elif self.play.editing is not None:
            self.give_up_editing()
        else:
            self.dismiss()


def short_count(count: int) -> str:
    """参数量：`799872` → `0.80M`。"""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
