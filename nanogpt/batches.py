"""从数据集里取批：nanoGPT 的随机窗口，位置由全局随机数决定。

`nanogpt.train` 与 `bench` 使用。一批的起点 `ix` 就是「数据的位置」，续训时连同随机数一起存取。
"""

import numpy as np
import torch
from torch import Tensor

from nanogpt.dataset import Dataset
from nanogpt.errors import BadInput
from nanogpt.i18n import _


class RandomWindows:
    """每批在一份 token 流里独立、均匀地抽 `batch_size` 个起点，各取 `block_size` 个 token（有放回）。"""

    def __init__(self, dataset: Dataset, batch_size: int, block_size: int, vocab_size: int, device: str):
        self.dataset, self.device, self.vocab_size = dataset, device, vocab_size
        self.batch_size, self.block_size = batch_size, block_size
        self._offsets = np.arange(block_size + 1)

    def draw(self, split: str) -> Tensor:
        """(B,) 的起点。抽法与次序同 nanoGPT，所以同一种子得到同样的批。"""
        return torch.randint(self.dataset.tokens(split) - self.block_size, (self.batch_size,))

    def load(self, split: str, ix: Tensor) -> tuple[Tensor, Tensor]:
        """起点 `ix` 的输入与目标，各 (B, T) 的 int64；目标是输入左移一位。"""
        # 每批重新映射：一直留着的映射会把读过的页都算进常驻内存，看起来像泄漏
        data = np.memmap(self.dataset.path(split), dtype="<u2", mode="r")
        windows = data[ix.numpy()[:, None] + self._offsets]  # (B, T + 1) uint16
        if windows.max() >= self.vocab_size:
            raise self._out_of_range(split, ix, windows)
        tokens = torch.from_numpy(windows.astype(np.int64))
        if self.device.startswith("cuda"):
            tokens = tokens.pin_memory().to(self.device, non_blocking=True)
        elif self.device != "cpu":
            tokens = tokens.to(self.device)
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def _out_of_range(self, split: str, ix: Tensor, windows: np.ndarray) -> BadInput:
        """大文件开训前只抽查，漏网的 id 在这里被认出，而不是在 GPU 上变成一句断言失败。"""
        row, column = np.argwhere(windows >= self.vocab_size)[0]
        return BadInput(
            "id_out_of_range",
            _("token id {id} is not below vocab_size={vocab_size}").format(
                id=int(windows[row, column]), vocab_size=self.vocab_size),
            _("{file}, token {offset}").format(file=self.dataset.path(split), offset=int(ix[row]) + int(column)),
            _("prepare the dataset again"))
