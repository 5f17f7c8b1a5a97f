"""运行目录（`out_dir`）：锁、`run.json`、`config.toml`、停止文件。

训练器在这里写，工作台与 `plot` 在这里读；两边都不需要 `torch`。文件一律 0600、目录
0700，不受 umask 影响。锁用 `flock`：进程一死内核就放开，所以锁着就是活着。
"""

import contextlib
import fcntl
import json
import os
import platform
import socket
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import tomlkit

from nanogpt.atomic import DISK_FULL, sweep_temp_files, write_atomic
from nanogpt.config import TrainConfig, saved_values
from nanogpt.errors import BadInput, OutOfResources, UserError
from nanogpt.events import EventWriter
from nanogpt.i18n import _
from nanogpt.options import options_of

CONFIG, RUN, EVENTS, CONSOLE = "config.toml", "run.json", "events.jsonl", "console.log"
CHECKPOINT, STOP, LOCK, TRACEBACK = "ckpt.pt", "stop", "lock", "traceback.txt"
# 锁被占时再试这么多次：查看「谁占着」的一方会把它借走一瞬间，刚拿到它的一方还没写下自己的名字
_LOCK_TRIES, _LOCK_WAIT_S = 20, 0.02


def boot_id() -> str:
    """这次开机的标识：pid 与开始时间只在同一次开机内可比。没有则空。"""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def process_start_time(pid: int) -> float | None:
    """进程的开始时间（开机以来的秒）；没有这个进程、或系统没有 `/proc` 则 None。"""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def identity() -> dict[str, Any]:
    """本进程是谁：pid 单独不可信，所以连同开始时间、开机标识与主机名。"""
    return {"pid": os.getpid(), "pid_start_time": process_start_time(os.getpid()),
            "boot_id": boot_id(), "host": socket.gethostname()}


def git_commit() -> str | None:
    """代码所在仓库的提交；直接读 `.git`，不起子进程。不是仓库则 None。"""
    git = Path(__file__).parents[1] / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head
        ref = git / head[5:]
        if ref.is_file():
            return ref.read_text(encoding="utf-8").strip()
        packed = (git / "packed-refs").read_text(encoding="utf-8").splitlines()
        return next((line.split()[0] for line in packed if line.endswith(head[5:])), None)
    except (OSError, IndexError):
        return None


def holder(out_dir: Path) -> dict[str, Any] | None:
    """占着 `out_dir` 的训练器（`pid`、`host` 等，读不出则为空表）；没人占着则 None。"""
    try:
        fd = os.open(out_dir / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        try:
            found = json.loads(os.read(fd, 4096))
        except (OSError, ValueError):
            found = {}
        return found if isinstance(found, dict) else {}
    finally:
        os.close(fd)
    return None


def _unusable(error: OSError, out_dir: str) -> UserError:
    """目录写不进去，变成能向用户解释的错误：磁盘满是一种，别的都算目录选得不对。"""
    if error.errno in DISK_FULL:
        return OutOfResources("disk_full", _("cannot write to the run directory: {why}").format(why=_("disk full")),
                              out_dir, _("free some space, or choose another with --out_dir"))
    return BadInput("out_dir_unusable", _("cannot write to the run directory: {why}").format(
        why=error.strerror or str(error)), out_dir, _("choose another with --out_dir"))


class RunDir:
    """一次运行的目录，由活着的训练器持有。只有 rank 0 有它。"""

    def __init__(self, out_dir: str):
        self.path, self._began = Path(out_dir), time.time()
        try:
            missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
            for folder in reversed(missing):
                folder.mkdir(mode=0o700, exist_ok=True)
            self._lock_fd = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            self._lock()
        except OSError as error:
            raise _unusable(error, out_dir) from error
        self.events: EventWriter | None = None

    def _lock(self) -> None:
        """锁住目录并写下自己是谁；别人占着则 `BadInput`。"""
        for _attempt in range(_LOCK_TRIES):
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOCK_WAIT_S)
        else:
            other = holder(self.path) or {}
            os.close(self._lock_fd)
            what = _("another trainer is using this run directory: pid {pid} on {host}").format(
                pid=other.get("pid", "?"), host=other.get("host", "?"))
            raise BadInput("out_dir_locked", what, str(self.path),
                           _("wait for it, stop it, or choose another with --out_dir"))
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, json.dumps(identity()).encode(), 0)

    def has_run(self) -> bool:
        """这里已有一次训练（我们的或 nanoGPT 的）。"""
        return any((self.path / name).exists() for name in (CHECKPOINT, EVENTS))

    def refuse_earlier_run(self) -> None:
        """从头训练不许盖掉已有的运行。"""
        if self.has_run():
            raise BadInput("out_dir_occupied", _("there is already a run here"), str(self.path),
                           _("--init_from=resume goes on with it, --overwrite deletes it, --out_dir goes elsewhere"))

    def delete_earlier_run(self) -> None:
        """`--overwrite`：删掉旧运行的文件。`console.log` 正被本进程的启动者写着，留下。"""
        for path in [*self.path.glob("ckpt*.pt"), *(self.path / n for n in (EVENTS, CONFIG, RUN, TRACEBACK))]:
            path.unlink(missing_ok=True)

    def open(self, config: TrainConfig, description: dict[str, Any]) -> None:
        """清扫旧的临时文件与停止文件，写 `config.toml`、`run.json`，打开事件流。"""
        try:
            sweep_temp_files(self.path)
            self._drop_stale_stop()
            if not (config.eval_only and self.has_run()):
                write_config(self.path / CONFIG, config)
                write_atomic(self.path / RUN, json.dumps(
                    {**identity(), "started": time.time(), "argv": sys.argv, "git_commit": git_commit(),
                     "python": platform.python_version(), **description}, indent=1, ensure_ascii=False) + "\n")
            self.events = EventWriter(self.path / EVENTS)
        except OSError as error:
            raise _unusable(error, str(self.path)) from error

    def stop_requested(self) -> bool:
        return (self.path / STOP).exists()

    def _drop_stale_stop(self) -> None:
        """丢掉上一次运行剩下的停止文件；载入 `torch` 的几秒里新来的请求留着，第一步之前就照办。"""
        with contextlib.suppress(FileNotFoundError):
            if (self.path / STOP).stat().st_mtime < self._began:
                self.take_stop()

    def take_stop(self) -> None:
        """收下停止文件：已经照办。"""
        (self.path / STOP).unlink(missing_ok=True)

    def close(self) -> None:
        """放开目录。锁文件留着：删掉它会让正等着它的另一个进程锁住一个已不在目录里的文件。"""
        if self.events is not None:
            self.events.close()
        os.close(self._lock_fd)


def write_config(path: Path, config: TrainConfig) -> None:
    """把解析后的配置写成 TOML；它本身就是一个合法的预设。"""
    options, values = options_of(type(config)), saved_values(config)
    document, group = tomlkit.document(), None
    for field in fields(config):
        if field.name in values:
            if options[field.name].group != group:
                group = options[field.name].group
                document.add(tomlkit.comment(group))
            document.add(field.name, values[field.name])
    write_atomic(path, tomlkit.dumps(document))
