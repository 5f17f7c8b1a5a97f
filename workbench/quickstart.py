"""没有界面的快速上手：备好数据、训练、画图、采样；`make run` 在没有终端时走这里。

由 `workbench.__main__` 调用。每一步都是一条打印出来、可以粘贴的命令，训练是独立的进程。
"""

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.rundir import CONSOLE, EVENTS, STOP
from workbench.launch import (
    LaunchPlan,
    command_line,
    console_tail,
    make_out_dir,
    plot_command,
    prepare_command,
    resume_command,
    sample_command,
    start,
)
from workbench.plot import Screen, progress_line, render
from workbench.run_state import RunState
from workbench.watched_run import WatchedRun, open_run

DATASET = Path("data", "python_stdlib")
PROMPT = "def "


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


def watch(process: subprocess.Popen[bytes], out_dir: Path, stops: StopSignals, period_seconds: float) -> int | None:
    """等训练结束，其间隔一阵打印一行进度；返回退出码，被要求不再等时返回 None。"""
    run: WatchedRun | None = None
    is_asked, seen, last_said = False, "", time.monotonic()
    while (code := process.poll()) is None:
        if run is None and (out_dir / EVENTS).is_file():
            run = open_run(out_dir)
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
    return run_step(prepare_command(DATASET.name), stops)


def train(out_dir: Path, extra_args: Sequence[str], stops: StopSignals, period_seconds: float) -> int | None:
    command = [*LaunchPlan("quickstart", str(out_dir)).command(), *extra_args]
    say()
    say(_("2. Training a small GPT; its output goes to {file}").format(file=out_dir / CONSOLE))
    say(f"$ {command_line(command)}")
    code = watch(start(command, out_dir), out_dir, stops, period_seconds)
    if code is not None and code != 0:
        say(_("the trainer ended with exit code {code}; the end of its output:").format(code=code))
        say(console_tail(out_dir))
        # 被信号杀死时 `Popen` 给负数，按 shell 的惯例报告。
        return 128 - code if code < 0 else code
    return code


def say_summary(out_dir: Path, state: RunState) -> None:
    # 练完了的要再练，得给它更多的步数。
    more = 2 * state.max_iters if state.status == "finished" and state.max_iters is not None else None
    say()
    say(_("The run is in {folder}. To go on from here:").format(folder=out_dir))
    for label, command in ((_("resume"), resume_command(out_dir, more, config=state.config)),
                           (_("sample"), sample_command(out_dir, PROMPT)),
                           (_("plot"), plot_command(out_dir))):
        say(f"  # {label}\n  {command_line(command)}")


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
        out_dir = make_out_dir("quickstart")
        trained = train(out_dir, extra_args, stops, period_seconds)
        if trained is None:
            say(_("left running; watch it with:"))
            say(f"  {command_line(plot_command(out_dir))}")
            return 0
        if trained:
            return trained
        run = open_run(out_dir)
        run.refresh()
        say()
        say(_("3. The loss curve"))
        say(render([run], Screen()))
        if not stops.count:
            say()
            say(_("4. Samples from the trained model"))
            code = run_step(sample_command(out_dir, PROMPT), stops)
            if code and not stops.count:
                say(_("sampling ended with exit code {code}").format(code=code))
        say_summary(out_dir, run.state)
        return 0 if stops.count else (128 - code if code < 0 else code)
