"""采样界面背后的一切：模型、参数、模板、对话，与正在进行的一次生成。

`SampleScreen` 与并排比较、逐 token 查看的屏都用同一个 `Playground`；应用留着它，离开再回来对话还在。不导入 textual。
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.options import coerce
from nanogpt.prompt import read_prompt
from workbench.playground.controls import load_keys, new_controls, request_keys
from workbench.playground.conversation import CHAT, COMPLETE, Conversation, Span
from workbench.playground.engine import Engine
from workbench.playground.models import ModelChoice
from workbench.playground.requests import FAILED, Generation, Model, Problem, TokenCount
from workbench.playground.store import Store
from workbench.playground.template import ASSISTANT, DEFAULT_TEMPLATE, TEMPLATES, USER, Template

# 没写提示就从一个换行开始，同 `nanogpt.sample` 的默认
EMPTY_PROMPT = "\n"


@dataclass(frozen=True)
class Crop:
    """模型看不到的：`turn`（-1 是还没有发出的）里 `offset` 之前的，连同它前面的各轮。"""

    turn: int
    offset: int
    tokens: int


class Playground:
    """一个工作区的采样。只在界面线程里用。"""

    def __init__(self, workspace: Path, is_read_only: bool = False):
        self.store = Store(workspace, is_read_only)
        self.is_read_only = is_read_only
        self.controls = new_controls()
        self.engine = self._new_engine()
        self.conversation = Conversation()
        self._other = Conversation(CHAT)
        self.template_name, self.template = DEFAULT_TEMPLATE, TEMPLATES[DEFAULT_TEMPLATE]
        self.choice: ModelChoice | None = None
        self.editing: int | None = None
        self._drafts = {COMPLETE: "", CHAT: ""}
        self.generation: Generation | None = None
        self.count: TokenCount | None = None
        self.crop: Crop | None = None
        self._spans: list[Span] = []
        self._counted: tuple[str, list[Span]] = ("", [])

    # ---- 模型与方式 ----

    def open(self) -> None:
        """界面打开了（或再次打开）：能起进程了。"""
        if self.engine.is_closed:
            self.engine = self._new_engine()
        self.count = None

    def _new_engine(self) -> Engine:
        return Engine(lambda: load_keys(self.controls))

    @property
    def model(self) -> Model | None:
        """选中的模型，载入好了才有。"""
        return self.engine.model_of(self.choice)

    @property
    def draft(self) -> str:
        """编辑框里的；两种说话的方式各有各的。"""
        return self._drafts[self.conversation.mode]

    @draft.setter
    def draft(self, text: str) -> None:
        self._drafts[self.conversation.mode] = text

    def close(self) -> None:
        self.engine.close()
        self.conversation.take()
        self.generation = None

    def choose(self, choice: ModelChoice) -> None:
        """换模型，马上开始载入。"""
        self.choice, self.count, self.crop = choice, None, None
        self.warm_up()

    def warm_up(self) -> None:
        """先载入着：第一个提示就不用等，打字时也数得出 token。起不来的，发出提示时再说。"""
        if self.choice is None or self.is_read_only or (self.choice.path is not None and self.choice.stamp() is None):
            return
        try:
            self.engine.prepare(self.choice)
        except BadInput as error:
            self.engine.problem_when_idle = Problem(error.code, error.what, error.where, error.hint)

    def use_mode(self, mode: str) -> None:
        """换说话的方式；另一篇留着，换回来还在。"""
        if mode != self.conversation.mode:
            self.conversation, self._other = self._other, self.conversation
        self._turn_page()

    def begin_anew(self) -> None:
        """空的一篇，方式不变；旧的没有存就没有了。"""
        self.conversation = Conversation(self.conversation.mode)
        self._turn_page()

    def _turn_page(self) -> None:
        self.generation = self.crop = self.count = self.editing = None

    def use_template(self, name: str, template: Template) -> None:
        self.template_name, self.template, self.count = name, template, None

    @property
    def is_busy(self) -> bool:
        return self.generation is not None and not self.generation.has_ended

    @property
    def is_chat(self) -> bool:
        return self.conversation.mode == CHAT

    @property
    def first_text(self) -> str:
        """这一篇的第一段；接着写的，编辑框里就是它。"""
        path = self.conversation.path()
        return self.conversation.turns[path[0]].text if path else ""

    # ---- 生成 ----

    def send(self, text: str) -> None:
        """发出编辑框里的。不合法的抛出 `BadInput`，什么也不变。"""
        self._check_ready()
        talk = self.conversation
        if self.editing is not None:
            after = talk.edit(self.editing, read_prompt(text))
        elif not self.is_chat:
            after = talk.say(read_prompt(text or EMPTY_PROMPT), 0)
        elif text.strip():
            after = talk.say(read_prompt(text), talk.leaf)
        elif talk.turns[talk.leaf].role == USER:
            after = talk.leaf
        else:
            raise BadInput("bad_prompt", _("there is nothing to send"), "", _("type a message first"))
        self.store.remember(text)
        self.editing = None
        self._generate(after)

    def regenerate(self, text: str) -> None:
        """同一处再来一次，种子加一：同一种子总给同样的文字。"""
        self._check_ready()
        path = self.conversation.path()
        is_other = not self.is_chat and (not path or self.conversation.turns[path[0]].text != (text or EMPTY_PROMPT))
        last = next((index for index in reversed(path) if self.conversation.turns[index].role == ASSISTANT), None)
        if last is None and self.is_chat and not text.strip():
            raise BadInput("bad_prompt", _("there is nothing to do again"), "", _("type a message first"))
        self.controls.set("seed", str(self.controls.value("seed") + 1))
        if last is None or is_other or self.editing is not None:
            self.send(text)
        else:
            self._generate(self.conversation.turns[last].parent or 0)

    def go_on(self) -> None:
        """从末尾接着写，不问新的。"""
        self._check_ready()
        if self.conversation.leaf == 0:
            raise BadInput("bad_prompt", _("there is nothing to go on from"), "", _("write a prompt first"))
        self._generate(self.conversation.leaf)

    def _check_ready(self) -> None:
        if self.is_read_only:
            raise BadInput("read_only",
                           _("This is a read-only view: nothing is started, stopped, deleted or written."))
        if self.is_busy:
            raise BadInput("busy", _("it is still writing"), "", _("esc stops it"))
        if self.choice is None:
            raise BadInput("no_model", _("no model is chosen"), "", _("F4 chooses one"))
        if self.choice.path is not None and self.choice.stamp() is None:
            raise BadInput("no_checkpoint", _("there is no checkpoint"), str(self.choice.path),
                           _("train first, or choose another model"))
        request_keys(self.controls)

    def _generate(self, after: int) -> None:
        assert self.choice is not None
        prompt, self._spans = self.conversation.prompt(self.template, upto=after)
        stops = self.template.stop if self.is_chat else ()
        keys = {**request_keys(self.controls, stops), "prompt": prompt}
        self.count = None
        self.generation = self.engine.generate(self.choice, keys)
        self.conversation.begin(self.generation, after, self.choice.name)

    def comparison_keys(self, text: str) -> dict[str, Any]:
        """并排比较的请求：此刻发出去会是怎样的提示，同样的参数。"""
        talk = self.conversation
        if text.startswith("FILE:"):
            text = read_prompt(text)
        if not text and self.is_chat and talk.turns[talk.leaf].role == ASSISTANT:
            # 聊天里什么也没写：比的是最后一次回答
            prompt, _spans = talk.prompt(self.template, upto=talk.turns[talk.leaf].parent or 0)
        else:
            prompt, _spans = self.draft_prompt(text)
        stops = self.template.stop if self.is_chat else ()
        return {**request_keys(self.controls, stops), "prompt": read_prompt(prompt or EMPTY_PROMPT), "num_samples": 1}

    def stop(self) -> None:
        if self.generation is not None:
            self.engine.cancel(self.generation)

    def poll(self) -> bool:
        """取来新的文字与数字；返回有没有变化。"""
        is_changed = self.engine.poll()
        is_changed = self.conversation.take() or is_changed
        if is_changed and (running := self.generation) is not None and running.prompt_tokens is not None:
            self.crop = _crop(running.cropped_chars, running.cropped_tokens, self._spans)
        if is_changed and self.count is not None and self.count.has_ended and not self.is_busy:
            self.crop = _crop(self.count.cropped_chars, self.count.cropped_tokens, self._counted[1])
        return is_changed

    # ---- 边打字边数 ----

    def draft_prompt(self, text: str) -> tuple[str, list[Span]]:
        """此刻发出去会是怎样的提示；编辑框里的是 -1 轮。"""
        if not self.is_chat and self.editing is None:
            return text, [Span(-1, 0, len(text))]
        if self.editing is None:
            return self.conversation.prompt(self.template, more=text)
        parent = self.conversation.turns[self.editing].parent or 0
        return self.conversation.prompt(self.template, upto=parent, more=text)

    def count_tokens(self, text: str) -> None:
        """数一数，顺带查词表；模型还没有载入、正忙时不数。"""
        is_loaded = self.model is not None and not self.engine.is_busy
        if self.choice is None or not is_loaded or text.startswith("FILE:"):
            return
        self._counted = self.draft_prompt(text)
        self.count = self.engine.tokenize(self.choice, self._counted[0])

    def bad_places(self) -> list[int]:
        """编辑框里不在词表中的字符的位置。"""
        found = self.count
        if found is None or found.status != FAILED or found.problem is None:
            return []
        span = next((span for span in self._counted[1] if span.turn == -1), None)
        return [] if span is None else [place - span.start for place in found.problem.indices
                                        if span.start <= place < span.end]

    # ---- 存取 ----

    def save(self, name: str) -> Path:
        """存下对话，连同模型、参数与模板。"""
        model = self.choice.load_keys() if self.choice is not None else {}
        return self.store.save_transcript(self.conversation, name, model=model, settings=dict(self.controls.edits),
                                          template=self.template.to_toml())

    def reopen(self, path: Path) -> None:
        """换成存下的一场；读不懂的参数与模板不用，模型还是现在的。"""
        from workbench.playground.controls import apply_preset
        from workbench.playground.template import read_template

        talk, found = self.store.read_transcript(path)
        settings, template = found.get("settings"), found.get("template")
        if isinstance(settings, dict):
            apply_preset(self.controls, {str(name): text for name, text in settings.items() if isinstance(text, str)},
                         is_whole=True)
        if isinstance(template, str):
            self.use_template(path.stem, read_template(template))
        if talk.mode != self.conversation.mode:
            self._other = self.conversation
        self.conversation = talk
        self._turn_page()
        self.draft = "" if self.is_chat else self.first_text

    def set_control(self, name: str, text: str) -> None:
        coerce(self.controls.options[name], text, "")
        self.controls.set(name, text)


def _crop(chars: int, tokens: int, spans: list[Span]) -> Crop | None:
    if chars <= 0:
        return None
    for span in spans:
        if chars < span.end:
            return Crop(span.turn, max(0, chars - span.start), tokens)
    return None


def refreshed(choice: ModelChoice, models: list[ModelChoice]) -> ModelChoice:
    """同一个模型此刻的步数与损失。"""
    found = next((model for model in models if model.key == choice.key), None)
    return choice if found is None else replace(choice, iter=found.iter, val_loss=found.val_loss,
                                                is_live=found.is_live)


def modes() -> dict[str, str]:
    return {COMPLETE: _("complete"), CHAT: _("chat")}
