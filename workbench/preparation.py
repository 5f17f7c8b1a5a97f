"""准备一个数据集的进程：自成会话、输出进文件，与训练一样不怕应用离开。

启动界面用它开始、查看与取消。输出的文件在 `.nanogpt/` 里，由进程的标准输出带着锁：锁着就是还在跑，
所以重开应用也认得出上次开始的准备。
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from nanogpt.atomic import write_atomic
from nanogpt.dataset import check_dataset_name
from nanogpt.errors import BadInput
from nanogpt.i18n import _, language
from nanogpt.rundir import boot_id, process_start_time
from nanogpt.text import visible
from workbench.launch import command_line, prepare_command
from workbench.stop_run import is_same_process

TAIL_BYTES = 16384


class Preparation:
    """名为 `name` 的数据集的一次准备；进程可以是上一个应用开始的。`was_running`：上次看时还在跑。

    `arguments`：由自己的文本做时，`nanogpt.prepare` 在名字之后的参数。
    """

    def __init__(self, name: str, workspace: Path, arguments: Sequence[str] = ()):
        self.name, self.arguments = check_dataset_name(name), tuple(arguments)
        stem = "prepare-" + name.replace("/", "-")
        self.log = workspace / ".nanogpt" / f"{stem}.log"
        self._owner = self.log.with_suffix(".json")
        self.process: subprocess.Popen[bytes] | None = None
        self.is_cancelled = self.was_running = False

    def start(self) -> None:
        """开始；已经在跑、或写不了日志时抛出 `BadInput`。"""
        if self.is_running():
            raise BadInput("already_preparing", _("{name} is being prepared already").format(name=self.name),
                           str(self.log), _("wait for it, or cancel it"))
        command = prepare_command(self.name, *self.arguments)
        try:
            self.log.parent.mkdir(mode=0o700, exist_ok=True)
            fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BadInput("log_unusable", _("cannot write the log: {why}").format(why=error.strerror), str(self.log),
                           _("free some space, or make the folder writable")) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # 路径里可以有不是 UTF-8 的字节
            os.write(fd, f"$ {command_line(command)}\n".encode("utf-8", "surrogateescape"))
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=fd, stderr=fd,
                                            start_new_session=True,
                                            env={**os.environ, "NANOGPT_LANG": language(), "PYTHONUNBUFFERED": "1"})
        except OSError as error:
            raise BadInput("cannot_start", _("cannot start the command: {why}").format(why=error.strerror),
                           command_line(command), _("check this Python installation")) from error
        finally:
            os.close(fd)
        self.is_cancelled, self.was_running = False, True
        pid = self.process.pid
        # 进程可能已经结束：那时不会再给它发信号，记不下也无妨
        with contextlib.suppress(OSError):
            write_atomic(self._owner, json.dumps({"pid": pid, "pid_start_time": process_start_time(pid),
                                                  "boot_id": boot_id(), "host": socket.gethostname()}))

    def is_running(self) -> bool:
        """自己起的看进程，别人起的看锁。"""
        if self.process is not None:
            return self.process.poll() is None
        try:
            fd = os.open(self.log, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    def cancel(self) -> bool:
        """请整个会话结束，再按一次就强行结束；不能确认是它时什么也不发，返回 False。"""
        pid = self.process.pid if self.process is not None and self.process.poll() is None else self._recorded_pid()
        if pid is None:
            return False
        try:
            os.killpg(pid, signal.SIGKILL if self.is_cancelled else signal.SIGTERM)
        except (ProcessLookupError, PermissionError):
            return False
        self.is_cancelled = True
        return True

    def _recorded_pid(self) -> int | None:
        try:
            found = json.loads(self._owner.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found["pid"] if isinstance(found, dict) and self.is_running() and is_same_process(found) else None

    @property
    def exit_code(self) -> int | None:
        """自己起的进程的退出码；还在跑、或是别人起的，则 None。"""
        return None if self.process is None else self.process.poll()

    def tail(self, lines: int = 8) -> list[str]:
        """日志的最后几行，已净化；进度条用回车改写同一行，只留最后的样子。"""
        try:
            with open(self.log, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        found = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
        return [visible(line, keep="\t") for line in found if line.strip()][-lines:]
