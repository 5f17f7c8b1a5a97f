"""看着各 rank 还活着：一个停住或断网的 rank 会让其余的在集体通信里一声不响地等下去。

分布式时 `nanogpt.train` 在每个 rank 起一个线程，经 torchrun 的存储定时报平安；rank 0 读各
rank 的，太久没有动静就报 `rank_silent` 警告。真正放弃是 `dist_timeout_s` 的事。
"""

import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from nanogpt.distributed import Ranks
from nanogpt.i18n import _

PERIOD_S = 2.0
SILENCE_S = 15.0


class RankWatch(threading.Thread):
    """报平安的线程；`warn(code, message, hint)` 只在 rank 0 被调用。"""

    def __init__(self, ranks: Ranks, warn: Callable[[str, str, str], None]):
        super().__init__(daemon=True, name="rank-watch")
        self._ranks, self._warn = ranks, warn
        self._ended = threading.Event()
        # 另开一条连接：主线程可能正占着进程组自己的那条
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
            timeout=timedelta(seconds=30))

    def run(self) -> None:
        heard: dict[int, tuple[bytes, float]] = {}
        silent: set[int] = set()
        beats = 0
        while not self._ended.wait(PERIOD_S):
            beats += 1
            try:
                self._store.set(f"alive/{self._ranks.rank}", str(beats))
                if self._ranks.is_master:
                    self._listen(heard, silent)
            except RuntimeError:
                # 存储随 torchrun 一起没了：训练自己会发现
                return

    def _listen(self, heard: dict[int, tuple[bytes, float]], silent: set[int]) -> None:
        now = time.monotonic()
        for rank in range(1, self._ranks.world_size):
            key = f"alive/{rank}"
            beat = self._store.get(key) if self._store.check([key]) else b""
            if rank not in heard or beat != heard[rank][0]:
                heard[rank] = (beat, now)
                silent.discard(rank)
            elif now - heard[rank][1] > SILENCE_S and rank not in silent:
                silent.add(rank)
                self._warn("rank_silent", _("rank {rank} has not been heard of for {s:.0f} s").format(
                    rank=rank, s=now - heard[rank][1]),
                    _("look at its host; the run gives up after dist_timeout_s and can be resumed"))

    def close(self) -> None:
        self._ended.set()
