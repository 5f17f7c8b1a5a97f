"""命令与进程：一次训练、采样、数据准备的确切命令，以及怎样把它作为独立的进程跑起来。

启动界面与快速上手都由这里得到命令；显示的命令就是要跑的命令，粘贴到 shell 里结果相同。
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanogpt.errors import BadInput
from nanogpt.i18n import _, language
from nanogpt.rundir import CONSOLE
from nanogpt.text import visible


def command_line(command: Sequence[str]) -> str:
    """可以原样粘贴到 shell 的写法，只含看得见的字符。"""
    return " ".join(map(shell_word, command))


def shell_word(word: str) -> str:
    """一个参数；看不见的字符用 `$'\\033'` 的写法（bash、zsh、ksh 与 POSIX 2024），粘贴之后一字不差。"""
    if visible(word, keep="") == word:
        return shlex.quote(word)
    return "$'" + "".join(map(_ansi_c, word)) + "'"


def _ansi_c(char: str) -> str:
    if char in "\\'":
        return "\\" + char
    if visible(char, keep="") == char:
        return char
    # 八进制总是三位，后面跟着数字也不会混；文件名里不成 UTF-8 的字节原样还回去
    raw = char.encode("utf-8", "surrogateescape" if "\udc80" <= char <= "\udcff" else "replace")
    return "".join(f"\\{byte:03o}" for byte in raw)


def python(*arguments: str) -> list[str]:
    """用同一个解释器；它在工作区之内就写相对路径，短一些也更好懂。"""
    executable, here = sys.executable, os.getcwd() + os.sep
    if executable.startswith(here):
        executable = executable.removeprefix(here)
    return [executable, *arguments]


@dataclass(frozen=True)
class LaunchPlan:
    """一次训练：预设（续训时为空）、改动的键、几个进程。`values` 的值是命令行上的写法。"""

    preset: str
    out_dir: str
    values: Mapping[str, str] = field(default_factory=dict)
    ranks: int = 1
    nodes: int = 1
    master_addr: str = "127.0.0.1"
    master_port: int = 29500
    has_infiniband: bool = True
    cuda_devices: str = ""

    def command(self, node_rank: int = 0) -> list[str]:
        """第 `node_rank` 台机器上要跑的命令。单机单进程不经过 `torchrun`。"""
        flags = [f"--{name}={value}" for name, value in self.values.items()]
        preset = [self.preset] if self.preset else []
        trainer = ["-m", "nanogpt.train", *preset, *flags, f"--out_dir={self.out_dir}"]
        if self.ranks == 1 and self.nodes == 1:
            return python(*trainer)
        launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={self.ranks}"]
        if self.nodes == 1:
            return python(*launcher, "--standalone", *trainer)
        place = [f"--nnodes={self.nodes}", f"--node_rank={node_rank}", f"--master_addr={self.master_addr}",
                 f"--master_port={self.master_port}"]
        return python(*launcher, *place, *trainer)

    def environment(self) -> dict[str, str]:
        """命令之前要设的环境变量：选了哪几块 GPU；没有 InfiniBand 时 NCCL 要被告知。"""
        devices = {"CUDA_VISIBLE_DEVICES": self.cuda_devices} if self.cuda_devices else {}
        return devices if self.has_infiniband or self.nodes == 1 else {**devices, "NCCL_IB_DISABLE": "1"}

    def node_lines(self) -> list[str]:
        """每台机器一行，可以粘贴到它的 shell。"""
        prefix = "".join(f"{name}={shlex.quote(value)} " for name, value in self.environment().items())
        return [prefix + command_line(self.command(node)) for node in range(self.nodes)]


def resume_command(out_dir: Path, max_iters: int | None = None, ranks: int = 1,
                   config: Mapping[str, Any] | None = None) -> list[str]:
    """从 `out_dir` 的检查点接着训练；那里的 `config.toml` 就是预设。`config` 是那次运行的，加长时要看它的学习率。"""
    values = {"init_from": "resume"} | ({} if max_iters is None else {"max_iters": str(max_iters)})
    if max_iters is not None and config is not None and config.get("decay_lr") and config.get("min_lr") == 0:
        # 已经降到零的学习率不会再学什么
        values["lr_decay_iters"] = str(max_iters)
    return LaunchPlan("", str(out_dir), values, ranks).command()


def sample_command(out_dir: Path, start: str, num_samples: int = 2, max_new_tokens: int = 300) -> list[str]:
    return python("-m", "nanogpt.sample", f"--out_dir={out_dir}", f"--num_samples={num_samples}",
                  f"--max_new_tokens={max_new_tokens}", f"--start={start}")


def prepare_command(name: str, *arguments: str) -> list[str]:
    """准备数据集 `name`：工作区自己的脚本，没有则用随包携带的；有 `arguments` 的由自己的文本做。"""
    script = Path("data", name, "prepare.py")
    if arguments:
        return python("-m", "nanogpt.prepare", name, *arguments)
    return python(str(script)) if script.is_file() else python("-m", "nanogpt.prepare", name)


def plot_command(out_dir: Path) -> list[str]:
    return python("-m", "workbench", "plot", str(out_dir))


def make_out_dir(name: str) -> Path:
    """`runs/<name>-<时间>`，0700；同一秒里的第二个加序号。"""
    wanted = Path("runs", f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    for attempt in range(1, 1000):
        out_dir = wanted if attempt == 1 else wanted.with_name(f"{wanted.name}-{attempt}")
        try:
            Path("runs").mkdir(mode=0o700, exist_ok=True)
            out_dir.mkdir(mode=0o700)
            out_dir.chmod(0o700)
            return out_dir
        except FileExistsError:
            continue
        except OSError as error:
            raise BadInput("out_dir_unusable", _("cannot make the run directory: {why}").format(why=error.strerror),
                           str(out_dir), _("run this in a folder that you can write to")) from error
    raise BadInput("out_dir_unusable", _("cannot find a free name for the run"), str(wanted), _("wait a second"))


def start(command: list[str], out_dir: Path) -> subprocess.Popen[bytes]:
    """训练器自成会话，输出进文件：本进程与终端没了它也照常跑完。它说话用界面此刻的语言。"""
    console = os.open(out_dir / CONSOLE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                                start_new_session=True, env={**os.environ, "NANOGPT_LANG": language()})
    finally:
        os.close(console)


def console_tail(out_dir: Path, lines: int = 15, max_bytes: int = 16384) -> str:
    """`console.log` 的最后几行，已净化；只读尾部，日志再大也不怕。"""
    try:
        with open(out_dir / CONSOLE, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - max_bytes))
            found = file.read().decode("utf-8", "replace").replace("\r", "\n").splitlines()
    except OSError:
        return ""
    return "\n".join(visible(line, keep="\t") for line in [line for line in found if line.strip()][-lines:])
