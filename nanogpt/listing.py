"""工作区里有什么可以拿来采样：各运行的检查点、四个官方的 GPT-2、Hugging Face 目录。不读权重，不需要 `torch`。

`nanogpt.serve` 的 `list` 与工作台使用；`checkpoint_losses` 也告诉 `nanogpt.serve` 一个检查点的验证损失。
"""

import json
from pathlib import Path
from typing import Any

from nanogpt.config import SampleConfig
from nanogpt.errors import BadInput
from nanogpt.events import parse_line
from nanogpt.i18n import _
from nanogpt.pretrained import GPT2_SHAPES, WEIGHT_FILES, check_available, is_downloaded
from nanogpt.rundir import CHECKPOINT, EVENTS

# 写完检查点到记下事件之间不会超过这么久
_SAME_MOMENT_S = 5.0
_MOST_CONFIG_BYTES = 1 << 20


def check_source(config: SampleConfig) -> None:
    """不需要 `torch` 就看得出的：没有训练过，没有那个文件，或 GPT-2 不在本机又下载不到。"""
    if config.init_from == "scratch":
        raise BadInput("bad_value", _("there is nothing to sample from in an untrained model"), "--init_from",
                       _("resume, gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a Hugging Face folder"))
    path = Path(config.out_dir) / config.checkpoint
    if config.init_from == "resume" and not path.is_file():
        others = sorted(p.name for p in path.parent.glob("ckpt*.pt")) if config.checkpoint != CHECKPOINT else []
        raise BadInput("no_checkpoint", _("there is no checkpoint"), str(path),
                       _("here are: {names}").format(names=", ".join(others)) if others
                       else _("train first, or point --out_dir at a run directory"))
    check_available(config.init_from)


def list_models(workspace: Path) -> dict[str, Any]:
    """字段见 `docs/serve.md` 的 `list`。"""
    folders = [path for pattern in ("runs/*", "out*") for path in sorted(workspace.glob(pattern)) if path.is_dir()]
    runs = [{"out_dir": str(folder), "checkpoints": checkpoints} for folder in folders
            if (checkpoints := list_checkpoints(folder))]
    return {"runs": runs, "gpt2": [{"init_from": name, "is_local": is_downloaded(name)} for name in GPT2_SHAPES],
            "folders": [str(path) for path in _gpt2_folders(workspace)]}


def list_checkpoints(folder: Path) -> list[dict[str, Any]]:
    """一个运行目录里的 `ckpt*.pt`，按步数排，步数不知道的与最新的在最后。"""
    saved, losses = _saved_and_losses(folder)
    found = []
    for path in folder.glob("ckpt*.pt"):
        try:
            about = path.stat()
        except OSError:
            continue
        number = path.stem.removeprefix("ckpt-")
        iter_num: int | None = int(number) if number.isdecimal() and len(number) < 16 else None
        if iter_num is None and path.name in saved:
            when, iter_num = saved[path.name]
            # 事件之后又换过内容（别人拷来的，或训练完换回了最好的那份）：不知道是哪一步的
            iter_num = iter_num if about.st_mtime < when + _SAME_MOMENT_S else None
        found.append({"checkpoint": path.name, "iter": iter_num, "val_loss": losses.get(iter_num),
                      "bytes": about.st_size, "modified": about.st_mtime})
    return sorted(found, key=lambda one: (one["iter"] is None, one["iter"] or 0, one["checkpoint"] == CHECKPOINT))


def checkpoint_losses(folder: Path) -> dict[int | None, float]:
    """各步评估出的验证损失，取自运行的事件。"""
    return _saved_and_losses(folder)[1]


def _saved_and_losses(folder: Path) -> tuple[dict[str, tuple[float, int]], dict[int | None, float]]:
    """（检查点的文件名 -> 何时存的、哪一步, 步数 -> 验证损失）。只解析用得着的行，一百万行约半秒。"""
    saved: dict[str, tuple[float, int]] = {}
    losses: dict[int | None, float] = {}
    is_training = True
    try:
        with open(folder / EVENTS, "rb") as file:
            for line in file:
                if b'"event":"iter"' in line or (event := parse_line(line)) is None:
                    continue
                kind, step = event["event"], event.get("iter")
                if kind == "start":
                    config = event.get("config")
                    is_training = not (isinstance(config, dict) and config.get("eval_only"))
                    if is_training and event.get("resumed_from_iter") is None:
                        saved, losses = {}, {}
                elif type(step) is not int:
                    continue
                elif kind == "eval" and is_training and type(event.get("val_loss")) is float:
                    losses[step] = event["val_loss"]
                elif kind == "checkpoint" and isinstance(event.get("path"), str):
                    saved[Path(event["path"]).name] = event["time"], step
    except OSError:
        pass
    return saved, losses


def _gpt2_folders(workspace: Path) -> list[Path]:
    """一两层之内，写着 GPT-2 的 `config.json` 与权重在一处的目录。"""
    found = []
    for path in sorted([*workspace.glob("[!.]*/config.json"), *workspace.glob("[!.]*/[!.]*/config.json")]):
        try:
            with open(path, encoding="utf-8") as file:
                config = json.loads(file.read(_MOST_CONFIG_BYTES))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(config, dict) and config.get("model_type") == "gpt2" \
                and any((path.parent / weights).exists() for weights in WEIGHT_FILES):
            found.append(path.parent)
    return found
