"""起一个真的进程，记下它每一行输出到达的时刻与内存峰值。

`benchmarks/` 里的每个脚本都由此起两边的进程：同一只外部的钟，不问各自打印的毫秒数。
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Finished:
    """结束了的进程。`lines` 是（起动之后的秒, 行）；`returncode` 为负时是被信号 -n 结束的。"""

    argv: list[str]
    returncode: int = 0
    wall_s: float = 0.0
    peak_rss_mib: float = 0.0
    timed_out: bool = False
    lines: list[tuple[float, str]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def tail(self, count: int = 6) -> str:
        return "\n".join(line for _, line in self.lines[-count:])


def environ() -> dict[str, str]:
    """两边相同的环境：仓库在 `PYTHONPATH` 上，英文，不缓冲。线程数不动。"""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "NANOGPT_LANG": "en"}


def run(argv: list[str], cwd: Path, timeout_s: float = 3600.0,
        on_line: Callable[[str, subprocess.Popen[str]], bool] | None = None) -> Finished:
    """在 `cwd` 运行 `argv` 到结束；`on_line` 收到每一行，返回 True 就立刻杀掉（要量的已经到手）。

    进程自成一组，连同编译用的子进程一并收走。父进程自己很小：内核把父进程的常驻内存
    当作子进程峰值的下限，所以这里不导入 `torch`。
    """
    finished = Finished(argv)
    began = time.perf_counter()
    process = subprocess.Popen(argv, cwd=cwd, env=environ(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
                               process_group=0)

    def give_up() -> None:
        finished.timed_out = True
        _kill_group(process.pid)

    timer = threading.Timer(timeout_s, give_up)
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            finished.lines.append((time.perf_counter() - began, line.rstrip("\n")))
            if on_line is not None and on_line(line, process):
                break
        else:
            # 输出已尽，等它自己退出；只有被叫停的才杀
            return _reap(process, finished, began)
        _kill_group(process.pid)
        return _reap(process, finished, began)
    finally:
        timer.cancel()
        _kill_group(process.pid)
        if process.returncode is None:
            _reap(process, finished, began)
        if process.stdout is not None:
            process.stdout.close()


def _reap(process: subprocess.Popen[str], finished: Finished, began: float) -> Finished:
    """用 `wait4` 收尸：只有它给出这一个子进程的内存峰值。"""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = finished.returncode = os.waitstatus_to_exitcode(status)
    finished.wall_s = time.perf_counter() - began
    # Linux 以 KiB 计，macOS 以字节计
    finished.peak_rss_mib = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return finished


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def cpu_seconds(pid: int) -> float | None:
    """进程至今用掉的 CPU 秒数（各线程合计）；没有 `/proc` 则 None。

    别人也在用的机器上，单线程时它比墙上的钟稳；多线程时空转等待也算在里面，不可比。
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
