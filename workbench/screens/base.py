"""各屏共有的：取文字、换语言、对运行做的事（停止、续训、删除……）。

`RunsScreen` 与 `MonitorScreen` 继承 `RunActions`，只要说出 `chosen_runs()` 是哪些。
能不能做只看 `run.status`；要不要写东西只看应用的只读。
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.binding import Binding, BindingType
from textual.screen import Screen

from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from workbench.messages import LanguageChanged, RunsUpdated
from workbench.screens.confirm import ConfirmScreen

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp
    from workbench.watched_run import WatchedRun

WRITING = ("stop", "resume", "kill", "delete", "sample", "new", "clone", "export", "note", "quick_start",
           "first_start")


class WorkbenchScreen(Screen[None]):
    """`renew()` 按现状重画一切，语言换了、有了新数据、重新露面时调用。"""

    # 过滤框不许自己抢走焦点：键都归这一屏
    AUTO_FOCUS = ""
    # 提示栏里从左到右的键（`Binding.id`）；空的就按 `BINDINGS`
    HINTS: tuple[str, ...] = ()

    @property
    def bench(self) -> WorkbenchApp:
        return cast("WorkbenchApp", self.app)

    def renew(self) -> None:
        raise NotImplementedError

    @on(RunsUpdated)
    def show_news(self, _message: RunsUpdated) -> None:
        self.renew()
        self.refresh_bindings()

    @on(LanguageChanged)
    def show_language(self) -> None:
        self.renew()
        self.refresh_bindings()

    def on_screen_resume(self) -> None:
        self.renew()
        self.refresh_bindings()


class RunActions(WorkbenchScreen):
    """对选中的运行做的事。"""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "stop", N_("stop"), id="run.stop",
                tooltip=N_("ask it to save and stop; if it does not, SIGTERM after 30 s, SIGKILL after 90 s")),
        Binding("r", "resume", N_("resume"), id="run.resume", tooltip=N_("go on from its checkpoint")),
        Binding("p", "sample", N_("sample"), id="run.sample", tooltip=N_("generate text from its checkpoint")),
        Binding("c", "clone", N_("clone"), show=False, id="run.clone",
                tooltip=N_("open the launch form with this run's settings")),
        Binding("y", "copy_command", N_("copy command"), show=False, id="run.copy",
                tooltip=N_("copy the command that makes this run; also written to a file")),
        Binding("K", "kill", N_("kill"), show=False, id="run.kill",
                tooltip=N_("SIGKILL, at once; steps since the last checkpoint are lost")),
        Binding("D", "delete", N_("delete"), show=False, id="run.delete", tooltip=N_("delete the run's directory")),
    ]

    def chosen_runs(self) -> list[WatchedRun]:
        raise NotImplementedError

    def check_action(self, action: str, _parameters: tuple[object, ...]) -> bool | None:
        if action in WRITING and self.bench.is_read_only:
            return False
        if action not in ("stop", "kill", "resume", "delete", "sample", "clone", "copy_command"):
            return True
        runs = self.chosen_runs()
        if action in ("stop", "kill"):
            return any(not run.has_ended for run in runs)
        if action in ("resume", "delete"):
            return any(run.has_ended for run in runs)
        return len(runs) == 1 if action in ("sample", "clone", "copy_command") else True

    def _confirm(self, question: str, detail: str, then: Callable[[WatchedRun], None],
                 runs: list[WatchedRun]) -> None:
        """答了「是」才逐个去做。"""
        def answered(is_yes: bool | None) -> None:
            for run in runs if is_yes else ():
                then(run)
            self.renew()

        self.app.push_screen(ConfirmScreen(question, detail), answered)

    def action_stop(self) -> None:
        runs = [run for run in self.chosen_runs() if not run.has_ended]
        if not runs:
            return
        self._confirm(_("Stop {names}?").format(names=names_of(runs)),
                      _("It saves a checkpoint first and can be resumed."),
                      self.bench.ask_to_stop, runs)

    def action_kill(self) -> None:
        runs = [run for run in self.chosen_runs() if not run.has_ended]
        if not runs:
            return
        self._confirm(_("Kill {names} at once?").format(names=names_of(runs)),
                      _("Steps since the last checkpoint are lost."), self._kill, runs)

    def _kill(self, run: WatchedRun) -> None:
        from workbench.stop_run import signal_holder

        if self.bench.refuse_if_read_only():
            return
        if signal_holder(run.out_dir, signal.SIGKILL):
            self.bench.say(_("Killed."))
        elif run.process is not None and run.process.poll() is None:
            # 自己的子进程，还没拿到锁
            run.process.kill()
            self.bench.say(_("Killed."))
        else:
            self.bench.say(_("Its process is not on this machine, or cannot be told apart: nothing was sent."), "error")

    def action_resume(self) -> None:
        from workbench.outcome import has_checkpoint

        runs = [run for run in self.chosen_runs() if run.has_ended]
        without = [run for run in runs if not has_checkpoint(run.out_dir)]
        if without:
            what = _("{names}: there is no checkpoint to resume from.")
            self.bench.say(what.format(names=names_of(without)), "error")
        ready = [run for run in runs if run not in without]
        done = [run for run in ready if (run.state.progress or 0.0) >= 1.0]
        for run in ready:
            if run not in done:
                self._resume(run, None)
        if done:
            most = done[0].state.max_iters or 0
            self._confirm(_("{names}: all {count} iterations are done. Train on?").format(
                names=names_of(done), count=most), _("It goes on to twice as many."),
                self._train_on, done)

    def _train_on(self, run: WatchedRun) -> None:
        self._resume(run, 2 * (run.state.max_iters or 0))

    def _resume(self, run: WatchedRun, max_iters: int | None) -> None:
        from workbench.launch import resume_command

        command = resume_command(run.out_dir, max_iters, run.state.world_size or 1, run.state.config)
        if self.bench.start_run(command, run.out_dir):
            self.bench.say(_("Resuming {name}").format(name=run.name))
            self.renew()

    def action_delete(self) -> None:
        runs = [run for run in self.chosen_runs() if run.has_ended]
        if not runs:
            return
        self._confirm(_("Delete {names}?").format(names=names_of(runs)),
                      _("Its log, checkpoints and samples are gone for good."), self._delete, runs)

    def _delete(self, run: WatchedRun) -> None:
        from workbench.delete_run import delete_run

        if self.bench.refuse_if_read_only():
            return
        try:
            delete_run(self.bench.workspace, run.out_dir)
        except (BadInput, OSError) as error:
            self.bench.say_error(error)
            return
        self.bench.store.forget(run.out_dir)
        self.bench.say(_("Deleted {name}").format(name=run.name))
        self.bench.poller.wake()

    def action_sample(self) -> None:
        from workbench.screens.sample import SampleScreen

        if not self.bench.refuse_if_read_only() and (runs := self.chosen_runs()):
            self.app.push_screen(SampleScreen(runs[0]))

    def action_clone(self) -> None:
        from workbench.screens.launch import LaunchScreen

        if not self.bench.refuse_if_read_only() and (runs := self.chosen_runs()):
            self.app.push_screen(LaunchScreen(clone_of=runs[0]))

    def action_copy_command(self) -> None:
        from workbench.launch import command_line
        from workbench.run_command import run_command

        if runs := self.chosen_runs():
            self.app.copy_to_clipboard(command_line(run_command(runs[0])))


def names_of(runs: list[WatchedRun]) -> str:
    return runs[0].name if len(runs) == 1 else _("{count} runs").format(count=len(runs))
