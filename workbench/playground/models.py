"""可以采样的模型：各运行的检查点、四个 GPT-2、本地的 Hugging Face 目录。不读权重。

`PickerScreen` 列出它们；`Engine` 按 `ModelChoice` 载入。运行与损失取自应用的 `RunStore`。
"""

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt.config import GPT2_NAMES
from nanogpt.i18n import _
from nanogpt.rundir import CHECKPOINT
from nanogpt.text import visible
from workbench.watched_run import WatchedRun

FURTHER = re.compile(r"ckpt-(\d{1,15})\.pt")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
# 工作区里至多看这么多个目录
MAX_FOLDERS = 2000
PARAMS = {"gpt2": "124M", "gpt2-medium": "350M", "gpt2-large": "774M", "gpt2-xl": "1558M"}


@dataclass(frozen=True)
class ModelChoice:
    """要载入的模型。`init_from` 是 `resume`（此时看 `out_dir` 与 `checkpoint`）、GPT-2 的名字或一个目录。"""

    init_from: str
    out_dir: Path | None = None
    checkpoint: str = CHECKPOINT
    iter: int | None = None
    val_loss: float | None = None
    is_live: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        """同一个模型的同一个名字；轮到它的第几步不算在内。"""
        return self.init_from, str(self.out_dir or ""), self.checkpoint if self.out_dir else ""

    @property
    def path(self) -> Path | None:
        return None if self.out_dir is None else self.out_dir / self.checkpoint

    def load_keys(self) -> dict[str, Any]:
        """`load` 请求的键。"""
        if self.out_dir is None:
            return {"init_from": self.init_from}
        return {"init_from": "resume", "out_dir": str(self.out_dir), "checkpoint": self.checkpoint}

    def stamp(self) -> tuple[int, int] | None:
        """文件的（修改时间, 字节数）：正在训练的运行又存了一次，它就变了。"""
        try:
            found = os.stat(self.path) if self.path else None
        except (OSError, ValueError):
            return None
        return (found.st_mtime_ns, found.st_size) if found else None

    @property
    def name(self) -> str:
        """短的名字，已净化。"""
        if self.out_dir is None:
            return visible(self.init_from, keep="")
        mark = "" if self.checkpoint == CHECKPOINT else f" {self.checkpoint}"
        return visible(self.out_dir.name + mark, keep="")

    @property
    def detail(self) -> str:
        """名字之外的一句话，已净化。"""
        if self.out_dir is None:
            if self.init_from in PARAMS:
                return _("OpenAI's weights, {params}").format(params=PARAMS[self.init_from])
            return _("Hugging Face folder")
        parts = [_("latest") if self.checkpoint == CHECKPOINT else self.checkpoint]
        if self.iter is not None:
            parts.append(_("iter {n}").format(n=f"{self.iter:,}"))
        if self.val_loss is not None:
            parts.append(f"val {self.val_loss:.4f}")
        if self.is_live:
            parts.append(_("training"))
        return visible(", ".join(parts), keep="")


def checkpoints_of(run: WatchedRun) -> list[ModelChoice]:
    """一个运行的检查点：`ckpt.pt` 在前，其余按步数从早到晚。没有则为空。"""
    try:
        names = [entry.name for entry in os.scandir(run.out_dir)]
    except OSError:
        return []
    further = sorted((int(match[1]), name) for name in names if (match := FURTHER.fullmatch(name)))
    losses = _val_losses(run)
    live = not run.has_ended
    found = [ModelChoice("resume", run.out_dir, name, number, losses.get(number), live) for number, name in further]
    if CHECKPOINT in names:
        saved = [record["iter"] for record in list(run.state.checkpoints) if Path(record["path"]).name == CHECKPOINT]
        number = saved[-1] if saved else None
        loss = losses.get(number) if number is not None else None
        found.insert(0, ModelChoice("resume", run.out_dir, CHECKPOINT, number, loss, live))
    return found


def _val_losses(run: WatchedRun) -> dict[int, float]:
    with run.lock:
        steps, values = run.state.eval_column("iter"), run.state.eval_column("val_loss")
    return {int(step): float(value) for step, value in zip(steps, values, strict=False) if math.isfinite(value)}


def gpt2_models() -> list[ModelChoice]:
    return [ModelChoice(name) for name in GPT2_NAMES]


def is_model_folder(folder: Path) -> bool:
    """看样子是 Hugging Face 的模型目录；载入时才知道是不是 GPT-2。"""
    try:
        return (folder / "config.json").is_file() and any((folder / name).is_file() for name in WEIGHTS)
    except (OSError, ValueError):
        return False


def local_folders(workspace: Path) -> list[ModelChoice]:
    """工作区里一两层深的模型目录。要读盘，放在线程里调用。"""
    found, level = [], [workspace]
    for _depth in range(2):
        level = [child for folder in level for child in _subfolders(folder)][:MAX_FOLDERS]
        found += [ModelChoice(str(folder)) for folder in level if is_model_folder(folder)]
    return found


def _subfolders(folder: Path) -> list[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        return [Path(entry.path) for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=True)]
    except OSError:
        return []


def all_models(runs: Iterable[WatchedRun], folders: Iterable[ModelChoice]) -> list[ModelChoice]:
    """选单的全部：运行（新的在前）、本地目录、GPT-2。"""
    return [*(choice for run in runs for choice in checkpoints_of(run)), *folders, *gpt2_models()]


def matching(models: Iterable[ModelChoice], typed: str) -> list[ModelChoice]:
    """合乎打的字的：每个词都要在名字或说明里；名字以它开头的在前。打的是一个目录，就给那个目录。"""
    words = typed.casefold().split()
    found = [model for model in models
             if all(word in f"{model.name} {model.out_dir or ''} {model.detail}".casefold() for word in words)]
    if words:
        found.sort(key=lambda model: not model.name.casefold().startswith(words[0]))
    folder = typed.strip()
    if folder and "\0" not in folder and is_model_folder(Path(folder).expanduser()):
        given = ModelChoice(str(Path(folder).expanduser()))
        found = [given, *(model for model in found if model.key != given.key)]
    return found
