"""一次训练的全部状态：怎样建起来，怎样存下去，怎样从检查点接上。

`nanogpt.train` 的循环只推进 `Training`；`build` 是进，`save` 是出，`nanogpt.resume` 把存下的放回来。
"""

import math
import os
import shutil
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel as DDP

from nanogpt import checkpoint as ckpt
from nanogpt import device as devices
from nanogpt.batches import RandomWindows, ShuffledWindows
from nanogpt.config import RECIPE_MODEL_KEYS, TrainConfig, saved_values
from nanogpt.distributed import Ranks
from nanogpt.errors import Diverged, OutOfResources
from nanogpt.i18n import _
from nanogpt.model import GPT, GPTConfig
from nanogpt.preflight import Job, scratch_vocab_size
from nanogpt.resume import checkpoint_to_resume, restore
from nanogpt.rundir import CHECKPOINT, RunDir
from nanogpt.step_clock import StepClock
from nanogpt.stopping import StopSignals


@dataclass
class Training:
    """停在某一步边界时的状态。"""

    config: TrainConfig             # 解析过的：device、dtype、compile 与形状都已确定
    origin: str                     # 这次运行最初的 init_from，续训不改变它
    ranks: Ranks
    run: RunDir | None              # 只有 rank 0 有
    stop: StopSignals
    device: str
    peak_flops: float | None
    amp: AbstractContextManager[Any]
    raw_model: GPT                  # 没有包装的模型
    model: Any                      # 编译与 DDP 包装之后的模型，与 raw_model 共用参数
    parameters: list[Tensor]        # raw_model 的参数；每步遍历一遍模块树要近 0.1 ms
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler    # 只在 float16 时起作用
    batches: RandomWindows
    tokenizer: dict[str, Any] | None
    dataset_fingerprint: str        # 续训时看数据集换过没有
    clock: StepClock
    iter_num: int = 0
    best_val_loss: float = 1e9
    best_saved_loss: float = 1e9    # 同上，但不算没有存成的：磁盘满过之后，略差的一份也要存
    evaluated_iter: int = -1        # 最近一次评估在哪一步；续训不重复评估，随机数才接得上
    saved_iter: int = -1            # ckpt.pt 是哪一步的
    saved_is_best: bool = False     # ckpt.pt 是否验证损失最低的那一步
    kept_iter: int = -1             # 若不是，最低的那一步存在 ckpt-<kept_iter>.pt
    ix: Tensor | None = None        # (B,) 预取的那一批的起点，即数据的位置

    @property
    def accumulation(self) -> int:
        """每个 rank 每步的微批数。"""
        return self.config.gradient_accumulation_steps // self.ranks.world_size

    @property
    def tokens_per_iter(self) -> int:
        """每步的 token 数，全部 rank 合计。"""
        return self.config.gradient_accumulation_steps * self.config.batch_size * self.config.block_size

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """取下一批训练数据并记住它的位置。"""
        self.ix = self.batches.next()
        return self.batches.load("train", self.ix)

    def say(self, line: str) -> None:
        """给人看的一行，只由 rank 0 打印。"""
        if self.ranks.is_master:
            say(line, sys.stdout)

    def emit(self, event: str, **fields: Any) -> None:
        """给程序看的一行，只由 rank 0 写。"""
        if self.run is not None and self.run.events is not None:
            self.run.events.emit(event, **fields)

    def warn(self, code: str, message: str, hint: str = "") -> None:
        self.emit("warning", code=code, message=message, hint=hint)
        if self.ranks.is_master:
            say(_("warning: {message}").format(message="; ".join(filter(None, (message, hint)))), sys.stderr)


def say(line: str, stream: TextIO | None) -> None:
    """打印一行。终端或读者已经不在时，训练不该跟着它结束：此后的话扔掉，日志还在 `events.jsonl`。"""
    try:
        print(line, file=stream, flush=True)
    except OSError:
        if stream is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def build(job: Job, ranks: Ranks, stop: StopSignals) -> Training:
    """从查过的输入到可以迈第一步的状态；到 `open_run` 之前没有写任何文件。"""
    config = job.config
    device = devices.choose_device(config.device, ranks.local_rank if ranks.is_distributed else None)
    device_type = device.split(":")[0]
    config = replace(config, device=device_type if config.device == "auto" else config.device,
                     dtype=devices.choose_dtype(config.dtype, device))
    checkpoint = checkpoint_to_resume(job, config) if config.init_from == "resume" else None
    ranks.connect(config.backend, device, config.dist_timeout_s)

    if device_type == "cpu":
        devices.keep_freed_memory()
    devices.seed(config.seed + ranks.rank)
    raw_model = _initial_model(job, config, checkpoint).to(device)
    config = replace(config, **{key: getattr(raw_model.config, key)
                                for key in ("n_layer", "n_head", "n_embd", "block_size", "bias", *RECIPE_MODEL_KEYS)},
                     optimizer=checkpoint["config"].get("optimizer", "adamw") if checkpoint else config.optimizer)
    sequences = 0 if config.eval_only else config.max_iters * config.gradient_accumulation_steps * config.batch_size
    config = replace(config, compile=devices.choose_compile(
        config.compile, device, raw_model.flops_per_token() * sequences * config.block_size / ranks.world_size))
    optimizer = raw_model.configure_optimizers(
        config.weight_decay, config.learning_rate, (config.beta1, config.beta2), device_type,
        config.muon_lr if config.optimizer == "muon" else None, config.muon_momentum)
    if checkpoint is not None:
        ckpt.check_resumable(Path(config.out_dir) / CHECKPOINT, checkpoint, optimizer)
    model: Any = devices.compiled(raw_model, device) if config.compile else raw_model
    if ranks.is_distributed:
        model = DDP(model, device_ids=[torch.device(device).index] if device_type == "cuda" else None)
    t = Training(
        config=config, origin=checkpoint["config"].get("init_from", "scratch") if checkpoint else config.init_from,
        ranks=ranks, run=job.run, stop=stop, device=device,
        peak_flops=devices.peak_flops(devices.device_name(device), config.dtype),
        amp=devices.autocast(device, config.dtype), raw_model=raw_model, model=model,
        parameters=list(raw_model.parameters()), optimizer=optimizer,
        scaler=torch.amp.GradScaler(device_type, enabled=config.dtype == "float16"),
        batches=_windows(job, config, ranks, raw_model.config.vocab_size, device),
        tokenizer=job.dataset.tokenizer, dataset_fingerprint=job.dataset.fingerprint(),
        clock=StepClock(device, config.log_timing))
    _open_run(t, checkpoint)
    if checkpoint is not None:
        restore(t, checkpoint)
    return t


def _windows(job: Job, config: TrainConfig, ranks: Ranks, vocab_size: int, device: str) -> RandomWindows:
    """按 `sampling` 取批的办法。"""
    if config.sampling == "random":
        return RandomWindows(job.dataset, config.batch_size, config.block_size, vocab_size, device)
    return ShuffledWindows(job.dataset, config.batch_size, config.block_size, vocab_size, device, seed=config.seed,
                           rank=ranks.rank, world_size=ranks.world_size)


def _initial_model(job: Job, config: TrainConfig, checkpoint: dict[str, Any] | None) -> GPT:
    """按 `init_from` 得到 CPU 上的模型。"""
    if checkpoint is not None:
        model = GPT(ckpt.model_config(checkpoint, dropout=config.dropout))
        model.load_state_dict(checkpoint["model"])
    elif config.init_from == "scratch":
        model = GPT(GPTConfig(n_layer=config.n_layer, n_head=config.n_head, n_embd=config.n_embd,
                              block_size=config.block_size, bias=config.bias, dropout=config.dropout,
                              vocab_size=scratch_vocab_size(job.dataset),
                              **{key: getattr(config, key) for key in RECIPE_MODEL_KEYS}))
    else:
        model = GPT.from_pretrained(config.init_from, {"dropout": config.dropout})
        if config.block_size < model.config.block_size:
            model.crop_block_size(config.block_size)
    return model


def _open_run(t: Training, checkpoint: dict[str, Any] | None) -> None:
    """打开运行目录并说出这是怎样的一次运行。"""
    params = t.raw_model.get_num_params()
    name = devices.device_name(t.device)
    if t.run is not None:
        if t.config.overwrite and not t.config.eval_only:
            t.run.delete_earlier_run()
        t.run.open(replace(t.config, init_from=t.origin),
                   {"torch": str(torch.__version__), "world_size": t.ranks.world_size, "device_names": [name]})
    t.emit("start", config=saved_values(t.config), resumed_from_iter=checkpoint["iter_num"] if checkpoint else None,
           params=params, tokens_per_iter=t.tokens_per_iter, world_size=t.ranks.world_size, device_name=name,
           peak_flops=t.peak_flops * t.ranks.world_size if t.peak_flops else None)
    t.say(f"tokens per iteration will be: {t.tokens_per_iter:,}")
    t.say(f"number of parameters: {params / 1e6:.2f}M, device: {name} x {t.ranks.world_size}, dtype: {t.config.dtype}, "
          f"compile: {t.config.compile}")
    if t.run is not None and not t.config.eval_only:
        # 权重与 AdamW 的两个动量（Muon 只有一个）；改名之前新旧两份并存
        need = 2 * 3 * sum(p.numel() * p.element_size() for p in t.raw_model.parameters())
        have = shutil.disk_usage(t.run.path).free
        if have < need:
            t.warn("low_disk_space", _("checkpoints need about {need} MiB, {have} MiB are free").format(
                need=need >> 20, have=have >> 20), _("free some space or choose another --out_dir"))


def check_finite(t: Training, loss: float, what: str, weights: bool = False) -> None:
    """损失（或权重）不再有限就停，赶在它进入检查点之前。各 rank 的权重相同，所以得出同样的结论。"""
    if math.isfinite(loss) and not (weights and any(not torch.isfinite(p).all() for p in t.raw_model.parameters())):
        return
    last = _("the last checkpoint is of iter {n}").format(n=t.saved_iter) if t.saved_iter >= 0 else _("none was saved")
    raise Diverged("diverged", _("{what} is no longer finite at iter {n}; {last}").format(
        what=what, n=t.iter_num, last=last), t.config.out_dir,
        _("lower --learning_rate, lengthen --warmup_iters, or set --grad_clip=1.0"))


def save(t: Training, name: str = CHECKPOINT, is_best: bool = False) -> bool:
    """存下这一步；返回是否成功。存不下时只警告：磁盘腾出来之前，训练接着走。所有 rank 都要调用。"""
    check_finite(t, 0.0, _("a weight"), weights=True)
    is_best = is_best or (t.saved_is_best and t.saved_iter == t.iter_num)
    mine = {"cpu_rng": torch.get_rng_state(), "ix": t.ix, "position": t.batches.position,
            "cuda_rng": torch.cuda.get_rng_state(t.device) if t.device.startswith("cuda") else None}
    states = t.ranks.gather(mine)
    if t.run is None:
        return True
    must_keep = name == CHECKPOINT and t.saved_is_best and not is_best and not t.config.always_save_checkpoint
    if must_keep:
        t.kept_iter = t.saved_iter
    checkpoint = {
        "model": t.raw_model.state_dict(), "optimizer": t.optimizer.state_dict(),
        **ckpt.split_model_args(t.raw_model.config), "iter_num": t.iter_num, "best_val_loss": t.best_val_loss,
        "config": saved_values(replace(t.config, init_from=t.origin)), "scaler": t.scaler.state_dict(),
        "rank_states": states, "evaluated_iter": t.evaluated_iter, "is_best": is_best, "kept_iter": t.kept_iter,
        "tokenizer": t.tokenizer, "dataset_fingerprint": t.dataset_fingerprint,
    }
    path = t.run.path / name
    began = time.perf_counter()
    t.say(f"saving checkpoint to {t.config.out_dir}")
    t.stop.is_saving = True
    try:
        if must_keep:
            _keep_best(path, t.saved_iter)
        size = ckpt.save_checkpoint(path, checkpoint)
    except OutOfResources as error:
        t.warn(error.code, error.what, error.hint)
        return False
    finally:
        t.stop.is_saving = False
    if name == CHECKPOINT:
        t.saved_iter, t.saved_is_best = t.iter_num, is_best
    t.emit("checkpoint", iter=t.iter_num, path=str(path), bytes=size, save_ms=(time.perf_counter() - began) * 1e3)
    return True


def _keep_best(path: Path, saved_iter: int) -> None:
    """停下时的状态要占用 `ckpt.pt`，而那里是验证损失最低的一份：先给它另一个名字。"""
    kept = path.with_name(f"ckpt-{saved_iter}.pt")
    if path.exists() and not kept.exists():
        ckpt.copy_checkpoint(path, kept)


def bring_back_best(t: Training) -> None:
    """训练完毕而 `ckpt.pt` 还是中途停下时的状态：按 nanoGPT 的规则，那里该是验证损失最低的一份。"""
    if t.run is None or t.config.always_save_checkpoint or t.saved_is_best:
        return
    kept = t.run.path / f"ckpt-{t.kept_iter}.pt"
    if kept.exists():
        ckpt.replace_checkpoint(kept, t.run.path / CHECKPOINT)
        t.saved_iter, t.saved_is_best = t.kept_iter, True
