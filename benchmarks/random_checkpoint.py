"""写一个没有训练过的模型的检查点，供 `benchmarks/sample.py` 采样：速度与权重的值无关。

    python benchmarks/random_checkpoint.py OUT_DIR DATASET VOCAB_SIZE --n_layer=12 --n_head=12 ...
"""

import sys
from pathlib import Path

import torch

from nanogpt.model import GPT, GPTConfig


def main() -> None:
    folder, dataset, vocab_size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    shape = {key.lstrip("-"): int(value) for key, _, value in (arg.partition("=") for arg in sys.argv[4:])}
    args = {**shape, "bias": False, "vocab_size": vocab_size, "dropout": 0.0}
    torch.manual_seed(1337)
    model = GPT(GPTConfig(**args))
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict(), "model_args": args, "iter_num": 0, "best_val_loss": 1e9,
                "config": {"dataset": dataset}}, folder / "ckpt.pt")


if __name__ == "__main__":
    main()
