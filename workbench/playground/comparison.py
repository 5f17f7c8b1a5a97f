"""并排比较：同样的提示与种子给几个模型（或一个运行的许多检查点），各自的文字与困惑度。

`CompareScreen` 使用。一个服务进程依次载入各个模型：先写，再给自己写的与提示各算一次困惑度。
"""

from dataclasses import dataclass
from typing import Any

from workbench.playground.engine import Engine
from workbench.playground.models import ModelChoice
from workbench.playground.requests import DONE, FAILED, Generation, Problem, Score

MAX_MODELS = 200


@dataclass
class Entry:
    """一个模型的结果。`own` 给它自己的文字（连同提示），`prompt` 给提示。"""

    choice: ModelChoice
    generation: Generation | None = None
    own: Score | None = None
    prompt: Score | None = None
    iter: int | None = None
    val_loss: float | None = None

    @property
    def problem(self) -> Problem | None:
        return self.generation.problem if self.generation is not None else None

    @property
    def text(self) -> str:
        return self.generation.samples[0].text if self.generation is not None else ""

    @property
    def has_ended(self) -> bool:
        if self.generation is None or not self.generation.has_ended:
            return False
        if self.generation.status == FAILED or self.generation.is_cancelled:
            return True
        return self.own is not None and self.own.has_ended and (self.prompt is None or self.prompt.has_ended)


class Comparison:
    """`step` 由界面每次轮询后调用：前一个完了才轮到下一个。"""

    def __init__(self, engine: Engine, choices: list[ModelChoice], keys: dict[str, Any]):
        self.engine = engine
        self.keys = {**keys, "num_samples": 1}
        self.entries = [Entry(choice) for choice in choices[:MAX_MODELS]]
        self.is_stopped = False

    @property
    def has_ended(self) -> bool:
        return self.is_stopped or all(entry.has_ended for entry in self.entries)

    @property
    def current(self) -> Entry | None:
        """正轮到的。"""
        return None if self.is_stopped else next((entry for entry in self.entries if not entry.has_ended), None)

    def step(self) -> None:
        entry = self.current
        if entry is None:
            return
        if entry.generation is None:
            entry.generation = self.engine.generate(entry.choice, self.keys)
        generation = entry.generation
        if generation.status not in (DONE, FAILED):
            return
        model = self.engine.model
        if generation.status == DONE and entry.own is None and not generation.is_cancelled:
            entry.iter = model.iter if model else None
            entry.val_loss = model.val_loss if model else None
            prompt = self.keys["prompt"]
            entry.own = self.engine.score(entry.choice, {"text": prompt + entry.text})
            entry.prompt = self.engine.score(entry.choice, {"text": prompt}) if len(prompt) > 1 else None

    def stop(self) -> None:
        """到此为止；写了一半的留着。"""
        entry = self.current
        self.is_stopped = True
        if entry is not None:
            self.engine.cancel(*(item for item in (entry.generation, entry.own, entry.prompt) if item is not None))

    def rows(self) -> list[dict[str, Any]]:
        """可以存成 JSON 的结果。"""
        return [{**entry.choice.load_keys(), "iter": entry.iter, "val_loss": entry.val_loss, "text": entry.text,
                 "perplexity": entry.own.perplexity if entry.own else None,
                 "prompt_perplexity": entry.prompt.perplexity if entry.prompt else None,
                 "error": entry.problem.what if entry.problem else None} for entry in self.entries]
