"""一场对话（或一篇接着写的文字）：一棵树，改过的与再来一次的都是旁枝，什么也不丢。

采样界面是唯一的写者；`take` 把正在生成的样本抄进来。不导入 textual。
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nanogpt.errors import BadInput
from nanogpt.i18n import _
from workbench.playground.requests import Generation, Token
from workbench.playground.template import ASSISTANT, USER, Template

COMPLETE, CHAT = "complete", "chat"
MODES = (COMPLETE, CHAT)
FORMAT = "nanogpt-transcript-1"
MAX_TURNS = 100_000


@dataclass
class Turn:
    """一段文字。`children` 是接在它后面的各枝，`chosen` 是此刻走的那一枝。"""

    role: str
    text: str = ""
    parent: int | None = None
    children: list[int] = field(default_factory=list)
    chosen: int = 0
    model: str = ""
    seed: int | None = None
    finish: str = ""
    tokens: list[Token] = field(default_factory=list)


@dataclass(frozen=True)
class Span:
    """`turn` 的文字在提示里从 `start` 到 `end`。"""

    turn: int
    start: int
    end: int


class Conversation:
    """`turns[0]` 是没有文字的根。`version` 每有变化加一。"""

    def __init__(self, mode: str = COMPLETE):
        self.mode = mode
        self.turns = [Turn("root")]
        self.version = 0
        # 正在写的各轮：（生成, 轮的编号……）
        self._live: tuple[Generation, list[int]] | None = None

    # ---- 读 ----

    def path(self) -> list[int]:
        """此刻走的一枝，从头到尾；不含根。"""
        found, at = [], 0
        while self.turns[at].children:
            turn = self.turns[at]
            at = turn.children[turn.chosen]
            found.append(at)
        return found

    @property
    def leaf(self) -> int:
        return (self.path() or [0])[-1]

    def siblings(self, index: int) -> tuple[int, int]:
        """（第几枝，从 1 起；共几枝）。"""
        parent = self.turns[index].parent
        if parent is None:
            return 1, 1
        return self.turns[parent].children.index(index) + 1, len(self.turns[parent].children)

    def prompt(self, template: Template, upto: int | None = None, more: str = "") -> tuple[str, list[Span]]:
        """给模型的全文与各轮在其中的位置。`upto`：只到这一轮；`more`：还没有发出的一轮用户的话。

        聊天时末尾是助手一轮的开头；接在助手的话后面时，就从那里接着写。
        """
        path = self.path()
        if upto is not None:
            path = path[:path.index(upto) + 1] if upto in path else []
        turns = [(index, self.turns[index].role, self.turns[index].text) for index in path]
        if more:
            turns.append((-1, USER, more))
        parts: list[str] = []
        spans, size, last = [], 0, ""

        def add(text: str) -> None:
            nonlocal size
            parts.append(text)
            size += len(text)

        if self.mode == CHAT:
            add(template.system)
        for index, role, text in turns:
            if self.mode == CHAT and role != last:
                add(template.around(last)[1] if last else "")
                add(template.around(role)[0])
            spans.append(Span(index, size, size + len(text)))
            add(text)
            last = role
        if self.mode == CHAT and last == USER:
            add(template.around(USER)[1])
            add(template.around(ASSISTANT)[0])
        return "".join(parts), spans

    def answers(self) -> Iterator[int]:
        return (index for index in self.path() if self.turns[index].role == ASSISTANT)

    # ---- 写 ----

    def _add(self, parent: int, turn: Turn) -> int:
        turn.parent = parent
        self.turns.append(turn)
        above = self.turns[parent]
        above.children.append(len(self.turns) - 1)
        above.chosen = len(above.children) - 1
        self.version += 1
        return len(self.turns) - 1

    def say(self, text: str, after: int) -> int:
        """`after` 之后用户的一轮；同样的话已经在那里，就走那一枝。"""
        for place, child in enumerate(self.turns[after].children):
            if self.turns[child].role == USER and self.turns[child].text == text:
                self.turns[after].chosen = place
                self.version += 1
                return child
        return self._add(after, Turn(USER, text))

    def edit(self, index: int, text: str) -> int:
        """`index` 一轮的另一种写法，作为旁枝；没有改就还是它。"""
        turn = self.turns[index]
        if text == turn.text or turn.parent is None:
            return index
        return self._add(turn.parent, Turn(turn.role, text, model=turn.model))

    def begin(self, generation: Generation, after: int, model: str) -> list[int]:
        """生成开始了：每个样本一枝，走第一枝。"""
        seed = generation.keys.get("seed")
        found = [self._add(after, Turn(ASSISTANT, model=model, seed=seed)) for _sample in generation.samples]
        self.turns[after].chosen -= len(found) - 1
        self._live = generation, found
        return found

    def take(self) -> bool:
        """把样本新长出的文字抄进来；返回有没有变化。结束了就不再看它，一个字也没写的枝剪掉。"""
        if self._live is None:
            return False
        generation, indices = self._live
        before = self.version
        for sample, index in zip(generation.samples, indices, strict=True):
            turn = self.turns[index]
            if len(turn.text) != sample.size or len(turn.tokens) != len(sample.tokens) or turn.finish != sample.finish:
                turn.text, turn.tokens, turn.finish = sample.text, sample.tokens, sample.finish
                self.version += 1
        if generation.has_ended:
            self._live = None
            for index in reversed(indices):
                if not self.turns[index].text and not self.turns[index].finish:
                    self._prune(index)
        return self.version != before

    def _prune(self, index: int) -> None:
        above = self.turns[self.turns[index].parent or 0]
        above.children.remove(index)
        above.chosen = max(0, min(above.chosen, len(above.children) - 1))
        if index == len(self.turns) - 1:
            self.turns.pop()
        self.version += 1

    @property
    def live(self) -> int | None:
        """正在写的、走着的那一轮。"""
        if self._live is None:
            return None
        return next((index for index in self._live[1] if index in self.path()), self._live[1][0])

    def move_branch(self, index: int, step: int) -> bool:
        """换到前一枝或后一枝；没有就不动。"""
        parent = self.turns[index].parent
        if parent is None:
            return False
        above = self.turns[parent]
        place = above.children.index(index) + step
        if not 0 <= place < len(above.children):
            return False
        above.chosen = place
        self.version += 1
        return True

    # ---- 存与取 ----

    def to_json(self) -> dict[str, Any]:
        """一份 JSON；各 token 的概率不在其中。"""
        rows = [{"role": turn.role, "text": turn.text, "parent": turn.parent, "children": turn.children,
                 "chosen": turn.chosen, "model": turn.model, "seed": turn.seed, "finish": turn.finish}
                for turn in self.turns]
        return {"format": FORMAT, "mode": self.mode, "turns": rows}

    @classmethod
    def from_json(cls, found: Any) -> "Conversation":
        """`to_json` 的反面；不是这个格式、不成一棵树则抛出 `BadInput`。"""
        try:
            if found["format"] != FORMAT or found["mode"] not in MODES or len(found["turns"]) > MAX_TURNS:
                raise ValueError
            new = cls(found["mode"])
            new.turns = [_turn(row, index) for index, row in enumerate(found["turns"])]
            _check_tree(new.turns)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise BadInput("bad_transcript", _("this is not a transcript of the playground"), "",
                           _("see docs/playground.md for the format")) from error
        return new


def _turn(row: dict[str, Any], index: int) -> Turn:
    role, text, model, finish = row["role"], row["text"], row.get("model") or "", row.get("finish") or ""
    parent, children, chosen, seed = row["parent"], row["children"], row["chosen"], row.get("seed")
    if not all(isinstance(item, str) for item in (role, text, model, finish)):
        raise ValueError
    if role not in ((USER, ASSISTANT) if index else ("root",)) or (parent is None) != (index == 0):
        raise ValueError
    numbers = [*children, chosen, *([] if parent is None else [parent]), *([] if seed is None else [seed])]
    if not all(type(item) is int and item >= 0 for item in numbers):
        raise ValueError
    return Turn(role, text, parent, list(children), chosen, model, seed, finish)


def _check_tree(turns: list[Turn]) -> None:
    """孩子都在父亲之后，各归其主：没有环，从根走得到底。"""
    if not turns:
        raise ValueError
    for index, turn in enumerate(turns):
        if turn.children and not turn.chosen < len(turn.children):
            raise ValueError
        if len(set(turn.children)) != len(turn.children):
            raise ValueError
        for child in turn.children:
            if child <= index or turns[child].parent != index:
                raise ValueError
