"""采样界面：写提示，看模型接着写；对正在训练的运行也行，用的是它最近的检查点。

应用从运行列表打开它。采样是 `python -m nanogpt.sample` 的一个进程，输出由线程读来，五分之一秒显示一次。
"""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.widgets import Input, Label, Static, TextArea

from nanogpt.config import SampleConfig
from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from nanogpt.options import coerce, options_of
from nanogpt.rundir import CHECKPOINT
from nanogpt.text import visible
from workbench.messages import LanguageChanged, RunsUpdated
from workbench.sampling import Sampling
from workbench.watched_run import WatchedRun
from workbench.widgets.hint_bar import HintBar
from workbench.widgets.launch_panes import read_only_error

OPTIONS = options_of(SampleConfig)
# 表单上的几项与起初的值；其余的键用默认值
FIELDS = {"max_new_tokens": "200", "temperature": "0.8", "top_k": "200", "num_samples": "1", "seed": "1337"}
# 没写提示就从一个换行开始，同 `nanogpt.sample` 的默认
EMPTY_PROMPT = "\n"
SHOW_SECONDS = 0.2
# 显示至多这么多字符；完整的输出总可以用命令得到
KEPT_CHARACTERS = 200_000


class SampleScreen(Screen[None]):
    """`run` 是要从中采样的运行。"""

    DEFAULT_CSS = """
    SampleScreen #title { height: 1; background: $panel; padding: 0 1; }
    SampleScreen #prompt { height: 4; margin: 0 1; background: $surface; }
    SampleScreen #fields { height: 2; padding: 0 1; }
    SampleScreen #fields Vertical { width: 1fr; height: 2; }
    SampleScreen #fields Input { background: $surface; width: 1fr; margin-right: 1; }
    SampleScreen #fields Input.-invalid { color: $text-error; }
    SampleScreen #status { height: auto; max-height: 6; padding: 0 1; color: $text-muted; }
    SampleScreen #status.-bad { color: $text-error; }
    SampleScreen #output { height: 1fr; margin: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r,f5", "run", N_("Sample"), id="sample.run", priority=True,
                tooltip=N_("continue the prompt with the latest checkpoint")),
        Binding("ctrl+n", "again", N_("Again"), id="sample.again", priority=True,
                tooltip=N_("once more, with the next seed")),
        Binding("escape", "cancel", N_("Cancel / Back"), id="sample.cancel",
                tooltip=N_("stop sampling; when nothing runs, leave")),
    ]

    def __init__(self, run: WatchedRun):
        super().__init__()
        self.run = run
        self.texts = dict(FIELDS)
        self.prompt = ""
        self.output = ""
        self.sampling: Sampling | None = None
        self._status, self._is_bad, self._is_idle = "", False, False

    def compose(self) -> ComposeResult:
        yield Static(id="title", markup=False)
        yield TextArea(self.prompt, id="prompt", soft_wrap=True, compact=True,
                       placeholder=_("prompt; empty: begin with a line break"))
        with Horizontal(id="fields"):
            for name in FIELDS:
                with Vertical():
                    yield Label(name, markup=False)
                    yield Input(self.texts[name], id=name, compact=True, select_on_focus=True)
        yield Static(id="status", markup=False)
        yield TextArea(visible(self.output), id="output", read_only=True, soft_wrap=True, compact=True)
        yield HintBar()

    def on_mount(self) -> None:
        self.query_one("#prompt", TextArea).focus()
        self.set_interval(SHOW_SECONDS, self.show_new_text)
        self._show_title()
        self._say_idle()

    @on(LanguageChanged)
    def show_language(self) -> None:
        self.refresh(recompose=True)

    async def recompose(self) -> None:
        """换了语言：部件重建，提示、参数与输出不变。"""
        await super().recompose()
        self.query_one("#prompt", TextArea).focus()
        self._show_title()
        if self._is_idle:
            self._say_idle()
        else:
            self._say(self._status, self._is_bad)

    def on_unmount(self) -> None:
        if self.sampling is not None:
            self.sampling.cancel()
            self.sampling.outcome()

    # ---- 显示 ----

    def _show_title(self) -> None:
        self.query_one("#title", Static).update(_("Sample: {run}").format(run=self.run.name))

    def _say(self, text: str, is_bad: bool = False) -> None:
        self._status, self._is_bad, self._is_idle = text, is_bad, False
        box = self.query_one("#status", Static)
        box.update(text)
        box.set_class(is_bad, "-bad")

    def _idle_status(self) -> tuple[str, bool]:
        """有没有可用的检查点；没有时说清楚何时会有。"""
        if (self.run.out_dir / CHECKPOINT).is_file():
            found = self.run.state.checkpoints
            where = _("checkpoint of iter {n}").format(n=f"{found[-1]['iter']:,}") if found else CHECKPOINT
            more = _("; the run is still training") if self.run.status == "running" else ""
            return where + more + "; " + _("ctrl+r samples"), False
        config = self.run.state.config
        firsts = [value for name in ("eval_interval", "max_iters") if type(value := config.get(name)) is int]
        if self.run.has_ended:
            return _("There is no checkpoint: the run ended before it saved one."), True
        when = " " + _("It saves the first one at iter {n}.").format(n=min(firsts)) if firsts else ""
        return _("There is no checkpoint yet.") + when, True

    @on(RunsUpdated)
    def show_news(self, event: RunsUpdated) -> None:
        """还闲着时，新的检查点一存下就说。"""
        event.stop()
        if self._is_idle:
            self._say_idle()

    def _say_idle(self) -> None:
        self._say(*self._idle_status())
        self._is_idle = True

    def show_new_text(self) -> None:
        """取走线程读到的；结束了就说结果。"""
        sampling = self.sampling
        if sampling is None:
            return
        is_done, new = sampling.is_done(), sampling.take()
        if new and len(self.output) < KEPT_CHARACTERS:
            new = new[:KEPT_CHARACTERS - len(self.output)]
            self.output += new
            area = self.query_one("#output", TextArea)
            area.insert(visible(new), area.document.end, maintain_selection_offset=False)
            area.scroll_end(animate=False)
        if is_done:
            self.sampling = None
            self._say(*sampling.outcome())

    # ---- 改与做 ----

    @on(TextArea.Changed, "#prompt")
    def take_prompt(self, event: TextArea.Changed) -> None:
        event.stop()
        self.prompt = event.text_area.text

    @on(Input.Changed)
    def take_field(self, event: Input.Changed) -> None:
        """边打字边查；错在哪、合法的是什么写在状态行。"""
        event.stop()
        name = event.input.id or ""
        self.texts[name] = event.value
        problem = self._problem(name)
        event.input.set_class(problem is not None, "-invalid")
        first = problem or next(filter(None, map(self._problem, FIELDS)), None)
        if first is not None:
            self._say(visible(f"{first.what}\n{first.hint}"), True)
        elif self._is_bad and self.sampling is None:
            self._say_idle()

    def _problem(self, name: str) -> BadInput | None:
        try:
            coerce(OPTIONS[name], self.texts[name].strip(), "")
        except BadInput as error:
            return error
        return None

    def action_run(self) -> None:
        if self.sampling is not None:
            return
        if self.app.is_read_only:  # type: ignore[attr-defined]
            self._say(str(read_only_error()), True)
            return
        # 刚打的字，消息可能还没到
        self.prompt = self.query_one("#prompt", TextArea).text
        self.texts = {name: self.query_one(f"#{name}", Input).value for name in FIELDS}
        problem = next(filter(None, map(self._problem, FIELDS)), None)
        if problem is not None:
            self._say(visible(f"{problem.what}\n{problem.hint}"), True)
            return
        if not (self.run.out_dir / CHECKPOINT).is_file():
            self._say_idle()
            return
        try:
            self.sampling = Sampling(self.run.out_dir, self.prompt or EMPTY_PROMPT,
                                     {name: text.strip() for name, text in self.texts.items()})
        except BadInput as error:
            self._say(str(error), True)
            return
        self.output = ""
        self.query_one("#output", TextArea).text = ""
        self._say(_("sampling: loading the model; esc cancels"))

    def action_again(self) -> None:
        """同一种子总给同样的文字，所以换下一个种子。"""
        if self.sampling is None and self._problem("seed") is None:
            self.texts["seed"] = str(coerce(OPTIONS["seed"], self.texts["seed"].strip(), "") + 1)
            self.query_one("#seed", Input).value = self.texts["seed"]
            self.action_run()

    def action_cancel(self) -> None:
        if self.sampling is not None:
            self.sampling.cancel()
        else:
            self.dismiss()
