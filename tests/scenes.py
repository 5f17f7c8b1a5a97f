"""怎样走到各屏：`pictures_tool.py`（README 的图）与 `test_snapshots.py`（快照）用的是同样的场景。

每个场景是 `async (pilot) -> None`，从列表开始，走到要看的那一屏，等它画好。
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Scene = Callable[[Any], Awaitable[None]]


async def until(pilot: Any, is_there: Callable[[], object], turns: int = 1200) -> None:
    for _turn in range(turns):
        if is_there():
            await settle(pilot)
            return
        await pilot.pause(0.1)
    raise SystemExit("the screen did not come up")


async def settle(pilot: Any) -> None:
    """光标不闪；等画面连续两次一样。"""
    from textual.widgets import Input, TextArea

    for box in [*pilot.app.screen.query(Input), *pilot.app.screen.query(TextArea)]:
        box.cursor_blink = False
        # 停在看得见的那一半
        box._pause_blink(visible=True)
    seen: list[str] = []
    for _turn in range(100):
        await pilot.pause()
        await asyncio.sleep(0.1)
        seen.append("\n".join(strip.text for strip in pilot.app.screen._compositor.render_strips()))
        if len(seen) > 2 and seen[-1] == seen[-2] == seen[-3]:
            return


def is_drawn(app: Any) -> bool:
    from workbench.widgets.chart_view import ChartView

    charts = [chart for chart in app.screen.query(ChartView) if chart.size.height]
    return bool(charts) and bool(charts[0].lines)


async def press(pilot: Any, *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await pilot.pause()
    await settle(pilot)


async def open_with(pilot: Any, key: str, name: str) -> None:
    """按键之后，等名为 `name` 的那一屏露面。"""
    await pilot.press(key)
    await until(pilot, lambda: type(pilot.app.screen).__name__ == name)


# ---- 场景 ----


async def welcome(pilot: Any) -> None:
    await until(pilot, lambda: pilot.app.is_loaded)


async def runs(pilot: Any) -> None:
    app = pilot.app
    await until(pilot, lambda: app.is_loaded and app.store.is_loaded and app.store.runs and app.screen._table)
    if app.size.height >= 36:
        await until(pilot, lambda: is_drawn(app))


async def filtered(pilot: Any) -> None:
    await runs(pilot)
    await press(pilot, "slash", *"status:stopped loss<")


async def help(pilot: Any) -> None:
    await runs(pilot)
    await open_with(pilot, "question_mark", "HelpScreen")


async def palette(pilot: Any) -> None:
    await runs(pilot)
    await open_with(pilot, "ctrl+p", "CommandPalette")


async def confirm(pilot: Any) -> None:
    await runs(pilot)
    await press(pilot, "G")
    await open_with(pilot, "D", "ConfirmScreen")


async def note(pilot: Any) -> None:
    await runs(pilot)
    await open_with(pilot, "e", "NoteScreen")


async def monitor(pilot: Any) -> None:
    await runs(pilot)
    await pilot.press("enter")
    await until(pilot, lambda: is_drawn(pilot.app) and bool(pilot.app.screen.machine))


async def failed(pilot: Any) -> None:
    """出了错的那一个：结局、事件、光标。"""
    await runs(pilot)
    await press(pilot, "G")
    await pilot.press("enter")
    await until(pilot, lambda: is_drawn(pilot.app))
    await press(pilot, "t", "left")


async def overlay(pilot: Any) -> None:
    await runs(pilot)
    await press(pilot, "space", "space", "space")
    await pilot.press("enter")
    await until(pilot, lambda: is_drawn(pilot.app))


async def _launch_page(pilot: Any, *keys: str) -> None:
    await runs(pilot)
    await pilot.press("n")
    await until(pilot, lambda: bool(getattr(pilot.app.screen, "_devices", None)))
    await press(pilot, *keys)


async def presets(pilot: Any) -> None:
    await _launch_page(pilot, "1")


async def datasets(pilot: Any) -> None:
    await _launch_page(pilot, "2")


async def own_text(pilot: Any) -> None:
    """自己的文本：路径、分词器、预览。"""
    await _launch_page(pilot, "2")
    Path("poems.txt").write_bytes((ROOT / "data" / "chinese_poems" / "poems.txt").read_bytes())
    await open_with(pilot, "a", "OwnTextScreen")
    screen = pilot.app.screen
    await press(pilot, *"poe", "tab", "down", "down", "right", "right", "right", "down", "ctrl+u", *"1500")
    await until(pilot, lambda: screen.shown and screen.shown["vocab_size"] == 1500 and not screen.is_asking)


async def own_text_problem(pilot: Any) -> None:
    """打错了的路径。"""
    await _launch_page(pilot, "2")
    await open_with(pilot, "a", "OwnTextScreen")
    await press(pilot, *"tale.txt")
    await until(pilot, lambda: pilot.app.screen.found_problem)


async def doctor(pilot: Any) -> None:
    """检查表单里选的那个数据集。"""
    await _launch_page(pilot, "2")
    await open_with(pilot, "c", "DoctorScreen")
    await until(pilot, lambda: pilot.app.screen.found)


async def machine(pilot: Any) -> None:
    await _launch_page(pilot, "3")


async def launch(pilot: Any) -> None:
    await _launch_page(pilot, "4", "j", "j")


async def editing(pilot: Any) -> None:
    """正在打一个不合法的值。"""
    await _launch_page(pilot, "4", "slash", *"n_head", "enter")
    await press(pilot, "enter", "ctrl+u", *"zero")


async def save(pilot: Any) -> None:
    await _launch_page(pilot)
    await open_with(pilot, "ctrl+s", "SavePresetScreen")


async def sample(pilot: Any) -> None:
    await runs(pilot)
    await press(pilot, "G", "k")
    await open_with(pilot, "p", "SampleScreen")
    play = pilot.app.playground
    # 忙的机器上，另一个进程导入 torch 能要一分钟
    await until(pilot, lambda: play.engine.model is not None, 1200)
    await press(pilot, *"def ")
    await until(pilot, lambda: play.count is not None and play.count.tokens == 4)


async def playground(pilot: Any) -> None:
    """写完的一页，用平时的参数。"""
    await sample(pilot)
    play = pilot.app.playground
    await pilot.press("ctrl+r")
    await until(pilot, lambda: play.generation is not None and not play.is_busy)


async def tokens(pilot: Any) -> None:
    """那一页，逐个 token。"""
    await playground(pilot)
    await open_with(pilot, "alt+t", "InspectScreen")
    await until(pilot, lambda: pilot.app.screen.score is None or pilot.app.screen.score.has_ended)
    await press(pilot, *"jllll")


async def written(pilot: Any) -> None:
    """贪心写了一段；速度各台机器不同，换成一个定数。"""
    await sample(pilot)
    play = pilot.app.playground
    play.set_control("temperature", "0")
    play.set_control("max_new_tokens", "60")
    await pilot.press("ctrl+r")
    await until(pilot, lambda: play.generation is not None and not play.is_busy)
    _set_figures(play.generation)
    pilot.app.screen.show_now()
    await settle(pilot)


def _set_figures(generation: Any) -> None:
    generation.tokens_per_second, generation.first_token_ms = 250.0, 10.0


async def inspect(pilot: Any) -> None:
    """写出来的那一段，逐个 token。"""
    await written(pilot)
    await open_with(pilot, "alt+t", "InspectScreen")
    await until(pilot, lambda: pilot.app.screen.score is None or pilot.app.screen.score.has_ended)
    await press(pilot, "l", "l")


async def models(pilot: Any) -> None:
    await sample(pilot)
    await open_with(pilot, "f4", "PickerScreen")
    await until(pilot, lambda: pilot.app.screen.items)


async def compare(pilot: Any) -> None:
    """两个检查点，贪心。"""
    await sample(pilot)
    pilot.app.playground.set_control("temperature", "0")
    pilot.app.playground.set_control("max_new_tokens", "60")
    await open_with(pilot, "f8", "PickerScreen")
    await until(pilot, lambda: len(pilot.app.screen.items) > 1)
    await press(pilot, "tab", "tab")
    await open_with(pilot, "enter", "CompareScreen")
    found = pilot.app.screen.comparison
    await until(pilot, lambda: found.has_ended)
    for entry in found.entries:
        _set_figures(entry.generation)
    pilot.app.screen.renew()
    await settle(pilot)


async def chat(pilot: Any) -> None:
    """对话的一页，还没有发出。"""
    await sample(pilot)
    await press(pilot, "f6", *"hello")
    await until(pilot, lambda: pilot.app.playground.count is not None and pilot.app.playground.count.has_ended)


async def template(pilot: Any) -> None:
    await sample(pilot)
    await press(pilot, "f7")
    await open_with(pilot, "m", "PickerScreen")
    await until(pilot, lambda: pilot.app.screen.items)
    await open_with(pilot, "enter", "TemplateScreen")


async def perplexity(pilot: Any) -> None:
    """数据集 `tiny` 的验证集上的困惑度。"""
    await written(pilot)
    await pilot.press("tab")
    await open_with(pilot, "p", "PerplexityScreen")
    await press(pilot, *"tiny", "enter")
    await until(pilot, lambda: pilot.app.screen.score is not None and pilot.app.screen.score.has_ended)


async def page_name(pilot: Any) -> None:
    """存一页：问名字。"""
    await written(pilot)
    await open_with(pilot, "ctrl+s", "AskScreen")


async def nodes(pilot: Any) -> None:
    """两台机器，每台的命令。"""
    await _launch_page(pilot, "3")
    pilot.app.screen.draft.machine.set("nodes", "2")
    await open_with(pilot, "N", "NodesScreen")


async def preparing(pilot: Any) -> None:
    """快速开始前备数据：脚本说了一行之后。"""
    await until(pilot, lambda: pilot.app.is_loaded)
    await pilot.press("Q")
    await until(pilot, lambda: type(pilot.app.screen).__name__ == "PreparingScreen")
    await until(pilot, lambda: len(pilot.app.screen.preparation.tail()) > 1)
