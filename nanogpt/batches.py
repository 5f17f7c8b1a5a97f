"""从数据集里取批：nanoGPT 的随机窗口，或者洗过牌、一轮之内不重复的窗口。

`nanogpt.train` 与 `bench` 使用。一批的起点 `ix` 与 `position` 就是「数据的位置」，续训时连同随机数一起存取。
"""

import os
from io import FileIO

import numpy as np
import torch
from torch import Tensor

from nanogpt.dataset import Dataset
from nanogpt.errors import BadInput
from nanogpt.i18n import _


class RandomWindows:
    """每批在一份 token 流里独立、均匀地抽 `batch_size` 个起点，各取 `block_size` 个 token（有放回）。

    走过与语料等长的 token 之后，一个 token 被看到的次数约服从均值为 1 的泊松分布：约 37% 还没有看到过。
    """

    position = 0  # 随机的窗口没有次序，位置全在随机数里

    def __init__(self, dataset: Dataset, batch_size: int, block_size: int, vocab_size: int, device: str):
        self.dataset, self.device, self.vocab_size = dataset, device, vocab_size
        self.batch_size, self.block_size = batch_size, block_size
        self._files: dict[str, FileIO] = {}

    def _file(self, split: str) -> FileIO:
        """一直开着的那个文件：训练途中数据集重做了也还是它。"""
        if split not in self._files:
            self.dataset.tokens(split)  # 没有这个文件，在这里说清楚
            self._files[split] = FileIO(self.dataset.path(split))
        return self._files[split]

    def draw(self, split: str) -> Tensor:
        """(B,) 的起点。抽法与次序同 nanoGPT，所以同一种子得到同样的批。"""
        tokens = os.fstat(self._file(split).fileno()).st_size // 2
        return torch.randint(tokens - self.block_size, (self.batch_size,))

    def next(self) -> Tensor:
        """(B,) 训练的下一批的起点。"""
        return self.draw("train")

    def load(self, split: str, ix: Tensor) -> tuple[Tensor, Tensor]:
        """起点 `ix` 的输入与目标，各 (B, T) 的 int64；目标是输入左移一位。"""
        # 逐个窗口地读：映射整个文件的话，每批重新映射要缺页几十次，一直留着又把读过的页都算进常驻内存
        fd, count = self._file(split).fileno(), self.block_size + 1
        read = b"".join([os.pread(fd, 2 * count, 2 * start) for start in ix.tolist()])
        if len(read) != 2 * count * len(ix):
            raise BadInput("data_shrunk", _("the file has become shorter during the run"),
                           str(self.dataset.path(split)), _("prepare the dataset again"))
        windows = np.frombuffer(read, dtype="<u2").reshape(-1, count)  # (B, T + 1)
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


class ShuffledWindows(RandomWindows):
    """训练的窗口互不重叠，一轮把它们各走一遍，每一轮另洗一次牌；评估仍用随机的窗口。

    一轮里每个 token 恰好做一次目标（首尾不足一个窗口的除外，每轮切在不同的地方）。`position` 是全部 rank 合计走过的
    窗口数，各 rank 轮流取 `batch_size` 个，所以互不相同。洗牌不占内存，也不用全局的随机数。
    """

    def __init__(self, dataset: Dataset, batch_size: int, block_size: int, vocab_size: int, device: str, *,
                 seed: int = 1337, rank: int = 0, world_size: int = 1):
        super().__init__(dataset, batch_size, block_size, vocab_size, device)
        self.seed, self.rank, self.world_size, self.position = seed, rank, world_size, 0
        self._tokens = dataset.tokens("train")
        # 起点可以挪动至多 `block_size - 1`，仍然放得下这么多窗口；太小的数据集至少有一个
        self.windows = max(1, (self._tokens - block_size) // block_size)
        self._slack = min(self._tokens - 1 - self.windows * block_size, block_size - 1)

    def next(self) -> Tensor:
        mine = self.position + self.rank * self.batch_size + np.arange(self.batch_size)
        self.position += self.batch_size * self.world_size
        epochs, places = np.divmod(mine, self.windows)
        starts = np.empty(self.batch_size, dtype=np.int64)
        # 一批至多跨几轮；多于一轮的只有极小的数据集
        for epoch in np.unique(epochs):
            here = epochs == epoch
            key = _mixed(np.array([(self.seed * 1_000_003 + int(epoch)) % 2**64], dtype=np.uint64))
            offset = int(key[0] % np.uint64(self._slack + 1))
            starts[here] = permuted(places[here], self.windows, key) * self.block_size + offset
        return torch.from_numpy(starts)


def permuted(places: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
    """0 到 `size - 1` 的一个由 `key` 决定的排列在 `places` 处的值：六轮 Feistel 网络，不必存下整个排列。

    网络排列的是不小于 `size` 的 4 的幂个数；落在外面的接着走，直到回到里面（平均不到四步）。
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    found = places.astype(np.uint64)
    outside = np.ones(len(found), dtype=bool)
    turns = [_mixed(key + np.uint64(turn * 0x9E3779B97F4A7C15 % 2**64)) for turn in range(1, 7)]
    while outside.any():
        left, right = found[outside] >> half, found[outside] & mask
        for turn in turns:
            left, right = right, left ^ (_mixed(right + turn) & mask)
        found[outside] = (left << half) | right
        outside = found >= size
    return found.astype(np.int64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """splitmix64 的末段：把 64 位彻底搅匀；溢出就是取模。"""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
