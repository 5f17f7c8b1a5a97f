"""一个检查点在固定的验证窗口上的损失：两边读同样的窗口，数字才可比。

    python benchmarks/fixed_windows.py CKPT VAL_BIN BATCHES BATCH_SIZE BLOCK_SIZE

`benchmarks/time_to_loss.py` 为两边的检查点各起一次；打印损失（nat）与参数个数。`benchmarks/ablation.py` 直接调用。
"""

import sys
from pathlib import Path

import numpy as np
import torch

from nanogpt.checkpoint import load_checkpoint, model_config
from nanogpt.model import GPT


def fixed_window_loss(model: GPT, val_bin: Path, batches: int, batch_size: int, block_size: int) -> float:
    """`batches` 批的平均损失（nat）；窗口由固定的种子抽取，与模型无关。"""
    model.eval()
    data = np.fromfile(val_bin, dtype="<u2").astype(np.int64)
    rng = np.random.default_rng(1337)
    total = 0.0
    with torch.inference_mode():
        for _batch in range(batches):
            starts = rng.integers(0, len(data) - block_size, batch_size)
            tokens = torch.from_numpy(data[starts[:, None] + np.arange(block_size + 1)])
            total += model(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), loss_only=True)[1].item()
    return total / batches


def main() -> None:
    checkpoint = load_checkpoint(Path(sys.argv[1]))
    batches, batch_size, block_size = map(int, sys.argv[3:6])
    model = GPT(model_config(checkpoint, dropout=0.0))
    model.load_state_dict(checkpoint["model"])
    loss = fixed_window_loss(model, Path(sys.argv[2]), batches, batch_size, block_size)
    print(f"loss {loss:.6f} parameters {model.get_num_params(non_embedding=False)} iter {checkpoint['iter_num']}")


if __name__ == "__main__":
    main()
