"""训练：一步接一步的循环，自上而下一次读完。

    python -m nanogpt.train quickstart --max_iters=500
    python -m torch.distributed.run --standalone --nproc_per_node=8 -m nanogpt.train train_gpt2

输入是 `nanogpt.preflight` 查过的 `Job`，输出是运行目录（见 `nanogpt.rundir`）。默认的数学、
随机数的次序与打印的行都与 nanoGPT 的 `train.py` 相同。
"""

import contextlib
import math
import os
import socket
import sys
import time
import traceback
from typing import Any

from nanogpt.preflight import Job, preflight_or_exit
from nanogpt.stopping import StopSignals, die_with_parent

STOP = StopSignals()
JOB: Job | None = None
if __name__ == "__main__":
    # 坏输入要在两秒内答复，而导入 torch 就可能要两三秒：先查，再导入。其间来的信号也算数。
    die_with_parent("RANK" in os.environ)
    JOB = preflight_or_exit(sys.argv[1:])
    STOP.install()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from nanogpt import device as devices  # noqa: E402
from nanogpt.atomic import write_atomic  # noqa: E402
from nanogpt.config import TrainConfig  # noqa: E402
from nanogpt.distributed import Ranks  # noqa: E402
from nanogpt.errors import OutOfResources, UserError, run_main  # noqa: E402
from nanogpt.i18n import _  # noqa: E402
from nanogpt.progress import ProgressBar  # noqa: E402
from nanogpt.rank_watch import RankWatch  # noqa: E402
from nanogpt.rundir import TRACEBACK  # noqa: E402
from nanogpt.training import Training, bring_back_best, build, check_finite, save  # noqa: E402
from nanogpt.training_samples import write_samples  # noqa: E402
from nanogpt.wandb_log import start_wandb  # noqa: E402

HEARTBEAT_S = 5.0  # 分布式时各 rank 报一次平安的间隔


def get_lr(config: TrainConfig, it: int) -> float:
    """第 `it` 步的学习率：线性升温，按余弦（Loshchilov 与 Hutter，2017）或直线下降到 `min_lr`。"""
    if not config.decay_lr:
        return config.learning_rate
    if it < config.warmup_iters:
        return config.learning_rate * (it + 1) / (config.warmup_iters + 1)
    if it > config.lr_decay_iters:
        return config.min_lr
    ratio = (it - config.warmup_iters) / (config.lr_decay_iters - config.warmup_iters)
    height = 1.0 - ratio if config.lr_schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * ratio))
    return config.min_lr + height * (config.learning_rate - config.min_lr)


@torch.no_grad()
def estimate_loss(t: Training) -> dict[str, float]:
    """两份数据上各 `eval_iters` 批的平均损失；各 rank 分担，批由各自的随机数抽取。"""
    # CPU 上评估不值得再编译一个图：缓存已有时也要好几秒
    model = t.raw_model if t.config.device == "cpu" else t.model
    model.eval()
    losses = {}
    for split in ("train", "val"):
        total = torch.zeros(t.config.eval_iters)
        for k in range(t.ranks.rank, t.config.eval_iters, t.ranks.world_size):
            x, y = t.batches.load(split, t.batches.draw(split))
            with t.amp:
                total[k] = model(x, y, loss_only=True)[1].item()
        losses[split] = t.ranks.mean(total.mean().item()) * t.ranks.world_size
    model.train()
    return losses


def evaluate(t: Training, lr: float, wandb: Any) -> None:
    """评估，按 nanoGPT 的规则决定要不要存检查点。"""
    losses = estimate_loss(t)
    t.evaluated_iter = t.iter_num
    check_finite(t, losses["train"] + losses["val"], _("the evaluated loss"))
    is_best, is_saved = losses["val"] < t.best_saved_loss, True
    t.best_val_loss = min(losses["val"], t.best_val_loss)
    t.say(f"step {t.iter_num}: train loss {losses['train']:.4f}, val loss {losses['val']:.4f}")
    t.emit("eval", iter=t.iter_num, train_loss=losses["train"], val_loss=losses["val"], best_val_loss=t.best_val_loss)
    # 赶在存检查点之前：续训不重做这次评估，样本就不会缺
    write_samples(t)
    if wandb is not None:
        wandb.log({"iter": t.iter_num, "train/loss": losses["train"], "val/loss": losses["val"], "lr": lr})
    if (is_best or t.config.always_save_checkpoint) and t.iter_num > 0 and not t.config.eval_only:
        is_saved = not t.ranks.any(not save(t, is_best=is_best))[0]
    if is_best and is_saved:
        t.best_saved_loss = losses["val"]


def train_step(t: Training, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
    """一步：前向、反向、裁剪、更新。返回（平均损失, 裁剪前的梯度范数或 None, 预取的下一批），都在设备上。"""
    total = torch.zeros((), device=t.device)
    for micro_step in range(t.accumulation):
        if t.ranks.is_distributed:
            # 梯度只在最后一个微批同步；这是 `no_sync()` 里唯一的动作
            t.model.require_backward_grad_sync = micro_step == t.accumulation - 1
        with t.amp:
            loss = t.model(*batch, loss_only=True)[1] / t.accumulation
        t.clock.lap("forward")
        # 前向还在 GPU 上排队，CPU 趁这时取下一批
        batch = t.next_batch()
        t.clock.lap("data")
        t.scaler.scale(loss).backward()
        total += loss.detach()
        t.clock.lap("backward")
    grad_norm = None
    if t.config.grad_clip != 0.0:
        t.scaler.unscale_(t.optimizer)
        grad_norm = torch.nn.utils.clip_grad_norm_(t.parameters, t.config.grad_clip)
    t.scaler.step(t.optimizer)
    t.scaler.update()
    t.optimizer.zero_grad(set_to_none=True)
    t.clock.lap("optimizer")
    return total, grad_norm, batch


def log_iter(t: Training, loss: Tensor, grad_norm: Tensor | None, lr: float, iter_ms: float, is_settled: bool) -> float:
    """记下这一步；返回各 rank 平均的损失。"""
    mean_loss = t.ranks.mean(loss.item())
    per_rank = t.config.batch_size * t.accumulation
    mfu = t.raw_model.estimate_mfu(per_rank, iter_ms / 1e3, t.peak_flops) if t.peak_flops and is_settled else None
    # 峰值未知时 nanoGPT 的写法是 -100%
    percent = -100.0 if mfu is None else mfu * 100
    t.say(f"iter {t.iter_num}: loss {mean_loss:.4f}, time {iter_ms:.2f}ms, mfu {percent:.2f}%")
    t.emit("iter", iter=t.iter_num, loss=mean_loss, lr=lr, grad_norm=None if grad_norm is None else grad_norm.item(),
           iter_ms=iter_ms, tokens_per_second=t.tokens_per_iter / iter_ms * 1e3, mfu=mfu,
           memory_mib=devices.memory_mib(t.device), **t.clock.take())
    return mean_loss


def train(t: Training) -> str:
    """从 `t.iter_num` 训练到 `max_iters`（含，同 nanoGPT）；返回 `finished` 或 `stopped`。"""
    config = t.config
    wandb = start_wandb(t)
    batch = t.next_batch() if t.ix is None else t.batches.load("train", t.ix)
    bar = ProgressBar(t.iter_num, config.max_iters) if t.ranks.is_master else None
    watch = RankWatch(t.ranks, t.warn) if t.ranks.is_distributed else None
    if watch is not None:
        watch.start()
    muon_scale = config.muon_lr / config.learning_rate if config.optimizer == "muon" else 1.0
    first_iter, heartbeat = t.iter_num, time.monotonic()
    began, timed = time.perf_counter(), 0  # 自上次记录以来的时刻与步数，不含评估与保存
    try:
        while True:
            lr = get_lr(config, t.iter_num)
            for group in t.optimizer.param_groups:
                group["lr"] = lr * muon_scale if "momentum" in group else lr

            must_stop, must_report = t.ranks.any(
                t.stop.requested or t.ranks.is_orphaned() or (t.run is not None and t.run.stop_requested()),
                t.ranks.is_distributed and t.ranks.is_master and time.monotonic() - heartbeat > HEARTBEAT_S)
            if must_report:
                heartbeat = time.monotonic()
                report_ranks(t, (time.perf_counter() - began) * 1e3 / max(timed, 1))
            if must_stop and not config.eval_only:
                return stop_here(t)
            is_eval_due = t.iter_num % config.eval_interval == 0 and t.evaluated_iter != t.iter_num
            if is_eval_due or config.eval_only:
                evaluate(t, lr, wandb)
                began, timed = time.perf_counter(), 0
            if config.eval_only:
                return "finished"
            if config.checkpoint_interval and t.iter_num and t.iter_num % config.checkpoint_interval == 0:
                save(t, f"ckpt-{t.iter_num}.pt")
                began, timed = time.perf_counter(), 0

            t.clock.start()
            loss, grad_norm, batch = train_step(t, batch)
            timed += 1

            if t.iter_num % config.log_interval == 0:
                loss.item()  # 等设备做完，此后读钟才作数
                iter_ms = (time.perf_counter() - began) * 1e3 / timed
                began, timed = time.perf_counter(), 0
                mean_loss = log_iter(t, loss, grad_norm, lr, iter_ms, is_settled=t.iter_num - first_iter >= 5)
                t.clock.lap("logging")
                check_finite(t, mean_loss, _("the loss"))
                if bar is not None:
                    bar.update(t.iter_num, mean_loss)
            t.iter_num += 1
            if t.iter_num > config.max_iters:
                return finish(t)
    finally:
        if watch is not None:
            watch.close()
        if bar is not None:
            bar.close()
        if wandb is not None:
            wandb.finish()


def report_ranks(t: Training, iter_ms: float) -> None:
    """每个 rank 一个 `rank` 事件。"""
    mine = {"rank": t.ranks.rank, "host": socket.gethostname(), "iter": t.iter_num, "iter_ms": iter_ms}
    for fields in t.ranks.gather(mine) or []:
        t.emit("rank", **fields)


def stop_here(t: Training) -> str:
    """应请求停下：存下这一步，收走停止文件。"""
    is_saved = save(t)
    if t.run is not None:
        t.run.take_stop()
        if not is_saved:
            what = _("stopped, but the steps since iter {n} could not be saved").format(n=max(t.saved_iter, 0))
            raise OutOfResources("stopped_unsaved", what, t.config.out_dir,
                                 _("free some space; resume goes on from there"))
        t.say(_("stopped at iter {n}; go on with: {command}").format(
            n=t.iter_num, command=f"python -m nanogpt.train --init_from=resume --out_dir={t.config.out_dir}"))
    return "stopped"


def finish(t: Training) -> str:
    """训练完毕：最后一次评估之后的步数若还没有存，就存下来（只留最好的那份时除外）。"""
    last = t.config.max_iters
    # 恰在最后一步之前停过的运行，ckpt.pt 是那一步的，却不是评估时存的：末尾照样要存
    is_tail_unsaved = t.saved_iter < (last + (t.evaluated_iter != last) if t.config.always_save_checkpoint else 0)
    if t.ranks.any(t.ranks.is_master and is_tail_unsaved)[0] and not save(t) and t.run is not None:
        raise OutOfResources("finished_unsaved", _("training is done, but the last checkpoint could not be saved"),
                             t.config.out_dir, _("free some space; resume goes on from iter {n}").format(
                                 n=max(t.saved_iter, 0)))
    bring_back_best(t)
    return "finished"


def explained(error: Exception, config: TrainConfig) -> Exception:
    """内存不够与别的 rank 失联，变成能向用户解释的错误；其余原样返回。"""
    text = " ".join(str(error).split())
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        half = max(config.batch_size // 2, 1)
        hint = (f"--batch_size={half} --gradient_accumulation_steps="
                f"{config.gradient_accumulation_steps * config.batch_size // half}" if config.batch_size > 1
                else f"--block_size={max(config.block_size // 2, 1)}")
        return OutOfResources("out_of_memory", _("out of memory: {why}").format(why=text[:200] or type(error).__name__),
                              f"batch_size={config.batch_size}, block_size={config.block_size}, {config.device}",
                              _("try {settings}, a smaller model, or --dtype=bfloat16").format(settings=hint))
    if isinstance(error, torch.distributed.DistError) or "gloo" in text.lower():
        return UserError("rank_lost", _("lost contact with another rank: {why}").format(why=text[:200]), config.out_dir,
                         _("see which rank failed first; resume goes on from the last checkpoint"))
    return error


def main(job: Job) -> int:
    """训练一次，把结局写进事件流；返回退出码。"""
    ranks = Ranks()
    STOP.install()
    t: Training | None = None

    def end(status: str, error: UserError | None = None) -> None:
        if job.run is not None and job.run.events is not None:
            if error is not None:
                job.run.events.emit("error", code=error.code, message=error.what, hint=error.hint)
            job.run.events.emit("end", status=status, iter=t.iter_num if t is not None else 0)

    try:
        t = build(job, ranks, STOP)
        end(train(t))
        return 0
    except (Exception, KeyboardInterrupt) as error:
        shown = explained(error, t.config if t is not None else job.config) if isinstance(error, Exception) else error
        if isinstance(shown, UserError):
            end("diverged" if shown.exit_code == 3 else "failed", shown)
        else:
            end("failed", UserError("internal", f"{type(shown).__name__}: {shown}"))
            if job.run is not None and job.run.events is not None and isinstance(error, Exception):
                with contextlib.suppress(OSError):
                    write_atomic(job.run.path / TRACEBACK, traceback.format_exc())
        raise shown from error
    finally:
        ranks.close()
        if job.run is not None:
            job.run.close()


if __name__ == "__main__" and JOB is not None:
    checked = JOB
    code = run_main(lambda: main(checked), checked.debug)
    if "RANK" in os.environ:
        # gloo 的线程还握着 Python 的对象，解释器收尾时会拿不到 GIL 而 abort：该留下的都已落盘，直接走
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)
    sys.exit(code)
