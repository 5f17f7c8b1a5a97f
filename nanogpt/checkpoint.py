"""检查点文件：原子地写，查过再用，从不运行其中的代码。

`nanogpt.train` 写与续训，`nanogpt.sample` 读。文件是 nanoGPT 也能读的 `torch.save` 字典；
本项目多出的键（随机数、数据位置、分词器等）nanoGPT 会忽略。字段见 `docs/checkpoint.md`。
"""

import os
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpt.atomic import DISK_FULL, atomic_file
from nanogpt.config import RECIPE_MODEL_KEYS
from nanogpt.errors import BadInput, OutOfResources
from nanogpt.i18n import _
from nanogpt.model import GPTConfig

# nanoGPT 的 `GPTConfig` 只认这七项；其余的放进 `model_args_extra`，它才能照样读我们的文件。
NANOGPT_MODEL_ARGS = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")
# 这些决定参数的形状，续训时不能变
SHAPE_KEYS = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size")


def split_model_args(config: GPTConfig) -> dict[str, dict[str, Any]]:
    """网络的形状分成 nanoGPT 认得的与不认得的两张表。"""
    args = asdict(config)
    return {"model_args": {key: args.pop(key) for key in NANOGPT_MODEL_ARGS}, "model_args_extra": args}


def save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> int:
    """写下检查点并落盘，返回字节数；任何时刻断电或被杀，`path` 要么是旧的要么是新的。

    磁盘满、写不进去时抛出 `OutOfResources`，`path` 不变。
    """
    try:
        with atomic_file(path) as file:
            torch.save(checkpoint, file)
            return file.tell()
    except (OSError, RuntimeError) as error:
        cause = _os_error(error)
        if cause is None:
            raise
        need = sum(t.numel() * t.element_size() for t in checkpoint["model"].values()) * 3
        raise _cannot_save(cause, path, need) from error


def copy_checkpoint(source: Path, target: Path) -> None:
    """同一份检查点的另一个名字：硬链接，文件系统没有硬链接时照抄一份。写不下时抛出 `OutOfResources`。"""
    try:
        os.link(source, target)
    except OSError:
        replace_checkpoint(source, target)


def replace_checkpoint(source: Path, target: Path) -> None:
    """让 `target` 成为 `source` 的内容，两个名字都留着；写不下时抛出 `OutOfResources`，`target` 不变。"""
    try:
        with open(source, "rb") as whole, atomic_file(target) as file:
            shutil.copyfileobj(whole, file, 1 << 20)
    except OSError as error:
        raise _cannot_save(error, target, source.stat().st_size) from error


def _os_error(error: BaseException | None) -> OSError | None:
    """torch 的写者把 Python 的写错误包成 `RuntimeError`，收尾时还会再包一层：沿着链找到它。"""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _cannot_save(error: OSError, path: Path, need: int) -> OutOfResources:
    have = shutil.disk_usage(path.parent).free
    why = _("disk full") if error.errno in DISK_FULL else error.strerror or str(error)
    return OutOfResources(
        "checkpoint_failed", _("cannot save the checkpoint: {why}").format(why=why), str(path),
        _("it needs about {need} MiB, {have} MiB are free; the earlier checkpoint is whole").format(
            need=need >> 20, have=have >> 20))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """读入并查过的检查点，张量在 CPU 上；缺失、损坏、不是检查点时抛出 `BadInput`，内存不够则 `OutOfResources`。

    `torch.load` 不查 CRC，一位翻转会悄悄读成别的数，所以先逐条核对。
    """
    if not path.is_file():
        others = sorted(p.name for p in path.parent.glob("ckpt*.pt"))
        hint = _("here are: {names}").format(names=", ".join(others)) if others else _("train first, or fix --out_dir")
        raise BadInput("no_checkpoint", _("there is no checkpoint {name}").format(name=path.name), str(path), hint)
    damage = _damage(path)
    if damage:
        raise _refused(path, damage)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        _check_structure(checkpoint)
    except BadInput:
        raise
    # 外来文件能让反序列化抛出任何异常，都只说明它不能用
    except Exception as error:
        why = " ".join(str(error).split())[:120] or type(error).__name__
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise OutOfResources("out_of_memory", _("not enough memory: {why}").format(why=why), str(path),
                                 _("close other programs, or choose a smaller model")) from error
        raise _refused(path, why) from error
    return checkpoint


def _damage(path: Path) -> str:
    """容器哪里坏了；完好则为空。"""
    try:
        with zipfile.ZipFile(path) as archive:
            items = archive.infolist()
            if any(item.compress_type != zipfile.ZIP_STORED for item in items):
                return _("it holds compressed records, which torch.save never writes")
            names = {item.filename for item in items}
            if archive.comment or len(names) != len(items) or not all(map(_is_plain, items)):
                return _("its table of contents is damaged")
            bad = archive.testzip()
            return _("the CRC of {record} does not match").format(record=bad) if bad else ""
    except OSError as error:
        return error.strerror or str(error)
    # 坏的容器能让 `zipfile` 抛出的异常没有文档可依，例如 `struct.error`
    except Exception as error:
        return _("not a whole file: {why}").format(why=str(error) or type(error).__name__)


def _is_plain(item: zipfile.ZipInfo) -> bool:
    """目录项的样子同 `torch.save` 所写。CRC 管不到这些位，而 torch 会照它们办：

    例如属性里的「目录」一位会让它不读数据，张量里就是未初始化的内存。
    """
    return (item.external_attr == item.internal_attr == item.volume == 0 and not item.comment
            and item.file_size == item.compress_size and item.flag_bits & ~0x808 == 0 and not item.is_dir())


def _refused(path: Path, why: str) -> BadInput:
    """说清为什么不用这一份，并指出同一目录里完好的另一份。"""
    others = [p for p in sorted(path.parent.glob("ckpt*.pt"), key=lambda p: -p.stat().st_mtime) if p != path]
    good = next((p.name for p in others if not _damage(p)), None)
    hint = (_("{good} beside it is whole: copy it to {name}").format(good=good, name=path.name) if good
            else _("restore it from a copy, or train again"))
    return BadInput("bad_checkpoint", _("cannot use this checkpoint: {why}").format(why=why), str(path), hint)


def _check_structure(checkpoint: Any) -> None:
    """类型与形状都对得上才算数：在按 `model_args` 建模型之前，先与张量本身核对。"""
    if not isinstance(checkpoint, dict):
        raise ValueError(_("it is not a checkpoint of a GPT"))
    model, args = checkpoint.get("model"), checkpoint.get("model_args")
    if not isinstance(model, dict) or not isinstance(args, dict) \
            or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in model.items()):
        raise ValueError(_("it is not a checkpoint of a GPT"))
    # 步长为 0 的张量能用几个字节自称几个 TB，照它建模型就会耗尽内存
    if any(t.layout != torch.strided or t.untyped_storage().nbytes() < t.nbytes for t in model.values()):
        raise ValueError(_("a tensor is larger than its data"))
    # torch.compile 过的模型存下来带着这个前缀；nanoGPT 不用 SDPA 时还存了因果掩码，不是参数
    checkpoint["model"] = model = {k.removeprefix("_orig_mod."): v for k, v in model.items()
                                   if not k.endswith(".attn.bias")}
    shapes = _shapes(model)
    for key, found in shapes.items():
        if args.get(key) != found or type(args[key]) is not type(found):
            raise ValueError(_("model_args says {key}={said}, but the weights have {found}").format(
                key=key, said=repr(args.get(key))[:40], found=found))
    heads, dropout, block_size = args.get("n_head"), args.get("dropout", 0.0), args.get("block_size")
    if type(block_size) is not int or block_size < 1:
        raise ValueError(_("block_size={n} is not legal").format(n=repr(block_size)[:40]))
    if type(heads) is not int or heads < 1 or shapes["n_embd"] % heads:
        raise ValueError(_("n_head={n} does not fit the weights").format(n=repr(heads)[:40]))
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise ValueError(_("dropout={n} is not legal").format(n=repr(dropout)[:40]))
    if type(checkpoint.get("iter_num", 0)) is not int or checkpoint.get("iter_num", 0) < 0:
        raise ValueError(_("iter_num is not a whole number"))
    checkpoint["best_val_loss"] = float(checkpoint.get("best_val_loss", 1e9))
    extra = checkpoint.setdefault("model_args_extra", {})
    known = {key: value for key, value in asdict(GPTConfig()).items() if key not in NANOGPT_MODEL_ARGS}
    if not isinstance(extra, dict) or any(type(extra[key]) is not type(known.get(key)) for key in extra):
        raise ValueError(_("it was made by a newer version"))
    if not isinstance(checkpoint.setdefault("config", {}), dict):
        raise ValueError(_("its config is not a table"))
    if extra.get("rotary") and shapes["n_embd"] // heads % 2:
        raise ValueError(_("n_head={n} does not fit the weights").format(n=heads))
    if expected_shapes(model_config(checkpoint)) != {name: tuple(tensor.shape) for name, tensor in model.items()}:
        raise ValueError(_("its weights do not fit its model_args"))


def _shapes(model: dict[str, Tensor]) -> dict[str, Any]:
    """由张量读出的形状。"""
    vocab_size, n_embd = model["transformer.wte.weight"].shape
    layers = {name.split(".")[2] for name in model if name.startswith("transformer.h.")}
    found = {"n_layer": len(layers), "n_embd": n_embd, "vocab_size": vocab_size,
             "bias": "transformer.h.0.mlp.c_fc.bias" in model}
    # 旋转位置没有嵌入，上下文的长度只写在 `model_args` 里
    wpe = model.get("transformer.wpe.weight")
    return found if wpe is None else {**found, "block_size": wpe.shape[0]}


def expected_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """每个参数的名字与形状。直接算出来：在 meta 设备上建一次模型要先载入一秒多的 torch 模块。"""
    V, T, C = config.vocab_size, config.block_size, config.n_embd
    matrices = {"attn.c_attn": (3 * C, C), "attn.c_proj": (C, C), "mlp.c_fc": (4 * C, C), "mlp.c_proj": (C, 4 * C)}
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (V, C), "lm_head.weight": (V, C)}
    if not config.rotary:
        shapes["transformer.wpe.weight"] = (T, C)
    layers = [f"transformer.h.{i}" for i in range(config.n_layer)]
    shapes |= {f"{layer}.{name}.weight": shape for layer in layers for name, shape in matrices.items()}
    norms = [f"{layer}.{name}" for layer in layers for name in ("ln_1", "ln_2")] + ["transformer.ln_f"]
    if config.bias:
        shapes |= {f"{layer}.{name}.bias": shape[:1] for layer in layers for name, shape in matrices.items()}
    if not config.weightless_norm:
        kinds = ("weight", "bias") if config.bias else ("weight",)
        shapes |= {f"{norm}.{kind}": (C,) for norm in norms for kind in kinds}
    return shapes


def model_config(checkpoint: dict[str, Any], **overrides: Any) -> GPTConfig:
    """检查点里的网络形状；`overrides` 用于不改变形状的项，如 `dropout`。"""
    args = {key: checkpoint["model_args"][key] for key in NANOGPT_MODEL_ARGS if key in checkpoint["model_args"]}
    return GPTConfig(**{**args, **checkpoint["model_args_extra"], **overrides})


def check_resumable(path: Path, checkpoint: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """续训还要用的部分，在交给 torch 之前与 `optimizer` 逐项核对：它自己只查一部分，其余到第一步才出错。"""
    try:
        expected = [(p.shape, {"momentum_buffer"} if "momentum" in group else {"step", "exp_avg", "exp_avg_sq"})
                    for group in optimizer.param_groups for p in group["params"]]
        groups, state = checkpoint["optimizer"]["param_groups"], checkpoint["optimizer"]["state"]
        if [len(group["params"]) for group in groups] != [len(group["params"]) for group in optimizer.param_groups] \
                or [i for group in groups for i in group["params"]] != list(range(len(expected))):
            raise ValueError(_("its optimizer does not fit its weights"))
        for number, saved in state.items():
            shape, names = expected[number]
            if set(saved) != names or any(tensor.numel() != 1 if name == "step" else tensor.shape != shape
                                          for name, tensor in saved.items()):
                raise ValueError(_("its optimizer does not fit its weights"))
        for mine in checkpoint.get("rank_states", []):
            if mine["cpu_rng"].dtype != torch.uint8 or mine["cpu_rng"].shape != torch.get_rng_state().shape \
                    or mine["ix"].dtype != torch.int64 or mine["ix"].dim() != 1 or "cuda_rng" not in mine \
                    or type(mine.get("position", 0)) is not int:
                raise ValueError(_("its random state is damaged"))
    # 外来的字典可以缺任何一项、是任何类型
    except Exception as error:
        raise _refused(path, " ".join(str(error).split())[:120] or type(error).__name__) from error


def check_resume_shape(checkpoint: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    """明说过的形状、网络或优化器与检查点不同时拒绝，并列出每一处不同。"""
    saved = {**{key: False for key in RECIPE_MODEL_KEYS}, **checkpoint["model_args_extra"],
             "optimizer": checkpoint["config"].get("optimizer", "adamw"),
             **{key: checkpoint["model_args"][key] for key in SHAPE_KEYS}}
    different = [f"{key}: {saved[key]} -> {wanted[key]}"
                 for key in (*SHAPE_KEYS, *RECIPE_MODEL_KEYS, "optimizer")
                 if key in wanted and wanted[key] != saved[key]]
    if different:
        raise BadInput("resume_shape", _("the checkpoint has another shape; saved -> asked: {table}").format(
            table="; ".join(different)), where, _("leave these keys out, or start anew in another --out_dir"))
