"""本机此刻的负荷：CPU 与内存来自 `/proc`，GPU 来自 `nvidia-smi`；没有的不写。监视界面每隔几秒取一次。"""

import os
import shutil
import subprocess
from pathlib import Path

from nanogpt.i18n import _
from nanogpt.text import visible
from workbench.terminal import is_ascii_only

QUERY = "utilization.gpu,memory.used,memory.total,temperature.gpu,power.draw"
SMI_SECONDS = 3.0


def _cpu_times() -> tuple[float, float] | None:
    """（忙, 总）的时钟数。"""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
        values = [float(field) for field in fields]
        return sum(values) - values[3] - values[4], sum(values)
    except (OSError, ValueError, IndexError):
        return None


def _ram_gib() -> tuple[float, float] | None:
    """（用掉, 总）。"""
    try:
        rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        total, free = (float(rows[name].split()[0]) / 2**20 for name in ("MemTotal", "MemAvailable"))
        return total - free, total
    except (OSError, ValueError, KeyError, IndexError):
        return None


class MachineLoad:
    """`sample()` 给出一行，各段之间两个空格；CPU 是自上一次以来的。可能等 `nvidia-smi` 一两秒，放在线程里调用。"""

    def __init__(self) -> None:
        self._before = _cpu_times()
        self._smi = shutil.which("nvidia-smi")

    def sample(self) -> str:
        parts = []
        now = _cpu_times()
        if now and self._before and now[1] > self._before[1]:
            share = (now[0] - self._before[0]) / (now[1] - self._before[1])
            parts.append(_("CPU {share:.0%} of {count}").format(share=share, count=os.cpu_count() or 1))
        self._before = now
        if (ram := _ram_gib()) is not None:
            parts.append(_("RAM {used:.1f}/{total:.1f} GiB").format(used=ram[0], total=ram[1]))
        return "  ".join(parts + self._gpus())

    def _gpus(self) -> list[str]:
        if self._smi is None:
            return []
        command = [self._smi, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SMI_SECONDS,
                                  check=True)
        except (OSError, subprocess.SubprocessError):
            return []
        rows = [line.split(", ") for line in done.stdout.decode("utf-8", "replace").splitlines()]
        degrees = "C" if is_ascii_only() else "°C"
        return [visible("GPU {} {}% {}/{} MiB {}{} {} W".format(index, *row[:4], degrees, row[4]), keep="")
                for index, row in enumerate(rows) if len(row) == 5]
