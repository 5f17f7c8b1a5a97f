"""续训：读入要接上的检查点，与明说过的键核对，把状态放回 `Training`。

`nanogpt.training.build` 先后调用 `checkpoint_to_resume` 与 `restore`；写检查点的一侧是 `nanogpt.training.save`。
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nanogpt import checkpoint as ckpt
from nanogpt.config import TrainConfig, saved_values
from nanogpt.dataset import check_dataset
from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.preflight import Job
from nanogpt.rundir import CHECKPOINT

if TYPE_CHECKING:
    from nanogpt.training import Training

# 这些变了，续训就不再与从未中断的运行逐位相同
_EXACT_KEYS = ("dataset", "batch_size", "gradient_accumulation_steps", "dropout", "dtype", "eval_interval",
               "eval_iters", "sampling", "learning_rate", "min_lr", "warmup_iters", "lr_decay_iters", "decay_lr",
               "lr_schedule", "weight_decay", "beta1", "beta2", "muon_lr", "muon_momentum", "grad_clip", "compile")


def checkpoint_to_resume(job: Job, config: TrainConfig) -> dict[str, Any]:
    """续训的检查点，与明说过的形状、数据集、步数都对得上。"""
    path = Path(config.out_dir) / CHECKPOINT
    checkpoint = ckpt.load_checkpoint(path)
    if "optimizer" not in checkpoint or "iter_num" not in checkpoint:
        raise BadInput("no_optimizer", _("this checkpoint holds weights only; a resume needs the optimizer too"),
                       str(path), _("sample from it, or train from the start"))
    ckpt.check_resume_shape(checkpoint, {key: getattr(config, key) for key in job.explicit if hasattr(config, key)},
                            str(path))
    args = checkpoint["model_args"]
    check_dataset(job.dataset, args["block_size"], args["vocab_size"])
    if checkpoint["iter_num"] > config.max_iters and not config.eval_only:
        raise BadInput("already_finished", _("this run has done all of max_iters={most}").format(
            most=config.max_iters), str(path), _("raise --max_iters to go on"))
    return checkpoint


def restore(t: "Training", checkpoint: dict[str, Any]) -> None:
    """接上检查点的那一步。随机数最后恢复：建模型、建优化器都会用掉一些。"""
    for saved, group in zip(checkpoint["optimizer"]["param_groups"], t.optimizer.param_groups, strict=True):
        # 只接上两个动量：学习率、衰减、用哪种核由这一次的配置与机器决定
        saved |= {key: value for key, value in group.items() if key != "params"}
    t.optimizer.load_state_dict(checkpoint["optimizer"])
    t.iter_num = t.saved_iter = checkpoint["iter_num"]
    t.best_val_loss = t.best_saved_loss = checkpoint["best_val_loss"]
    t.evaluated_iter = checkpoint.get("evaluated_iter", -1)
    t.saved_is_best = checkpoint.get("is_best", True)
    t.kept_iter = checkpoint.get("kept_iter", -1)
    if checkpoint.get("scaler"):
        t.scaler.load_state_dict(checkpoint["scaler"])
    changed = _inexact(t, checkpoint)
    if changed:
        t.warn("resume_not_exact", _("the run goes on, but not as if it had never stopped: {why}").format(
            why="; ".join(changed)))
    config = t.config
    if config.decay_lr and config.min_lr == 0 and t.iter_num >= config.lr_decay_iters and not config.eval_only:
        t.warn("lr_is_zero", _("the learning rate has come down to zero at iter {n}; nothing more is learned").format(
            n=config.lr_decay_iters), _("raise --lr_decay_iters together with --max_iters"))
    states = checkpoint.get("rank_states")
    if states is None:
        return
    # 洗过牌的窗口走到了哪里，是全部 rank 共有的一个数
    t.batches.position = states[0].get("position", 0)
    if t.ranks.rank >= len(states):
        return
    mine = states[t.ranks.rank]
    torch.set_rng_state(mine["cpu_rng"])
    if mine["cuda_rng"] is not None and t.device.startswith("cuda"):
        torch.cuda.set_rng_state(mine["cuda_rng"], t.device)
    last = t.batches.dataset.tokens("train") - t.config.block_size
    if len(mine["ix"]) == t.config.batch_size and mine["ix"].min() >= 0 and mine["ix"].max() < last:
        t.ix = mine["ix"]


def _inexact(t: "Training", checkpoint: dict[str, Any]) -> list[str]:
    """哪些变化使续训不再逐位相同；没有则为空。"""
    if "rank_states" not in checkpoint:
        return [_("the checkpoint holds no random state")]
    before, now = checkpoint["config"], saved_values(t.config)
    changed = [f"{key}: {before[key]} -> {now[key]}"
               for key in _EXACT_KEYS if key in before and before[key] != now[key]]
    if len(checkpoint["rank_states"]) != t.ranks.world_size:
        changed.append(f"world_size: {len(checkpoint['rank_states'])} -> {t.ranks.world_size}")
    if checkpoint.get("dataset_fingerprint", t.dataset_fingerprint) != t.dataset_fingerprint:
        changed.append(_("other data than before"))
    if checkpoint.get("tokenizer", t.tokenizer) != t.tokenizer:
        changed.append(_("another tokenizer, so the same ids stand for other text"))
    return changed
