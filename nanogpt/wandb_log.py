"""可选的 Weights & Biases 记录，键名与 nanoGPT 相同；用不了时只警告，训练照常。

`nanogpt.train` 使用；`wandb` 是可选依赖（`pip install nanogpt-workbench[wandb]`）。
"""

from typing import Any

from nanogpt.config import saved_values
from nanogpt.i18n import _
from nanogpt.training import Training


def start_wandb(t: Training) -> Any:
    """wandb 的 run；没有开启、不是 rank 0、没有装或登录不了则 None。"""
    if not t.config.wandb_log or not t.ranks.is_master:
        return None
    try:
        import wandb

        return wandb.init(project=t.config.wandb_project, name=t.config.wandb_run_name, config=saved_values(t.config))
    # 它的登录、网络与版本问题各有各的异常，哪一种都不该挡住几天的训练
    except Exception as error:
        t.warn("wandb_unavailable", _("wandb logging is off: {why}").format(why=f"{type(error).__name__}: {error}"),
               _("pip install nanogpt-workbench[wandb] and wandb login, or --wandb_log=False"))
        return None
