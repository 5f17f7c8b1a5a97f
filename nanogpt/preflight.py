"""开训前的检查：配置、数据集、运行目录，都不需要 `torch`，所以坏输入两秒内就有答复。

`nanogpt.train` 在导入 `torch` 之前调用 `preflight_or_exit`，得到一份查过的 `Job`。
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from nanogpt.config import TrainConfig, check_world_size, load_config, wants_debug
from nanogpt.dataset import SPLITS, Dataset, check_dataset, check_length, open_dataset
from nanogpt.dataset_doctor import quick_look
from nanogpt.errors import BadInput, run_main
from nanogpt.i18n import N_, _
from nanogpt.pretrained import GPT2_SHAPES, check_available, folder_model_args, gpt2_model_args
from nanogpt.rundir import CHECKPOINT, RunDir
from nanogpt.training_samples import check_prompts

USAGE = "python -m nanogpt.train [PRESET] [--key=value ...]"
ABOUT = N_("Train or evaluate a GPT. PRESET is a preset's name, a .toml file, or one of nanoGPT's config/*.py.")
# GPT-2 BPE 的 50257 补齐到 64 的倍数，矩阵乘法更快；没有元数据的数据集按 nanoGPT 的惯例也是它
PADDED_GPT2_VOCAB_SIZE = 50304


@dataclass
class Job:
    """查过的一次训练。`explicit` 是明说过的键；`run` 只有 rank 0 才有，已经持锁。"""

    config: TrainConfig
    explicit: set[str]
    dataset: Dataset
    run: RunDir | None
    debug: bool


def scratch_vocab_size(dataset: Dataset | None) -> int:
    """从头训练时模型的词表大小。"""
    if dataset is None or dataset.vocab_size is None or (dataset.tokenizer or {}).get("kind") == "gpt2":
        return PADDED_GPT2_VOCAB_SIZE
    return dataset.vocab_size


def preflight(argv: list[str]) -> Job:
    """读并查一次训练的全部输入；不合法则 `BadInput`。"""
    config, explicit = load_config(TrainConfig, argv, USAGE, ABOUT)
    check_world_size(config, int(os.environ.get("WORLD_SIZE", 1)))
    dataset = open_dataset(config.dataset)
    is_resume = config.init_from == "resume"
    if is_resume and not (Path(config.out_dir) / CHECKPOINT).is_file():
        raise BadInput("no_checkpoint", _("there is no checkpoint to resume from"),
                       str(Path(config.out_dir) / CHECKPOINT), _("fix --out_dir, or leave out --init_from=resume"))
    if not is_resume:
        # 续训时形状在检查点里，读到它再查
        refuse_sick(dataset, config.block_size)
        check_dataset(dataset, config.block_size, _starting_vocab_size(config, dataset))
    check_prompts(config, dataset)
    run = RunDir(config.out_dir) if os.environ.get("RANK", "0") == "0" else None
    if run is not None and not is_resume and not config.eval_only and not config.overwrite:
        run.refuse_earlier_run()
    return Job(config, explicit, dataset, run, wants_debug(argv))


def refuse_sick(dataset: Dataset, block_size: int) -> None:
    """数据医生便宜的那部分：认错了类型的 id 多半也越界，先说出真正的原因。"""
    for split in SPLITS:
        check_length(dataset, split, block_size)
    for finding in quick_look(dataset):
        raise BadInput(finding.code, finding.what, finding.where, finding.hint)


def _starting_vocab_size(config: TrainConfig, dataset: Dataset) -> int:
    """起步的模型认得多少个 id；顺便查所要的上下文有没有超过预训练模型的。"""
    if config.init_from == "scratch":
        return scratch_vocab_size(dataset)
    check_available(config.init_from)
    args = (gpt2_model_args(config.init_from) if config.init_from in GPT2_SHAPES
            else folder_model_args(Path(config.init_from)))
    if config.block_size > args["block_size"]:
        raise BadInput("bad_value", _("block_size={n} is longer than the {most} of {name}").format(
            n=config.block_size, most=args["block_size"], name=config.init_from), "",
            _("use --block_size={most} or less").format(most=args["block_size"]))
    return args["vocab_size"]


def preflight_or_exit(argv: list[str]) -> Job:
    """同 `preflight`，但把坏输入说清楚后就以约定的退出码结束进程。"""
    jobs: list[Job] = []

    def check() -> int:
        jobs.append(preflight(argv))
        return 0

    code = run_main(check, wants_debug(argv))
    if not jobs:
        sys.exit(code)
    return jobs[0]
