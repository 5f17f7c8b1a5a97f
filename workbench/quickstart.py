"""没有界面的快速上手：备好数据、训练、画图、采样；`make run` 在没有终端时走这里。

由 `workbench.__main__` 调用。每一步都是一条打印出来、可以粘贴的命令，训练是独立的进程。
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.rundir import CONSOLE, EVENTS, STOP
from nanogpt.text import visible
from workbench.plot import Screen, WatchedRun, progress_line, render
from workbench.run_state import RunState

DATASET = Path("data", "python_stdlib")
PROMPT = "def "
TAIL_LINES = 15


def command_line(command: Sequence[str]) -> str:
    """可以原样粘贴到 shell 的写法。"""
    return visible(shlex.join(command), keep="")


def python(*arguments: str) -> list[str]:
    """用同一个解释器；它在工作区之内就写相对路径，短一些也更好懂。"""
    executable, here = sys.executable, os.getcwd() + os.sep
    if executable.startswith(here):
        executable = executable.removeprefix(here)
    return [executable, *arguments]


def is_prepared(folder: Path) -> bool:
    files = [folder / name for name in ("train.bin", "val.bin", "meta.json")]
    return all(file.is_file() and file.stat().st_size > 0 for file in files)


class StopSignals:
    """SIGINT 与 SIGTERM 到来时记一笔，由等待的循环去办；第二次就不再等。"""

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1


def say(text: str = "") -> None:
    print(text, flush=True)


def run_step(command: list[str], stops: StopSignals) -> int:
    """跑一条很快就完的命令，输出直接给用户；被要求停止时终止它。"""
    say(f"$ {command_line(command)}")
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while True:
        try:
            return process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            if stops.count:
                process.terminate()


def make_out_dir() -> Path:
    """`runs/quickstart-<时间>`，0700；同一秒里的第二个加序号。"""
    name = Path("runs", time.strftime("quickstart-%Y%m%d-%H%M%S"))
    for attempt in range(1, 1000):
        out_dir = name if attempt == 1 else name.with_name(f"{name.name}-{attempt}")
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
    raise BadInput("out_dir_unusable", _("cannot find a free name for the run"), str(name), _("wait a second"))


def launch(command: list[str], out_dir: Path) -> subprocess.Popen[bytes]:
    """训练器自成会话，输出进文件：本进程与终端没了它也照常跑完。"""
    console = os.open(out_dir / CONSOLE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                                start_new_session=True)
    finally:
        os.close(console)


def console_tail(out_dir: Path) -> str:
    """`console.log` 的最后几行，已净化；只读尾部，日志再大也不怕。"""
    try:
        with open(out_dir / CONSOLE, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16384))
            lines = file.read().decode("utf-8", "replace").replace("\r", "\n").splitlines()
    except OSError:
        return ""
    return "\n".join(visible(line, keep="\t") for line in [line for line in lines if line.strip()][-TAIL_LINES:])


def watch(process: subprocess.Popen[bytes], out_dir: Path, stops: StopSignals, period_seconds: float) -> int | None:
    """等训练结束，其间隔一阵打印一行进度；返回退出码，被要求不再等时返回 None。"""
    run: WatchedRun | None = None
    is_asked, seen, last_said = False, "", time.monotonic()
    while (code := process.poll()) is None:
        if run is None and (out_dir / EVENTS).is_file():
            run = WatchedRun(out_dir)
        if run is not None:
            run.refresh()
        # 训练器启动时会清掉旧的停止文件，所以等它写出 `start` 才放新的。
        if stops.count and not is_asked and run is not None and run.state.version:
            (out_dir / STOP).touch(mode=0o600)
            is_asked = True
            say(_("stopping: waiting for the trainer to save a checkpoint (once more: leave it running)"))
        if stops.count > 1:
            return None
        if run is not None and run.state.iter_count and time.monotonic() - last_said >= period_seconds:
            line = "  " + progress_line(run.state)
            if line != seen:
                say(line)
            seen, last_said = line, time.monotonic()
        time.sleep(0.2)
    if is_asked:
        (out_dir / STOP).unlink(missing_ok=True)
    return code


def prepare(stops: StopSignals) -> int:
    say(_("1. Dataset: {folder}, from the source of Python's own standard library").format(folder=DATASET))
    if is_prepared(DATASET):
        say(_("   already prepared"))
        return 0
    script = DATASET / "prepare.py"
    return run_step(python(str(script)) if script.is_file() else python("-m", "nanogpt.prepare", DATASET.name), stops)


def train(out_dir: Path, extra_args: Sequence[str], stops: StopSignals, period_seconds: float) -> int | None:
    command = python("-m", "nanogpt.train", "quickstart", f"--out_dir={out_dir}", *extra_args)
    say()
    say(_("2. Training a small GPT; its output goes to {file}").format(file=out_dir / CONSOLE))
    say(f"$ {command_line(command)}")
    code = watch(launch(command, out_dir), out_dir, stops, period_seconds)
    if code is not None and code != 0:
        say(_("the trainer ended with exit code {code}; the end of its output:").format(code=code))
        say(console_tail(out_dir))
        # 被信号杀死时 `Popen` 给负数，按 shell 的惯例报告。
        return 128 - code if code < 0 else code
    return code


def resume_command(out_dir: Path, state: RunState) -> list[str]:
    command = python("-m", "nanogpt.train", "--init_from=resume", f"--out_dir={out_dir}")
    if state.status == "finished" and state.max_iters is not None:
        # 练完了的要再练，得给它更多的步数。
        command.append(f"--max_iters={2 * state.max_iters}")
    return command


def say_summary(out_dir: Path, state: RunState) -> None:
    say()
    say(_("The run is in {folder}. To go on from here:").format(folder=out_dir))
    for label, command in ((_("resume"), resume_command(out_dir, state)), (_("sample"), sample_command(out_dir)),
                           (_("plot"), python("-m", "workbench", "plot", str(out_dir)))):
        say(f"  # {label}\n  {command_line(command)}")


def sample_command(out_dir: Path) -> list[str]:
    return python("-m", "nanogpt.sample", f"--out_dir={out_dir}", "--num_samples=2", "--max_new_tokens=300",
                  f"--start={PROMPT}")


def quickstart(extra_args: Sequence[str] = (), period_seconds: float = 10.0) -> int:
    """从头到尾做一遍；返回第一个失败步骤的退出码。`extra_args` 原样交给训练器。"""
    for argument in extra_args:
        if argument.lstrip("-").split("=")[0] == "out_dir":
            raise BadInput("bad_argument", _("the quick start chooses its own run directory"), argument,
                           _("leave --out_dir out, or run `python -m nanogpt.train quickstart` yourself"))
    with StopSignals() as stops:
        code = prepare(stops)
        if code or stops.count:
            return 0 if stops.count else code
        out_dir = make_out_dir()
        trained = train(out_dir, extra_args, stops, period_seconds)
        if trained is None:
            say(_("left running; watch it with:"))
            say(f"  {command_line(python('-m', 'workbench', 'plot', str(out_dir)))}")
            return 0
        if trained:
            return trained
        run = WatchedRun(out_dir)
        run.refresh()
        say()
        say(_("3. The loss curve"))
        say(render([run], Screen()))
        if not stops.count:
            say()
            say(_("4. Samples from the trained model"))
            code = run_step(sample_command(out_dir), stops)
            if code and not stops.count:
                say(_("sampling ended with exit code {code}").format(code=code))
        say_summary(out_dir, run.state)
        return 0 if stops.count else (128 - code if code < 0 else code)
