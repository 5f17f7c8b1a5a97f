"""应用的整体：首页、语言、帮助、命令面板、只读、敌意的文字、删除。每个约 1 s。"""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pilot import drive, screen_text, see, until, write_run

from nanogpt import i18n
from workbench.app import WorkbenchApp
from workbench.delete_run import delete_run
from workbench.screens.confirm import ConfirmScreen
from workbench.screens.help import HelpScreen
from workbench.screens.runs import RunsScreen
from workbench.widgets.hint_bar import HintBar

HOSTILE = "[/bold][@click=app.quit()]x[/] \x1b]52;c;aGk=\x07 \x1b[31m \u202egnp.exe \x9b5m"


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("NO_COLOR", "SSH_CONNECTION", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))


def test_empty_workspace_offers_the_quick_start(tmp_path: Path) -> None:
    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "No runs here yet", "Press enter", "enter  quick start")
        # 没有运行时，对运行做的事都不提
        assert not any(word in screen_text(app) for word in ("filter", "mark", "resume"))
        assert isinstance(app.screen, RunsScreen)

    drive(tmp_path, scenario)


@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
def test_every_run_is_listed_with_its_outcome(tmp_path: Path, size: tuple[int, int]) -> None:
    write_run(tmp_path / "runs" / "alpha")
    write_run(tmp_path / "runs" / "beta", status="diverged")
    write_run(tmp_path / "out-gone", status=None)

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "alpha", "beta", "out-gone", "finished", "diverged", "interrupted")
        assert all(len(line) <= size[0] for line in screen_text(app).split("\n"))
        if size[0] == 200:
            await see(pilot, "loss curve")

    drive(tmp_path, scenario, size)


def test_rows_are_updated_in_place(tmp_path: Path) -> None:
    """新的事件改的是同一行，光标与标记不动。"""
    from nanogpt.events import EventWriter

    write_run(tmp_path / "runs" / "alpha")
    write_run(tmp_path / "runs" / "beta", status=None)

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "alpha", "beta")
        screen = app.screen
        await until(pilot, lambda: screen._table is not None and len(screen._table.runs) == 2)
        table = screen._table
        table.cursor = next(i for i, run in enumerate(table.runs) if run.name == "beta")
        await pilot.press("space")
        writer = EventWriter(tmp_path / "runs" / "beta" / "events.jsonl")
        writer.emit("iter", iter=19, loss=1.2345, lr=1e-3, grad_norm=1.0, iter_ms=1.0, tokens_per_second=1.0,
                    mfu=None, memory_mib=1.0)
        writer.close()
        await see(pilot, "1.2345")
        assert screen._table is table and table.marked == {Path("runs/beta")}

    drive(tmp_path, scenario)


def test_filter_sort_and_help(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "alpha", learning_rate=3e-3)
    write_run(tmp_path / "runs" / "beta")

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "alpha", "beta")
        await pilot.press("slash", *"learning_rate>0.002", "enter")
        await until(pilot, lambda: "beta" not in screen_text(app).split("──")[0])
        assert "alpha" in screen_text(app)
        await pilot.press("escape")
        await see(pilot, "beta")
        await pilot.press("slash", *"nosuchkey>1")
        await until(pilot, lambda: app.screen.problem)
        await pilot.press("escape", "o")
        await see(pilot, "  name")
        table = app.screen._table
        assert [run.name for run in table.runs] == ["alpha", "beta"]
        await pilot.press("O")
        await see(pilot, "(reversed)")
        assert [run.name for run in table.runs] == ["beta", "alpha"]
        # 按配置键排，打字的同时就排好
        await pilot.press("slash", *"sort:-learning_rate")
        await until(pilot, lambda: [run.name for run in table.runs] == ["alpha", "beta"])
        await pilot.press("enter", "escape")
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await see(pilot, "open", "mark")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))

    drive(tmp_path, scenario)


def test_bindings_say_what_they_do() -> None:
    """每个绑定都有编号、名字、说明。"""
    from workbench.keymap import contexts, own_bindings

    for owner in {owner for group in contexts() for owner in group}:
        for binding in own_bindings(owner):
            assert binding.id and binding.description and binding.tooltip, (owner, binding)


def test_the_palette_has_every_action_of_every_screen(tmp_path: Path) -> None:
    """列表、监视、启动（翻在哪一页都一样）、采样：此刻可用的每个绑定都在命令面板里，不可用的都不在。"""
    from workbench.keymap import contexts, own_bindings
    from workbench.screens.launch import LaunchScreen
    from workbench.screens.monitor import MonitorScreen
    from workbench.screens.sample import SampleScreen

    write_run(tmp_path / "runs" / "alpha")
    # 已结束的运行没有可停的；有了运行就没有「第一次」；没有在准备的就没有可取消的
    absent = {RunsScreen: {"run.stop", "run.kill", "runs.first_start"}, MonitorScreen: {"run.stop", "run.kill"},
              LaunchScreen: {"dataset.cancel", "launch.nodes"}, SampleScreen: set()}
    # 采样界面的几块各是一组
    groups = {kind: {owner for group in contexts() if kind in group for owner in group} for kind in absent}

    def check(app: Any, kind: type) -> None:
        assert isinstance(app.screen, kind)
        titles = [command.title for command in app.get_system_commands(app.screen)]
        bindings = [binding for owner in groups[kind] for binding in own_bindings(owner)]
        wanted = {b.description for b in bindings if b.id not in absent[kind] | {"app.palette"}}
        assert wanted <= set(titles), (kind, wanted - set(titles))
        unwanted = {b.description for b in bindings if b.id in absent[kind]} - wanted
        assert not unwanted & set(titles), (kind, unwanted)

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "alpha")
        check(app, RunsScreen)
        await pilot.press("ctrl+p")
        await see(pilot, "search for a command")
        await pilot.press(*"reverse")
        await see(pilot, "turn the order round (O)")
        await pilot.press("enter")
        await see(pilot, "(reversed)")
        for key, kind in (("enter", MonitorScreen), ("p", SampleScreen), ("n", LaunchScreen)):
            await pilot.press(key)
            await until(pilot, lambda kind=kind: isinstance(app.screen, kind))
            await pilot.pause()
            for page in "1234" if kind is LaunchScreen else " ":
                await pilot.press(page.strip() or "f24")
                check(app, kind)
            if kind is not LaunchScreen:
                await pilot.press("escape")
                await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        # 在第一页上叫别的页上的动作：先翻到那一页
        await pilot.press("1", "ctrl+p", *"undo all")
        await see(pilot, "every key back to the preset's value (U)")
        await pilot.press("enter")
        await until(pilot, lambda: getattr(app.screen, "_tab", "") == "keys")

    drive(tmp_path, scenario)


def test_ctrl_c_says_how_to_quit(tmp_path: Path) -> None:
    async def scenario(app: Any, pilot: Any) -> None:
        await pilot.press("ctrl+c")
        await see(pilot, "q quits; runs go on")
        assert app.is_running

    drive(tmp_path, scenario)


def test_language_is_switched_in_the_running_app(tmp_path: Path) -> None:
    """用随包的译文目录：换过去，列表、提示与命令面板都跟着变，再换回来。"""
    write_run(tmp_path / "runs" / "alpha")

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "alpha", "enter  open", "finished")
        await pilot.press("ctrl+l")
        await see(pilot, "enter  打开", "已完成", "帮助")
        assert "打开" in {command.title for command in app.get_system_commands(app.screen)}
        await pilot.press("enter")
        await see(pilot, "损失", "返回")
        await pilot.press("ctrl+l")
        await see(pilot, "back", "loss")

    try:
        drive(tmp_path, scenario)
    finally:
        i18n.use_language("en")


def test_hostile_names_and_logs_are_shown_literally(tmp_path: Path) -> None:
    """标记、动作、转义、双向标记：照字面显示，点上去什么也不发生。"""
    name = "evil[@click=app.quit()]\u202e\x1b[31m"
    write_run(tmp_path / "runs" / name, console=HOSTILE + "\n", status="failed")
    (tmp_path / "runs" / name / "notes.md").write_text(HOSTILE, encoding="utf-8")

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "evil[@click=app.quit()]")
        raw = [char for char in screen_text(app) if (ord(char) < 32 and char != "\n") or char in "\x9b\u202e"]
        assert not raw
        for y in range(1, 20):
            await pilot.click(offset=(8, y))
        await pilot.press("enter")
        await see(pilot, "[/bold][@click=app.quit()]x[/]", "\\x1b]52", "\\u202e")
        raw = [char for char in screen_text(app) if (ord(char) < 32 and char != "\n") or char in "\x9b\u202e"]
        assert not raw
        for y in range(2, 22):
            await pilot.click(offset=(10, y))
        await pilot.press("s", "K")
        app.say(HOSTILE)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        await pilot.press("D")
        await see(pilot, "Delete evil[@click")
        await pilot.press("n")
        assert app.is_running

    drive(tmp_path, scenario)


def test_read_only_changes_nothing(tmp_path: Path) -> None:
    """只读：按遍所有的键，工作区的文件一个不变。"""
    write_run(tmp_path / "runs" / "alpha")
    write_run(tmp_path / "runs" / "beta", status=None)

    def listing() -> dict[str, tuple[int, int]]:
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")}

    before = listing()

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "alpha", "read-only")
        for key in ("s", "y", "r", "y", "p", "c", "K", "y", "D", "y", "n", "Q", "e", "y"):
            await pilot.press(key)
            assert isinstance(app.screen, RunsScreen), key
        await pilot.press("enter")
        for key in ("s", "r", "p", "c", "K", "D", "w", "y"):
            await pilot.press(key)
        assert not app.start_run([sys.executable, "-c", "1"], Path("runs/alpha"))
        for run in app.store.runs.values():
            app.ask_to_stop(run)
            app.screen._delete(run)
            app.screen._kill(run)
            app.screen._resume(run, None)
        assert not app.stops

    drive(tmp_path, scenario, is_read_only=True)
    assert listing() == before


def test_delete_asks_first_and_stays_inside(tmp_path: Path) -> None:
    outside = write_run(tmp_path / "elsewhere" / "precious")
    space = tmp_path / "space"
    write_run(space / "runs" / "alpha")
    (space / "runs" / "link").symlink_to(outside)
    inner = write_run(space / "runs" / "beta")
    (inner / "away").symlink_to(outside)

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "alpha", "beta", "precious")
        for name, is_gone in (("alpha", True), ("beta", True), ("link", False)):
            table = app.screen._table
            table.cursor = next(i for i, run in enumerate(table.runs) if run.out_dir.name == name)
            await pilot.press("D")
            await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, RunsScreen))
            assert (space / "runs" / name).exists(), "enter alone must not delete"
            await pilot.press("D", "y")
            await until(pilot, lambda: isinstance(app.screen, RunsScreen))
            assert os.path.lexists(space / "runs" / name) != is_gone, name

    drive(space, scenario)
    assert (outside / "ckpt.pt").is_file()
    with pytest.raises(Exception, match="inside the workspace"):
        delete_run(space, outside)
    assert (outside / "ckpt.pt").is_file()


def test_a_live_run_is_not_deleted(tmp_path: Path) -> None:
    import fcntl

    out_dir = write_run(tmp_path / "runs" / "alpha")
    with open(out_dir / "lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Exception, match="using this run"):
            delete_run(tmp_path, out_dir)
    assert (out_dir / "ckpt.pt").is_file()
    delete_run(tmp_path, out_dir)
    assert not out_dir.exists()


def test_copy_goes_through_tmux_and_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.clipboard import copied_file, osc52

    assert osc52("hi") == "\x1b]52;c;aGk=\x07"
    monkeypatch.setenv("TMUX", "x")
    assert "\x1bPtmux;\x1b\x1b]52;c;aGk=\x07\x1b\\" in osc52("hi")
    write_run(tmp_path / "runs" / "alpha")

    async def scenario(_app: Any, pilot: Any) -> None:
        await see(pilot, "alpha")
        await pilot.press("y")
        await until(pilot, copied_file().is_file)

    drive(tmp_path, scenario)
    text = copied_file().read_text(encoding="utf-8")
    assert "-m nanogpt.train" in text and "runs/alpha" in text
    assert copied_file().stat().st_mode & 0o777 == 0o600


def test_hints_asked_for_after_their_screen_is_gone(tmp_path: Path) -> None:
    """一打开就关掉的屏：提示栏排着的那次重画到时，它已不在。"""
    from workbench.screens.monitor import MonitorScreen

    write_run(tmp_path / "runs" / "alpha")

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "alpha")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen) and app.screen.query(HintBar))
        hints = app.screen.query_one(HintBar)
        await app.pop_screen()
        hints.renew()
        await see(pilot, "alpha", "enter")

    drive(tmp_path, scenario)


def test_keys_answer_while_a_million_events_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """报告读大日志时事件循环停顿多久，不断言时间；一百万个：NANOGPT_TEST_EVENTS=1000000。"""
    from nanogpt.events import encode_event

    count = int(os.environ.get("NANOGPT_TEST_EVENTS", "100000"))
    out_dir = write_run(tmp_path / "runs" / "big", 1, status=None)
    write_run(tmp_path / "runs" / "small")
    with open(out_dir / "events.jsonl", "ab") as file:
        for index in range(1, count):
            file.write(encode_event({"seq": index + 4, "time": 1e9 + index, "event": "iter", "iter": index,
                                     "loss": 3.0, "lr": 1e-3, "grad_norm": 1.0, "iter_ms": 1.0,
                                     "tokens_per_second": 1.0, "mfu": None, "memory_mib": 1.0}))
    lags: list[float] = []

    async def body() -> None:
        app = WorkbenchApp(Path())
        async with app.run_test(size=(80, 24)) as pilot:
            began = time.monotonic()
            while not (app.is_loaded and app.store.runs and app.store.is_loaded):
                # 事件循环多久没转：键按下去至多等这么久
                before = time.perf_counter()
                await asyncio.sleep(0.005)
                lags.append(time.perf_counter() - before - 0.005)
                assert time.monotonic() - began < 200
            loaded_s = time.monotonic() - began
            assert any(run.state.iter_count == count for run in app.store.runs.values())
            await pilot.press("j")
            middle = sorted(lags)[len(lags) // 2]
            print(f"\n{count} events in {loaded_s:.1f} s; event loop lag: median {middle * 1e3:.0f} ms, "
                  f"worst {max(lags) * 1e3:.0f} ms")

    monkeypatch.chdir(tmp_path)
    asyncio.run(body())
    assert len(lags) > 10, "the event loop never turned while loading"
