"""一步的时间花在哪里：`log_timing` 打开时由 `nanogpt.train` 在各部分之间读钟，写进 `iter` 事件。"""

import time

from nanogpt import device as devices

PARTS = ("data", "forward", "backward", "optimizer", "logging")


class StepClock:
    """自上次取走以来各部分的毫秒数。没有打开时什么也不做。"""

    def __init__(self, device: str, is_on: bool):
        self.device, self.is_on = device, is_on
        self._ms = dict.fromkeys(PARTS, 0.0)
        self._steps = 0
        self._last = 0.0

    def start(self) -> None:
        """一步的开头；此前的评估与保存不算在任何部分里。"""
        self._steps += 1
        if self.is_on:
            devices.synchronize(self.device)
            self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """从上一次读钟到现在都算作 `part`。GPU 上要等它做完才分得清是谁的时间，取数据因此不再与前向重叠。"""
        if self.is_on:
            devices.synchronize(self.device)
            now = time.perf_counter()
            self._ms[part] += (now - self._last) * 1e3
            self._last = now

    def take(self) -> dict[str, float]:
        """每步平均的 `data_ms` 等，然后清零；没有打开则为空。`logging_ms` 是上一次记录所花的。"""
        taken = {f"{part}_ms": ms / max(self._steps, 1) for part, ms in self._ms.items()}
        self._ms = dict.fromkeys(PARTS, 0.0)
        self._steps = 0
        return taken if self.is_on else {}
