"""应用本身：语言、全局的键、轮询者，以及启动进程的唯一入口。各屏在 `screens/`。

退出就是离开：从不停止任何运行。不导入 torch；numpy 与 plotext 在第一帧之后才导入。
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.events import Event, Paste
from textual.filter import LineFilter
from textual.screen import Screen

from nanogpt.errors import UserError
from nanogpt.i18n import LANGUAGES, N_, _, language, use_language
from nanogpt.text import visible
from workbench.messages import LanguageChanged, RunsUpdated
from workbench.poller import Poller
from workbench.safe_lines import SafeLines
from workbench.screens.runs import RunsScreen
from workbench.terminal import is_ascii_only, is_remote, wants_mouse
from workbench.widgets.hint_bar import bindings_of, key_name

if TYPE_CHECKING:
    from workbench.playground.session import Playground
    from workbench.run_store import RunStore
    from workbench.stop_run import StopEscalation
    from workbench.watched_run import WatchedRun

POLL_SECONDS, REMOTE_POLL_SECONDS = 0.5, 1.0
SWITCH_SECONDS = 0.001


class WorkbenchApp(App[None]):
    """`workspace` 应是当前目录（命令里的路径相对于它）。`is_read_only`：什么也不启动、停止、删除、写入。"""

    CSS_PATH = "workbench.tcss"
    TITLE = "nanogpt-workbench"
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "ctrl+p"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark,f1", "show_help", N_("help"), show=False, id="app.help",
                tooltip=N_("the keys of this screen")),
        Binding("q", "quit", N_("quit"), id="app.quit",
                tooltip=N_("leave; runs go on, and opening the workbench again shows them")),
        Binding("ctrl+l", "switch_language", N_("中文/English"), show=False, id="app.language", priority=True,
                tooltip=N_("switch the language of the interface")),
        Binding("ctrl+p", "command_palette", N_("commands"), show=False, id="app.palette", priority=True,
                tooltip=N_("search every action of this screen")),
        Binding("f2", "switch_mouse", N_("mouse"), show=False, id="app.mouse", priority=True,
                tooltip=N_("mouse on or off; while it is off the terminal's own selection works")),
        Binding("f3", "switch_profile", N_("sparing"), show=False, id="app.profile", priority=True,
                tooltip=N_("fewer redraws for a slow line; on by itself over SSH")),
        Binding("ctrl+t", "change_theme", N_("theme"), show=False, id="app.theme", tooltip=N_("choose the colours")),
    ]

    def __init__(self, workspace: Path, is_read_only: bool = False):
        super().__init__()
        self.workspace, self.is_read_only = workspace, is_read_only
        self.is_remote, self.is_ascii, self.has_mouse = is_remote(), is_ascii_only(), wants_mouse()
        self.key_problems: list[str] = []
        self._safe_lines = SafeLines()
        self.stops: dict[Path, StopEscalation] = {}
        self.stop_notes: dict[Path, str] = {}
        # 采样界面的对话：离开再回来还在；进程由界面起与杀
        self.playground: Playground | None = None
        self.poller = Poller(workspace, self.post_message, POLL_SECONDS)

    # ---- 生命 ----

    def on_mount(self) -> None:
        self._apply_profile()
        self.set_class(self.is_ascii, "-ascii")
        self.push_screen(RunsScreen())
        self.call_after_refresh(self._after_first_frame)

    def _after_first_frame(self) -> None:
        self.poller.start()
        self.run_worker(self._read_keys(), group="keys")

    async def _read_keys(self) -> None:
        """用户自己的键；没有这个文件就什么也不导入。"""
        from workbench.keymap import keys_file, read_keys

        path = keys_file()
        if not path.exists():
            return
        keymap, self.key_problems = await asyncio.to_thread(read_keys, path)
        self.set_keymap(keymap)
        for problem in self.key_problems[:5]:
            self.say(f"{path}: {problem}", "warning", 15.0)

    def _apply_profile(self) -> None:
        """远程时省着用：看得疏一些，没有动画。"""
        self.animation_level = "none" if self.is_remote else "full"
        self.poller.period_seconds = REMOTE_POLL_SECONDS if self.is_remote else POLL_SECONDS

    def on_unmount(self) -> None:
        self.poller.stop()

    def on_runs_updated(self, message: RunsUpdated) -> None:
        self._step_stops()
        for screen in self.screen_stack:
            if screen.is_active:
                screen.post_message(RunsUpdated(message.is_list_changed, message.changed))

    # ---- 运行 ----

    @property
    def store(self) -> RunStore:
        """全部运行；轮询还没开始时是一个空的。"""
        from workbench.run_store import RunStore

        found = self.poller.store
        return found if isinstance(found, RunStore) else RunStore(self.workspace)

    @property
    def is_loaded(self) -> bool:
        """至少看过一遍工作区。"""
        return self.poller.store is not None

    def refuse_if_read_only(self) -> bool:
        if self.is_read_only:
            self.say(_("This is a read-only view: nothing is started, stopped, deleted or written."), "warning")
        return self.is_read_only

    def start_run(self, command: list[str], out_dir: Path) -> bool:
        """作为独立的进程跑起 `command`；返回是否跑起来了。"""
        from workbench import launch

        if self.refuse_if_read_only():
            return False
        try:
            process = launch.start(command, out_dir)
        except OSError as error:
            self.say(_("Cannot start it: {why}").format(why=error.strerror or error), "error")
            return False
        self.stop_notes.pop(out_dir, None)
        self.store.ensure(out_dir).launched(process)
        self.poller.wake()
        return True

    def open_monitor(self, out_dir: Path) -> None:
        self.open_monitor_of([self.store.ensure(out_dir)])

    def open_monitor_of(self, runs: list[WatchedRun]) -> None:
        from workbench.screens.monitor import MonitorScreen

        while len(self.screen_stack) > 1 and not isinstance(self.screen, RunsScreen):
            self.pop_screen()
        self.push_screen(MonitorScreen(runs))

    def ask_to_stop(self, run: WatchedRun) -> None:
        """放下停止文件并开始计时；之后由每次轮询逐级加重。"""
        from workbench.stop_run import ASKED, StopEscalation

        if self.refuse_if_read_only() or run.has_ended or run.out_dir in self.stops:
            return
        try:
            self.stops[run.out_dir] = StopEscalation(run.out_dir)
        except OSError as error:
            self.say(_("Cannot ask it to stop: {why}").format(why=error.strerror or error), "error")
            return
        self._note_stop(run.out_dir, ASKED)

    def _step_stops(self) -> None:
        from workbench.stop_run import KILLED

        runs = self.store.runs
        for out_dir, escalation in list(self.stops.items()):
            run = runs.get(out_dir)
            if run is None or run.has_ended:
                del self.stops[out_dir]
                # 是我们杀的就一直写着，到它再跑起来为止
                if self.stop_notes.get(out_dir) != KILLED:
                    self.stop_notes.pop(out_dir, None)
            elif happened := escalation.step():
                self._note_stop(out_dir, happened)

    def _note_stop(self, out_dir: Path, what: str) -> None:
        self.stop_notes[out_dir] = what
        self.say(f"{visible(out_dir.name, keep='')}: {_(what)}")

    # ---- 外来的文字 ----

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [*super().get_line_filters(), self._safe_lines]

    async def on_event(self, event: Event) -> None:
        """粘贴来的控制字符写成看得见的样子，再交给输入框；终端在粘贴里用回车换行。"""
        if isinstance(event, Paste) and not event.is_forwarded:
            event.text = visible(event.text.replace("\r\n", "\n").replace("\r", "\n"))
        await super().on_event(event)

    # ---- 说话 ----

    def say(self, text: str, severity: Any = "information", seconds: float = 6.0) -> None:
        """角上的一条短信；`text` 里外来的部分在这里净化，从不当作标记。"""
        self.notify(visible(text), severity=severity, timeout=seconds, markup=False)

    def say_error(self, error: UserError | OSError) -> None:
        text = str(error) if isinstance(error, UserError) else error.strerror or str(error)
        self.say(text, "error", 10.0)

    def copy_to_clipboard(self, text: str) -> None:
        """OSC 52（隔着 tmux 也行），并存一份文件；只读时不写文件。"""
        from workbench.clipboard import osc52, save_copy

        self._clipboard = text
        if self._driver is not None:
            self._driver.write(osc52(text))
        if self.is_read_only:
            self.say(_("Copied."))
            return
        try:
            self.say(_("Copied; also in {path}").format(path=save_copy(text)))
        except OSError as error:
            self.say(_("Copied; the file could not be written: {why}").format(why=error.strerror), "warning")

    # ---- 全局的键 ----

    def action_show_help(self) -> None:
        from workbench.screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(bindings_of(self.screen), self.key_problems))

    def action_switch_language(self) -> None:
        use_language(LANGUAGES[(LANGUAGES.index(language()) + 1) % len(LANGUAGES)])
        for screen in self.screen_stack:
            screen.post_message(LanguageChanged())
            screen.refresh_bindings()

    def action_switch_mouse(self) -> None:
        self.has_mouse = not self.has_mouse
        self._tell_driver()
        self.say(_("The mouse is on.") if self.has_mouse else
                 _("The mouse is off: select text with the terminal itself."), seconds=4.0)

    def _tell_driver(self) -> None:
        # Textual 只在启动时决定用不用鼠标；退出时它按这个记号收尾
        driver: Any = self._driver
        if hasattr(driver, "_enable_mouse_support"):
            if not self.has_mouse:
                driver._disable_mouse_support()
            driver._mouse = self.has_mouse
            if self.has_mouse:
                driver._enable_mouse_support()

    def action_switch_profile(self) -> None:
        self.is_remote = not self.is_remote
        self._apply_profile()
        self.say(_("Sparing: the screen is redrawn less often.") if self.is_remote else
                 _("The screen is redrawn as often as usual."), seconds=4.0)
        for screen in self.screen_stack:
            screen.post_message(RunsUpdated(False, set()))

    def action_help_quit(self) -> None:
        """Ctrl+C 从不结束应用：很容易是手滑。"""
        self.say(_("q quits; runs go on without the workbench."), seconds=4.0)

    def action_command_palette(self) -> None:
        from textual.command import CommandPalette

        if not isinstance(self.screen, CommandPalette):
            self.push_screen(CommandPalette(placeholder=_("search for a command"), id="--command-palette"))

    def action_change_theme(self) -> None:
        from textual.command import CommandPalette
        from textual.theme import ThemeProvider

        self.push_screen(CommandPalette(providers=[ThemeProvider], placeholder=_("search for a theme")))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """命令面板：当前屏此刻可用的每个动作，名字与说明同键的一样；藏在别的页上的也在。"""
        from workbench.keymap import own_bindings

        # 正在打字时，字母键此刻不算数，动作还是在的
        hidden: list[tuple[Binding, Any, str]] = [*getattr(screen, "hidden_bindings", list)(), *(
            (binding, node, "") for node in (screen, self) for binding in own_bindings(type(node))
            if self._check_action_state(binding.action, node))]
        rows = [(binding, keys, node, "") for binding, keys, is_enabled, node in bindings_of(screen) if is_enabled]
        seen = {binding.id for binding, *_rest in rows}
        rows += [(binding, binding.key.split(","), node, page) for binding, node, page in hidden
                 if binding.id not in seen]
        for binding, keys, node, page in rows:
            if binding.action != "command_palette":
                # Textual 把说明当标记解析，所以不用方括号，并躲开键名里的
                shown = " ".join(key_name(key) for key in keys[:2]).replace("[", "\\[")
                about = f"{_(binding.tooltip)} ({shown})"
                yield SystemCommand(_(binding.description), about, self._runner(binding.action, node, page))

    def _runner(self, action: str, node: Any, page: str) -> Any:
        async def run() -> None:
            if page:
                await self.run_action(f"show_tab('{page}')", self.screen)
            await self.run_action(action, node)

        return run


def run_app(is_read_only: bool) -> int:
    """打开应用直到用户离开；返回退出码。"""
    # 读大日志的线程与界面抢解释器：切得勤一些，按键才不等
    sys.setswitchinterval(SWITCH_SECONDS)
    # 终端没了就结束：经 `nohup` 一类继承来的忽略，会让应用对着没了的终端空转
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    app = WorkbenchApp(Path(), is_read_only)
    app.run(mouse=app.has_mouse)
    return app.return_code or 0
