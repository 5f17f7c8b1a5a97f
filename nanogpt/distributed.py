"""多进程训练里各 rank 的约定：进程组、一致的决定、求平均、收集。

由 `torchrun` 起的每个进程在环境里得到自己的号码；单进程时这里的一切都是直通。
梯度走 `backend`（nccl 或 gloo）；其余的小消息另走一个 CPU 上的 gloo 组，不打断 GPU。
"""

import os
import socket
import sys
import time
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from nanogpt.errors import UserError
from nanogpt.i18n import _
from nanogpt.stopping import die_with_parent

T = TypeVar("T")


class Ranks:
    """本进程是第几个、一共几个，以及与其他 rank 商量的办法。"""

    def __init__(self) -> None:
        self.is_distributed = "RANK" in os.environ
        self.rank = int(os.environ.get("RANK", 0))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        self.is_master = self.rank == 0
        self._control: Any = None
        # torchrun 若被杀，它的进程会归 1 号进程所有；训练不该就此没人管地跑下去
        self._parent = os.getppid()

    def connect(self, backend: str, device: str, timeout_s: float) -> None:
        """建立进程组；各 rank 都要调用。连不齐则 `UserError`。"""
        if not self.is_distributed:
            return
        is_cuda = device.startswith("cuda")
        if is_cuda:
            torch.cuda.set_device(device)
        if os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE"):
            # 单机只用回环：不对外开端口，主机名解析不了也无妨
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        timeout = timedelta(seconds=timeout_s)
        try:
            _check_agent()
            dist.init_process_group(backend if is_cuda else "gloo", timeout=timeout)
            self._control = dist.new_group(backend="gloo", timeout=timeout)
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError("rendezvous_failed", _("the ranks could not connect: {why}").format(
                why=" ".join(str(error).split())[:200]),
                f"rank {self.rank} / {self.world_size}, {socket.gethostname()}, "
                f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}",
                _("check that every node was started, and the address and port")) from error
        # 从这里起由 `is_orphaned` 看着：父进程没了，也要先存下检查点
        die_with_parent(False)

    def is_orphaned(self) -> bool:
        """起我们的 torchrun 已经不在。"""
        return self.is_distributed and os.getppid() != self._parent

    def any(self, *flags: bool) -> list[bool]:
        """每一项是否有任一 rank 为真；所有 rank 得到同样的答案。"""
        if self._control is None:
            return list(flags)
        votes = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self._control)
        return [bool(vote) for vote in votes]

    def mean(self, value: float) -> float:
        """各 rank 的 `value` 的平均。"""
        if self._control is None:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total, group=self._control)
        return total.item() / self.world_size

    def gather(self, value: T) -> list[T] | None:
        """rank 0 得到各 rank 的 `value`，按号码排列；别的 rank 得到 None。"""
        if self._control is None:
            return [value]
        gathered: list[T] | None = [value] * self.world_size if self.is_master else None
        dist.gather_object(value, gathered, dst=0, group=self._control)
        return gathered

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def _check_agent() -> None:
    """起我们的 torchrun 先开着集合点再起我们；连不上就是它已经死了，而 torch 会一直试到超时。"""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    for wait_s in (0.5, 1.0, 0.0):
        try:
            socket.create_connection(address, timeout=10).close()
            return
        except ConnectionRefusedError:
            if not wait_s:
                raise
            time.sleep(wait_s)
