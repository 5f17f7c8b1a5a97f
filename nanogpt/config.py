"""全部配置键：训练、采样、导出、基准各一个 dataclass，名字、含义与默认值沿用 nanoGPT。

这里是唯一的出处：预设、命令行、`--help` 与工作台的表单都由此生成（见 `nanogpt.options`）。
优先级：默认值 < 预设 < 命令行。不导入 `torch`。
"""

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _, preferred_language, use_language
from nanogpt.options import coerce, did_you_mean, format_help, option, options_of, parse, unknown_key
from nanogpt.presets import find_preset, read_preset

GPT2_NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
DTYPES = ("auto", "float32", "bfloat16", "float16")

_IO, _LOG, _DATA, _MODEL = N_("output and evaluation"), N_("wandb logging"), N_("data"), N_("model")
_ADAMW, _DECAY, _DDP, _SYSTEM = N_("optimizer (AdamW)"), N_("learning rate schedule"), N_("distributed"), N_("system")
_RECIPE = N_("modern recipe; off by default, the default is nanoGPT's")
_SAMPLING, _BENCH = N_("sampling"), N_("benchmark")
_SAMPLES = N_("samples while training")
_SCORING, _SERVING, _EXPORT = N_("perplexity"), N_("server"), N_("export")
_DEVICE_HELP = N_("auto, cpu, mps, cuda or cuda:N; auto takes the best that this machine has")
_DTYPE_HELP = N_("precision of the forward pass; auto: bfloat16 or float16 on CUDA, float32 elsewhere")


@dataclass
class TrainConfig:
    """`nanogpt.train` 的键。默认值在 OpenWebText 上训练 GPT-2（124M）。"""

    out_dir: str = option("out", N_("run directory: log, checkpoints, config"), _IO)
    eval_interval: int = option(2000, N_("evaluate and save a checkpoint every so often"), _IO, unit=N_("iters"), low=1)
    log_interval: int = option(1, N_("log the training loss every so often"), _IO, unit=N_("iters"), low=1)
    log_timing: bool = option(
        False, N_("also log where a step's time goes; on a GPU the measuring itself costs a little"), _IO)
    eval_iters: int = option(200, N_("batches for each evaluation, per split"), _IO, unit=N_("batches"), low=1)
    eval_only: bool = option(False, N_("evaluate once and exit"), _IO)
    always_save_checkpoint: bool = option(
        True, N_("save at every evaluation; otherwise only when the validation loss improves"), _IO)
    checkpoint_interval: int = option(
        0, N_("also keep ckpt-<iter>.pt every so often; 0: never"), _IO, unit=N_("iters"), low=0)
    init_from: str = option(
        "scratch", N_("scratch, resume, gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a Hugging Face folder"), _IO)
    overwrite: bool = option(False, N_("delete the earlier run in out_dir and start anew"), _IO, transient=True)

    sample_prompts: str = option(
        "", N_("write samples at every evaluation: a prompt, or a JSON list of several; empty: none"), _SAMPLES)
    sample_tokens: int = option(200, N_("length of each of these samples"), _SAMPLES, unit=N_("tokens"), low=1,
                                high=5000)
    sample_seed: int = option(1337, N_("their random seed, the same at every evaluation"), _SAMPLES, low=0)
    sample_temperature: float = option(
        0.8, N_("below 1 less random, above 1 more; 0: always the likeliest"), _SAMPLES, low=0)
    sample_top_k: int = option(200, N_("keep the k likeliest tokens; 0: all"), _SAMPLES, unit=N_("tokens"), low=0)

    wandb_log: bool = option(False, N_("also log to Weights & Biases"), _LOG)
    wandb_project: str = option("owt", N_("wandb project"), _LOG)
    wandb_run_name: str = option("gpt2", N_("wandb run name"), _LOG)

    dataset: str = option("openwebtext", N_("folder below data/ with train.bin and val.bin"), _DATA)
    gradient_accumulation_steps: int = option(
        40, N_("micro-batches for each step, over all ranks together"), _DATA, low=1)
    batch_size: int = option(12, N_("sequences in a micro-batch"), _DATA, unit=N_("sequences"), low=1)
    block_size: int = option(1024, N_("context length"), _DATA, unit=N_("tokens"), low=1)
    sampling: str = option(
        "random", N_("random: windows anywhere, with repetition, as in nanoGPT; shuffle: each window once an epoch"),
        _DATA, choices=("random", "shuffle"))
    seed: int = option(1337, N_("seed of initialisation, batches and dropout; each rank adds its number"), _DATA, low=0)

    n_layer: int = option(12, N_("number of transformer blocks"), _MODEL, low=1)
    n_head: int = option(12, N_("attention heads; n_embd must be a multiple of it"), _MODEL, low=1)
    n_embd: int = option(768, N_("width of the residual stream"), _MODEL, unit=N_("channels"), low=1)
    dropout: float = option(0.0, N_("dropout; 0 for pretraining, 0.1 and more for finetuning"), _MODEL, low=0, below=1)
    bias: bool = option(False, N_("biases in Linear and LayerNorm, as GPT-2 has them"), _MODEL)

    learning_rate: float = option(6e-4, N_("maximum learning rate"), _ADAMW, low=0)
    max_iters: int = option(600000, N_("number of optimizer steps"), _ADAMW, unit=N_("iters"), low=0)
    weight_decay: float = option(1e-1, N_("weight decay of matrices and embeddings"), _ADAMW, low=0)
    beta1: float = option(0.9, N_("AdamW beta1"), _ADAMW, low=0, below=1)
    beta2: float = option(0.95, N_("AdamW beta2"), _ADAMW, low=0, below=1)
    grad_clip: float = option(1.0, N_("clip the gradient norm at this value; 0: do not clip"), _ADAMW, low=0)

    decay_lr: bool = option(True, N_("warm up, then decay; otherwise constant"), _DECAY)
    lr_schedule: str = option("cosine", N_("shape of the decay to min_lr"), _DECAY, choices=("cosine", "linear"))
    warmup_iters: int = option(2000, N_("linear warm-up"), _DECAY, unit=N_("iters"), low=0)
    lr_decay_iters: int = option(600000, N_("end of the decay; usually max_iters"), _DECAY, unit=N_("iters"), low=0)
    min_lr: float = option(6e-5, N_("final learning rate; usually learning_rate / 10"), _DECAY, low=0)

    optimizer: str = option(
        "adamw", N_("muon: Muon for the matrices of the blocks, AdamW for the rest"), _RECIPE,
        choices=("adamw", "muon"))
    muon_lr: float = option(0.02, N_("maximum learning rate of Muon; follows the same schedule"), _RECIPE, low=0)
    muon_momentum: float = option(0.95, N_("momentum of Muon"), _RECIPE, low=0, below=1)
    rotary: bool = option(False, N_("rotary positions instead of position embeddings"), _RECIPE)
    qk_norm: bool = option(False, N_("normalise queries and keys"), _RECIPE)
    squared_relu: bool = option(False, N_("squared ReLU instead of GELU"), _RECIPE)
    weightless_norm: bool = option(False, N_("LayerNorm without weights"), _RECIPE)
    untied_head: bool = option(False, N_("an output layer of its own, apart from the token embedding"), _RECIPE)
    zero_init: bool = option(False, N_("output projections, and an untied head, start at zero"), _RECIPE)

    backend: str = option("nccl", N_("process group; on CPU always gloo"), _DDP, choices=("nccl", "gloo", "mpi"))
    dist_timeout_s: float = option(
        600.0, N_("give up when another rank has not answered for so long"), _DDP, unit=N_("s"), low=1)

    device: str = option("auto", _DEVICE_HELP, _SYSTEM)
    dtype: str = option("auto", _DTYPE_HELP, _SYSTEM, choices=DTYPES)
    compile: bool | str = option(
        "auto", N_("torch.compile; auto: on CUDA, and on a CPU for runs of a quarter of an hour and more"), _SYSTEM,
        type=bool, allows_auto=True)


@dataclass
class SampleConfig:
    """`nanogpt.sample` 的键。"""

    init_from: str = option(
        "resume", N_("resume (from out_dir), gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder"), _SAMPLING)
    out_dir: str = option("out", N_("run directory to read the checkpoint from"), _SAMPLING)
    checkpoint: str = option("ckpt.pt", N_("file name of the checkpoint in out_dir"), _SAMPLING)
    start: str = option("\n", N_("prompt; FILE:prompt.txt reads it from a file"), _SAMPLING)
    num_samples: int = option(10, N_("number of samples"), _SAMPLING, low=1)
    max_new_tokens: int = option(500, N_("length of each sample"), _SAMPLING, unit=N_("tokens"), low=1)
    temperature: float = option(0.8, N_("below 1 less random, above 1 more; 0: always the likeliest"), _SAMPLING, low=0)
    top_k: int = option(200, N_("keep the k likeliest tokens; 0: all"), _SAMPLING, unit=N_("tokens"), low=0)
    top_p: float = option(1.0, N_("keep the likeliest tokens that hold this much probability"), _SAMPLING,
                          low=0.0001, high=1)
    min_p: float = option(0.0, N_("drop tokens less likely than this share of the likeliest one; 0: none"), _SAMPLING,
                          low=0, high=1)
    repetition_penalty: float = option(
        1.0, N_("above 1: tokens already in the context become less likely"), _SAMPLING, low=0.1, high=100)
    stop: str = option("", N_("end a sample at this text; a JSON list for several"), _SAMPLING)
    end_of_text: bool = option(False, N_("end a sample where the model ends the document"), _SAMPLING)
    seed: int = option(1337, N_("random seed"), _SAMPLING, low=0)
    window: str = option("exact", N_("past block_size: exact computes the whole context for each token, as nanoGPT; "
                                     "half drops the older half whenever it is full, much faster"), _SAMPLING,
                         choices=("exact", "half"))
    logprobs: int = option(0, N_("also give each token's log-probability and its k likeliest alternatives; 0: not"),
                           _SAMPLING, low=0, high=100)

    score: str = option("", N_("instead of sampling, print the perplexity of this text file, or of dataset:NAME or "
                               "dataset:NAME/train"), _SCORING)
    stride: int = option(0, N_("each window of block_size tokens begins so many after the one before; "
                               "0: they do not overlap"), _SCORING, unit=N_("tokens"), low=0)
    max_tokens: int = option(0, N_("score only the first so many tokens; 0: all"), _SCORING, unit=N_("tokens"), low=0)

    serve: bool = option(False, N_("answer requests: JSON lines on stdin and stdout, see docs/serve.md"), _SERVING,
                         transient=True)

    device: str = option("auto", _DEVICE_HELP, _SYSTEM)
    dtype: str = option("auto", N_("type of the weights; auto: bfloat16 or float16 on CUDA, float32 elsewhere"),
                        _SYSTEM, choices=DTYPES)
    compile: bool | str = option(False, N_("torch.compile"), _SYSTEM, type=bool, allows_auto=True)
    cuda_graph: bool = option(
        False, N_("record the step that writes one token as a CUDA graph; on CUDA only"), _SYSTEM)


@dataclass
class ExportConfig:
    """`nanogpt.export` 的键。"""

    folder: str = option("", N_("the Hugging Face folder: written, or read with --to_checkpoint"), _EXPORT)
    out_dir: str = option("out", N_("run directory of the checkpoint"), _EXPORT)
    checkpoint: str = option("ckpt.pt", N_("file name of the checkpoint in out_dir"), _EXPORT)
    to_checkpoint: bool = option(False, N_("the other way: make a checkpoint of the folder"), _EXPORT)
    overwrite: bool = option(False, N_("replace what is already there"), _EXPORT)


@dataclass
class BenchConfig:
    """`nanogpt.bench` 的键；形状默认为 GPT-2（124M）。"""

    batch_size: int = option(12, N_("sequences in a micro-batch"), _BENCH, unit=N_("sequences"), low=1)
    block_size: int = option(1024, N_("context length"), _BENCH, unit=N_("tokens"), low=1)
    n_layer: int = option(12, N_("number of transformer blocks"), _BENCH, low=1)
    n_head: int = option(12, N_("attention heads; n_embd must be a multiple of it"), _BENCH, low=1)
    n_embd: int = option(768, N_("width of the residual stream"), _BENCH, unit=N_("channels"), low=1)
    bias: bool = option(False, N_("biases in Linear and LayerNorm, as GPT-2 has them"), _BENCH)
    real_data: bool = option(True, N_("batches from the dataset; otherwise random tokens"), _BENCH)
    dataset: str = option("openwebtext", N_("folder below data/ with train.bin and val.bin"), _BENCH)
    seed: int = option(1337, N_("random seed"), _BENCH, low=0)
    warmup_steps: int = option(10, N_("training steps before the clock starts"), _BENCH, low=0)
    num_steps: int = option(20, N_("training steps that are timed"), _BENCH, low=1)
    sample_tokens: int = option(0, N_("also time sampling of so many tokens; 0: not"), _BENCH, unit=N_("tokens"), low=0)
    profile: bool = option(False, N_("write a trace of a few steps into bench_log/ and print its top"), _BENCH)
    device: str = option("auto", _DEVICE_HELP, _SYSTEM)
    dtype: str = option("auto", _DTYPE_HELP, _SYSTEM, choices=DTYPES)
    compile: bool | str = option("auto", N_("torch.compile; auto: on CUDA only"), _SYSTEM, type=bool, allows_auto=True)


# 决定网络的键，`TrainConfig` 与 `GPTConfig` 里同名；官方的 GPT-2 都没有
RECIPE_MODEL_KEYS = ("rotary", "qk_norm", "squared_relu", "weightless_norm", "untied_head", "zero_init")

ConfigT = TypeVar("ConfigT", TrainConfig, SampleConfig, ExportConfig, BenchConfig)


def load_config(cls: type[ConfigT], argv: list[str], usage: str, about: str) -> tuple[ConfigT, set[str]]:
    """读命令行与预设，返回（查过的配置，明说过的键）;`--help` 打印后以 0 退出。

    不合法的输入抛 `BadInput`，都在导入 `torch` 之前。
    """
    options = options_of(cls)
    line = parse(options, argv)
    use_language(line.lang or preferred_language())
    if line.help:
        print(format_help(usage, _(about), options))
        raise SystemExit(0)
    values: dict[str, Any] = {}
    preset = line.preset if line.preset is not None else _run_to_resume(line.values)
    if preset is not None:
        path = find_preset(preset)
        for name, (value, where) in read_preset(path, options).items():
            if name not in options:
                raise unknown_key(name, options, where)
            values[name] = coerce(options[name], value, where)
    values |= line.values
    config = cls(**values)
    check_config(config)
    return config, set(values)


def _run_to_resume(values: dict[str, Any]) -> str | None:
    """续训而没有给预设时，运行目录里的 `config.toml` 就是预设：续的正是那次运行。"""
    saved = Path(values.get("out_dir", "out")) / "config.toml"
    return str(saved) if values.get("init_from") == "resume" and saved.is_file() else None


def wants_debug(argv: list[str]) -> bool:
    """命令行里有没有 `--debug`；报错的样子要在读配置之前定下来。"""
    return any(arg in ("--debug", "--debug=true", "--debug=True", "--debug=1") for arg in argv)


def saved_values(config: ConfigT) -> dict[str, Any]:
    """写进 `config.toml`、检查点与 `start` 事件的键：除去只对一次调用有意义的。"""
    options = options_of(type(config))
    return {name: value for name, value in asdict(config).items() if not options[name].transient}


def check_config(config: TrainConfig | SampleConfig | ExportConfig | BenchConfig) -> None:
    """跨键的检查；单个键的类型与范围已在 `coerce` 里查过。"""
    if isinstance(config, ExportConfig):
        for name in ("folder", "out_dir"):
            _check_path(name, getattr(config, name))
        _check_checkpoint_name(config.checkpoint)
        return
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", config.device):
        raise _refused("device", config.device, _("legal: auto, cpu, mps, cuda, cuda:N"))
    if isinstance(config, (TrainConfig, BenchConfig)) and config.n_embd % config.n_head:
        fits = [n for n in range(1, config.n_embd + 1) if config.n_embd % n == 0]
        near = sorted(fits, key=lambda n: abs(n - config.n_head))[:3]
        raise _refused("n_head", config.n_head, _("n_embd={n_embd} is not a multiple of it; near ones that fit: {near}")
                       .format(n_embd=config.n_embd, near=", ".join(map(str, sorted(near)))))
    if isinstance(config, BenchConfig):
        return
    _check_path("out_dir", config.out_dir)
    _check_init_from(config.init_from)
    if isinstance(config, SampleConfig):
        _check_checkpoint_name(config.checkpoint)
        return
    if config.init_from == "resume" and config.overwrite:
        raise _refused("overwrite", True, _("--init_from=resume goes on with the run that it would delete"))
    _check_recipe(config)
    if config.decay_lr and not config.eval_only and config.warmup_iters >= config.lr_decay_iters:
        raise _refused("warmup_iters", config.warmup_iters,
                       _("must be below lr_decay_iters={n}; or --decay_lr=False").format(n=config.lr_decay_iters))


def _check_recipe(config: TrainConfig) -> None:
    """现代配方里彼此有关的键。"""
    if config.rotary and config.n_embd // config.n_head % 2:
        raise _refused("rotary", True, _("each head is {n} wide, and rotary positions need an even width").format(
            n=config.n_embd // config.n_head))
    if config.optimizer == "muon" and config.learning_rate == 0:
        raise _refused("learning_rate", 0, _("Muon's learning rate follows it; to stop AdamW, set it very small"))
    asked = [key for key in RECIPE_MODEL_KEYS if getattr(config, key)]
    if asked and config.init_from not in ("scratch", "resume"):
        raise _refused(asked[0], True, _("the weights of {name} were trained without it").format(name=config.init_from))


def check_world_size(config: TrainConfig, world_size: int) -> None:
    """总的梯度累积要能平分给每个 rank。"""
    steps = config.gradient_accumulation_steps
    if steps % world_size:
        up = (steps // world_size + 1) * world_size
        raise _refused("gradient_accumulation_steps", steps,
                       _("must be a multiple of the {n} ranks, such as {up}").format(n=world_size, up=up))


def _check_path(name: str, path: str) -> None:
    if not path or path.startswith("-") or any(ord(char) < 32 or ord(char) == 127 for char in path):
        raise _refused(name, path, _("a path without control characters that does not begin with -"))


def _check_checkpoint_name(name: str) -> None:
    if Path(name).name != name:
        raise _refused("checkpoint", name, _("a file name inside out_dir, such as ckpt.pt"))


def _check_init_from(init_from: str) -> None:
    known = ("scratch", "resume", *GPT2_NAMES)
    if init_from in known:
        return
    _check_path("init_from", init_from)
    if not os.path.isdir(init_from):
        raise _refused("init_from", init_from, did_you_mean(init_from, known)
                       or _("{names}, or an existing Hugging Face folder").format(names=", ".join(known)))


def _refused(name: str, value: Any, hint: str) -> BadInput:
    return BadInput("bad_value", _("{key} cannot be {value}").format(key=name, value=repr(value)[:80]), "", hint)

