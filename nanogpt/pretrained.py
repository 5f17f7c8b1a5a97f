"""把 GPT-2 的权重变成本项目的参数：四个官方名字，或本地的 Hugging Face 目录。

`GPT.from_pretrained` 与 `nanogpt.loading` 调用 `load_gpt2`，`nanogpt.preflight` 只要形状；`torch` 与 `transformers`
用到才导入。
"""

import contextlib
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt.deadline import while_moving, within
from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.tokenizer import GPT2Tokenizer, Tokenizer, tokenizer_from_dict

if TYPE_CHECKING:
    from torch import Tensor

GPT2_SHAPES = {
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768},          # 124M
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},  # 350M
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},   # 774M
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},      # 1558M
}
# 问一声 Hugging Face 在不在：一次请求的期限，与连同域名解析在内的总期限（秒）
HUB_TIMEOUT_S, HUB_DEADLINE_S = 5.0, 8.0
# 下载时这么久一个字节也没有来，就不再等（秒）；库自己要重试好几次，一两分钟没有声音
STALL_S = 20.0
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")
# `nanogpt.export` 写进目录的分词器描述；没有它的目录，分词器就是 GPT-2 的
TOKENIZER_FILE = "nanogpt_tokenizer.json"
_MOST_TOKENIZER_BYTES = 64 << 20
# OpenAI 用 Conv1D，权重的两轴与 Linear 相反
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def gpt2_model_args(name: str) -> dict[str, Any]:
    """官方四种 GPT-2 的形状，不需要权重。"""
    return {**GPT2_SHAPES[name], "vocab_size": 50257, "block_size": 1024, "bias": True, "gelu_tanh": True}


def folder_model_args(folder: Path) -> dict[str, Any]:
    """读 Hugging Face 目录的 `config.json`；不是本网络能表示的 GPT-2 则 `BadInput`。"""
    where = str(folder / "config.json")
    try:
        with open(folder / "config.json", encoding="utf-8") as file:
            config = json.load(file)
        args = {"n_layer": config["n_layer"], "n_head": config["n_head"], "n_embd": config["n_embd"],
                "vocab_size": config["vocab_size"], "block_size": config["n_positions"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_gpt2(where, f"{type(error).__name__}: {error}") from error
    if not all(type(value) is int and 0 < value < 1 << 24 for value in args.values()):
        raise _not_gpt2(where, _("a size is not a positive whole number"))
    activation = config.get("activation_function", "gelu_new")
    differs = {
        "model_type": config.get("model_type", "gpt2") != "gpt2",
        "activation_function": activation not in ("gelu", "gelu_new", "gelu_pytorch_tanh"),
        "n_inner": config.get("n_inner") not in (None, 4 * args["n_embd"]),
        "scale_attn_weights": not config.get("scale_attn_weights", True),
        "scale_attn_by_inverse_layer_idx": bool(config.get("scale_attn_by_inverse_layer_idx")),
        "tie_word_embeddings": not config.get("tie_word_embeddings", True),
        "layer_norm_epsilon": config.get("layer_norm_epsilon", 1e-5) != 1e-5,
        "n_head": args["n_embd"] % args["n_head"] != 0,
    }
    for key, is_different in differs.items():
        if is_different:
            raise _not_gpt2(where, f"{key} = {config.get(key)!r}"[:120])
    return {**args, "bias": True, "gelu_tanh": activation != "gelu"}


def is_downloaded(name: str) -> bool:
    """官方的 GPT-2 是否在本机的 Hugging Face 缓存里。"""
    # 官方的仓库搬过家，两个名字都通
    return any((snapshot / weights).exists() for owner in ("", "openai-community--") for weights in WEIGHT_FILES
               for snapshot in _hub_cache().glob(f"models--{owner}{name}/snapshots/*"))


def _hub_cache() -> Path:
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def check_available(name: str) -> None:
    """官方的 GPT-2 要么在本机，要么 Hugging Face 有回音；否则 `BadInput`。别的名字一概放行。

    赶在导入 `torch` 与 `transformers` 之前问，几秒之内就有答复。
    """
    if name in GPT2_SHAPES and not is_downloaded(name):
        try:
            _check_hub(name)
        except OSError as error:
            raise _unavailable(name, error) from error


def folder_tokenizer(folder: Path) -> Tokenizer:
    """目录的分词器：`nanogpt.export` 写的描述，没有就是 GPT-2 的。词表小于 GPT-2 而没有描述的，`BadInput`。"""
    path = folder / TOKENIZER_FILE
    try:
        with open(path, "rb") as file:
            raw = file.read(_MOST_TOKENIZER_BYTES)
        return tokenizer_from_dict(json.loads(raw))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput("bad_tokenizer", _("cannot read the tokenizer: {why}").format(why=error), str(path),
                       _("export the folder again")) from error
    if folder_model_args(folder)["vocab_size"] < GPT2Tokenizer.vocab_size:
        raise BadInput("no_tokenizer", _("the vocabulary is not GPT-2's, and there is no {file}").format(
            file=TOKENIZER_FILE), str(folder), _("export the folder with python -m nanogpt.export"))
    return GPT2Tokenizer()


def load_gpt2(model_type: str, on_download: Callable[[], None] = lambda: None
              ) -> tuple[dict[str, Any], "dict[str, Tensor]"]:
    """（`GPTConfig` 的参数, 本项目的 state_dict）。要上网时先调用 `on_download`。"""
    args = gpt2_model_args(model_type) if model_type in GPT2_SHAPES else folder_model_args(Path(model_type))
    try:
        from transformers import GPT2LMHeadModel
    except ImportError as error:
        raise BadInput("transformers_missing", _("loading GPT-2 needs the transformers package"), "",
                       "pip install transformers") from error
    model, report = _read_weights(GPT2LMHeadModel, model_type, on_download)
    # transformers 只警告一声就把缺的权重随机初始化；那不是这个模型
    if report["missing_keys"]:
        raise _not_gpt2(model_type, _("the weights lack {key}").format(key=sorted(report["missing_keys"])[0]))
    state = {}
    for name, tensor in model.state_dict().items():
        # 只是掩码的缓冲区，不是参数
        if not name.endswith((".attn.masked_bias", ".attn.bias")):
            state[name] = tensor.t() if name.endswith(TRANSPOSED) else tensor
    return args, state


def _read_weights(cls: Any, name: str, on_download: Callable[[], None]) -> tuple[Any, dict[str, Any]]:
    """（transformers 的模型, 缺了哪些键之类的报告）。先看本地与缓存，没有才上网。"""
    from safetensors import SafetensorError

    try:
        try:
            return cls.from_pretrained(name, local_files_only=True, output_loading_info=True)
        except OSError:
            if name not in GPT2_SHAPES:
                raise
            on_download()
            check_available(name)
            _download(name)
            return cls.from_pretrained(name, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unavailable(name, error) from error


def _download(name: str) -> None:
    """官方的 GPT-2 下到 Hugging Face 的缓存里；断在半路、没有声音了抛 `OSError`。下了一半的留着，下次接着下。"""
    from huggingface_hub import constants, hf_hub_download

    # 默认攒够 10 MiB 才写一次，xet 攒得更多：慢的线路上看不出它在动
    constants.DOWNLOAD_CHUNK_SIZE, constants.HF_HUB_DISABLE_XET = 1 << 18, True
    folder = _hub_cache() / f"models--{name}"

    def arrived() -> tuple[int, float]:
        """已到的字节数与最近一次写的时刻：有的下载法先占好整个文件。"""
        found = []
        for path in folder.glob("blobs/*"):
            # 下完的正在改名
            with contextlib.suppress(OSError):
                found.append(path.stat())
        return sum(one.st_size for one in found), max((one.st_mtime for one in found), default=0.0)

    for file in ("config.json", "model.safetensors"):
        try:
            while_moving(STALL_S, arrived, partial(hf_hub_download, name, file))
        # 网络库各有各的异常，没有共同的基类
        except Exception as error:
            raise OSError(_("the download of {file} broke off: {why}").format(file=file, why=error)) from error


def _unavailable(name: str, error: Exception) -> BadInput:
    what = _("cannot load {name}: {why}").format(name=name, why=" ".join(str(error).split())[:160])
    if name not in GPT2_SHAPES:
        return BadInput("gpt2_unavailable", what, name, _("use a folder that GPT2LMHeadModel.save_pretrained wrote"))
    hint = _("where there is a network: hf download {name} --local-dir ./{name}; then --init_from=./{name}")
    return BadInput("gpt2_unavailable", what, "", hint.format(name=name))


def _check_hub(name: str) -> None:
    """连一次就知道有没有网；直接下载会重试五次，近半分钟才承认没有。连不上抛 `OSError`。"""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise BadInput("transformers_missing", _("loading GPT-2 needs the transformers package"), "",
                       "pip install transformers") from error
    try:
        within(HUB_DEADLINE_S, lambda: HfApi().model_info(name, timeout=HUB_TIMEOUT_S))
    # 网络库各有各的异常，没有共同的基类
    except Exception as error:
        raise OSError(_("the Hugging Face hub does not answer: {why}").format(why=error)) from error


def _not_gpt2(where: str, why: str) -> BadInput:
    return BadInput("not_gpt2", _("this folder does not hold a GPT-2 that fits here: {why}").format(why=why), where,
                    _("use a folder that GPT2LMHeadModel.save_pretrained wrote"))
