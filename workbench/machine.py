"""这台机器有哪些设备，以及一次训练怎样铺在机器上；不需要 `torch`。

启动界面列出设备，并由 `MachineOptions` 生成进程数、机器数等的表单。CUDA 的设备问 `nvidia-smi`。
"""

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from nanogpt.i18n import N_
from nanogpt.options import option

# `nvidia-smi` 在驱动有毛病时会一直不答
QUERY_SECONDS = 5.0
INFINIBAND = Path("/sys/class/infiniband")
_DDP, _NODES = N_("processes"), N_("several machines")


@dataclass(frozen=True)
class Device:
    """`name` 是 `--device` 的取值；`memory_mib` 不知道时为 None。`title` 来自外面，显示前要净化。"""

    name: str
    title: str
    memory_mib: float | None = None


@dataclass
class MachineOptions:
    """进程怎样铺开。名字与 `LaunchPlan` 的字段一致。"""

    ranks: int = option(1, N_("processes on this machine: one per GPU; on a CPU they talk through gloo"), _DDP,
                        low=1, high=1024)
    cuda_devices: str = option("", N_("which GPUs, such as 0,2; empty: the first ones"), _DDP)
    nodes: int = option(1, N_("machines; each runs its own command, shown below"), _NODES, low=1, high=10000)
    master_addr: str = option("127.0.0.1", N_("address of the first machine, as the others reach it"), _NODES)
    master_port: int = option(29500, N_("a free port on the first machine"), _NODES, low=1, high=65535)
    has_infiniband: bool = option(True, N_("false sets NCCL_IB_DISABLE=1"), _NODES)


def has_infiniband() -> bool:
    """内核认得一块 InfiniBand（或 RoCE）网卡。没有时 NCCL 要被告知，不然会一直找。"""
    try:
        return any(INFINIBAND.iterdir())
    except OSError:
        return False


def list_devices() -> list[Device]:
    """可以选的设备，最好的在前；`auto` 不在其中。可能要等 `nvidia-smi` 一两秒，放在线程里调用。"""
    found = cuda_devices()
    if sys.platform == "darwin" and platform.machine() == "arm64":
        found.append(Device("mps", "Apple GPU", _ram_mib()))
    return [*found, Device("cpu", f"{_cpu_name()}, {os.cpu_count() or 1} cores", _ram_mib())]


def cuda_devices() -> list[Device]:
    """`nvidia-smi` 所见、且 `CUDA_VISIBLE_DEVICES` 没有藏起来的，按 `torch` 的编号。没有驱动则为空。"""
    command = ["nvidia-smi", "--query-gpu=index,uuid,memory.total,name", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=QUERY_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ", 3) for line in done.stdout.decode("utf-8", "replace").splitlines()]
    rows = [row for row in rows if len(row) == 4 and row[0].isdigit()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        wanted = [item.strip() for item in visible.split(",") if item.strip()]
        rows = [row for item in wanted for row in rows if item == row[0] or (len(item) > 4 and row[1].startswith(item))]
    return [Device(f"cuda:{number}", title, float(memory) if memory.isdigit() else None)
            for number, (_index, _uuid, memory, title) in enumerate(rows)]


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _ram_mib() -> float | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, ValueError):
        return None
