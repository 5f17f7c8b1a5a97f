"""在当前目录的工作区里打开真的应用，把每一屏的每个动作都做一遍，再画一次 `plot`；最后打印一个 JSON。

`test_app_imports.py` 另起一个进程跑它：走到过哪些屏、做过多少动作、进程里有没有过 torch 一类的包（审计钩子连
导入了又删掉的也记得）。各屏由已有的运行与动作自己打开，所以新加的屏与动作也会走到。
"""

import asyncio
import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

HEAVY = {"torch", "transformers", "datasets"}
# 打开输入框之后，字母键都归它；再后面的离开所在的屏：依次留到最后做
TYPING = {"runs.filter", "monitor.search", "form.search"}
LEAVING = ("leave", "dismiss", "close", "cancel", "give_up", "answer", "take")
# 趁它的数据集还没有准备好：别的动作会去准备
FIRST = "runs.quick_start"
# 退出留给剧本；启动也是：走过一遍的表单里填了什么说不准，剧本用小的预设启动
NEVER = {"app.quit", "launch.start"}
imported: dict[str, str] = {}


def note_import(event: str, args: tuple[Any, ...]) -> None:
    if event == "import" and args[0].split(".")[0] in HEAVY and args[0] not in imported:
        imported[args[0]] = "".join(traceback.format_stack(limit=6))


sys.addaudithook(note_import)
importlib.import_module("workbench.app")
assert "numpy" not in sys.modules and "plotext" not in sys.modules, "imported before the first frame"

from pilot import drive, see, until  # noqa: E402

from workbench.widgets.hint_bar import bindings_of  # noqa: E402

done: set[tuple[str, str]] = set()
screens: set[str] = set()


def order(binding: Any) -> tuple[bool, ...]:
    return binding.action.startswith(LEAVING), binding.id in TYPING, binding.id != FIRST


async def walk(app: Any, pilot: Any) -> None:
    """当前屏上还没做过的动作逐个做；打开了别的屏就先走完它，再回来。"""
    here = app.screen
    name = type(here).__name__
    while True:
        # 藏在别的页上的也做：先翻过去
        found = [(binding, node, "") for binding, _keys, is_enabled, node in bindings_of(here) if is_enabled]
        found += getattr(here, "hidden_bindings", list)()
        todo = [item for item in found if (name, item[0].id) not in done and item[0].id not in NEVER]
        if not todo:
            return
        binding, node, page = min(todo, key=lambda item: order(item[0]))
        done.add((name, str(binding.id)))
        if page:
            await app.run_action(f"show_tab('{page}')", here)
        await app.run_action(binding.action, node)
        screens.add(type(app.screen).__name__)
        await pilot.pause(0.1)
        if here not in app.screen_stack:
            return
        if app.screen is not here:
            await walk(app, pilot)
            while app.screen is not here and here in app.screen_stack:
                await app.pop_screen()
                await pilot.pause()
        if app.screen is not here:
            return


async def scenario(app: Any, pilot: Any) -> None:
    from workbench.screens.launch import LaunchScreen

    await see(pilot, "alpha")
    await walk(app, pilot)
    # 几台机器时才有的那一屏
    several = LaunchScreen("quickstart")
    await app.push_screen(several)
    await pilot.pause(0.1)
    several.draft.machine.set("nodes", "2")
    await app.run_action("nodes", several)
    await pilot.pause(0.1)
    await walk(app, pilot)
    await app.pop_screen()
    await app.push_screen(LaunchScreen("quickstart"))
    await app.run_action("launch", app.screen)
    # 由启动界面启动的训练真的在走；看它的监视，直到有曲线
    await until(pilot, lambda: any(run.out_dir.name.startswith("quickstart") for run in app.store.runs.values()))
    live = next(run for run in app.store.runs.values() if run.out_dir.name.startswith("quickstart"))
    await until(pilot, lambda: live.state.iter_count > 1, 60.0)
    app.open_monitor(live.out_dir)
    await until(pilot, lambda: app.screen.chart.curves)
    await walk(app, pilot)
    await talk(app, pilot, live.out_dir)
    for key, gone in (("K", lambda: live.has_ended), ("D", lambda: not live.out_dir.exists())):
        app.open_monitor(live.out_dir)
        await pilot.pause(0.2)
        await pilot.press(key, "y")
        await until(pilot, gone)
    await asyncio.sleep(0.2)


async def talk(app: Any, pilot: Any, out_dir: Path) -> None:
    """有了真的检查点与写出来的文字，采样界面才开得了的几屏。"""
    await until(pilot, lambda: (out_dir / "ckpt.pt").exists(), 120.0)
    app.open_monitor(out_dir)
    await pilot.press("p")
    await until(pilot, lambda: type(app.screen).__name__ == "SampleScreen")
    here, play = app.screen, app.playground
    play.use_mode("complete")
    play.begin_anew()
    await until(pilot, lambda: play.engine.model is not None, 120.0)
    play.set_control("max_new_tokens", "20")
    here.editor.put("def ")
    await app.run_action("run", here)
    await until(pilot, lambda: play.generation is not None and not play.is_busy, 60.0)
    for action, screen in (("inspect", "InspectScreen"), ("perplexity", "PerplexityScreen"), ("save", "AskScreen"),
                           ("templates", "TemplateScreen"), ("compare", "CompareScreen")):
        await app.run_action(action, here)
        await until(pilot, lambda: app.screen is not here)
        if type(app.screen).__name__ == "PickerScreen":
            await until(pilot, lambda: app.screen.items)
            await pilot.press("enter")
        await until(pilot, lambda screen=screen: type(app.screen).__name__ == screen)
        screens.add(screen)
        # 等它搭好
        await pilot.pause(0.1)
        await walk(app, pilot)
        while app.screen is not here:
            await app.pop_screen()
        await until(pilot, lambda: not play.is_busy, 60.0)


drive(Path(), scenario, (140, 40))
from workbench.plot import run_plot  # noqa: E402

run_plot(["runs/alpha"], is_json=True)
print(json.dumps({"screens": sorted(screens | {name for name, _id in done}), "actions": len(done), "imported": imported,
                  "loaded": sorted(HEAVY & set(sys.modules))}))
