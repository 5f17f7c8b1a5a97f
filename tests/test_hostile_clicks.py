"""敌意的文字 × 每一处显示：只是文字，点上去不引发任何动作（故障表第 31 行）。约二十秒。

语料里的 `[@click=app.fire()]` 若被当作标记，点它就会调用 `action_fire`；这里既点画着它的地方，也查整屏每一格的样式里
有没有动作。
"""

from pathlib import Path
from typing import Any

import pytest
from conftest import IS_SLOW
from hostile import CORPUS, as_name, hostile_workspace
from pilot import drive, screen_text, see, until
from textual.widgets import TextArea
from trainer_fork import ROOT

from workbench.app import WorkbenchApp
from workbench.screens.confirm import ConfirmScreen
from workbench.screens.launch import LaunchScreen
from workbench.screens.monitor import MonitorScreen
from workbench.screens.note import NoteScreen
from workbench.screens.runs import RunsScreen
from workbench.screens.sample import SampleScreen

SIZE = (160, 50)


class Canary(WorkbenchApp):
    """`fire` 是语料想引发的动作。"""

    CSS_PATH = ROOT / "workbench" / "workbench.tcss"
    fired = 0

    def action_fire(self) -> None:
        self.fired += 1


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("NO_COLOR", "SSH_CONNECTION", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))


def assert_plain(app: Any, *texts: str) -> list[tuple[int, int]]:
    """屏上有 `texts`，没有一格带着动作；返回画着它们的格子。"""
    cells = []
    for y, strip in enumerate(app.screen._compositor.render_strips()):
        for segment in strip:
            # 滚动条自己的动作也在 `meta` 里，所以看动作的名字
            assert not (segment.style and "fire" in str(segment.style.meta)), strip.text
            assert not (segment.style and segment.style.link), strip.text
        for text in texts:
            start = strip.text.find(text)
            if start >= 0:
                cells += [(x, y) for x in range(start, start + len(text))]
    assert all(text in screen_text(app) for text in texts), screen_text(app)
    return cells


async def click_all(app: Any, pilot: Any, *texts: str, screen: type) -> None:
    """隔几格（平常隔得更远）点一下，头尾都点到；金丝雀没有响。每格都点要一分多钟，而动作是一整段一整段的。"""
    cells = assert_plain(app, *texts)
    assert cells
    for x, y in [*cells[::7 if IS_SLOW else 25], cells[-1]]:
        # 点到列表里的一行会翻页或打开：那就不再点
        await pilot.click(offset=(x, y))
        assert app.fired == 0 and app.is_running
        if not isinstance(app.screen, screen):
            break
    assert app.fired == 0


def test_clicks_fire_nothing(tmp_path: Path) -> None:
    workspace = hostile_workspace(tmp_path / "space")
    text, name = CORPUS["click"], as_name("click")

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, name)
        table = app.screen._table
        table.cursor = next(i for i, run in enumerate(table.runs) if run.name == name)
        app.screen.renew()
        await see(pilot, f"note: {text} #tag{text}")
        await click_all(app, pilot, name, f"note: {text}", f"device {text}", screen=RunsScreen)
        await on_every_screen(app, pilot, text, name)
        assert app.fired == 0

    drive(workspace, scenario, SIZE, app_class=Canary)


async def on_every_screen(app: Any, pilot: Any, text: str, name: str) -> None:
    async def back() -> None:
        for _turn in range(4):
            if not isinstance(app.screen, RunsScreen):
                await pilot.press("escape")
                await pilot.pause()
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))

    await back()
    app.say(f"{text} {CORPUS['close']}", "error", 60.0)
    await see(pilot, text[:20])
    assert_plain(app, text[:20])
    await pilot.press("D")
    await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
    await click_all(app, pilot, name[:30], screen=ConfirmScreen)
    await back()
    await pilot.press("e")
    await until(pilot, lambda: isinstance(app.screen, NoteScreen))
    await click_all(app, pilot, name[:30], text[:30], screen=NoteScreen)
    await back()
    await pilot.press("enter")
    await see(pilot, f"19 {text}")
    await click_all(app, pilot, f"19 {text}", f" {name} ", screen=MonitorScreen)
    await pilot.press("t")
    await see(pilot, f"warning {text[:20]}")
    await click_all(app, pilot, f"warning {text[:20]}", screen=MonitorScreen)
    await back()
    await pilot.press("p")
    await until(pilot, lambda: isinstance(app.screen, SampleScreen))
    app.screen.query_one("#prompt", TextArea).text = text
    await see(pilot, f"Sample: {name}", text)
    await click_all(app, pilot, f"Sample: {name}", text, screen=SampleScreen)
    await back()
    await pilot.press("c")
    await until(pilot, lambda: isinstance(app.screen, LaunchScreen))
    await see(pilot, "wandb_run_name", text)
    await click_all(app, pilot, f"New run: runs/{name}"[:60], text, screen=LaunchScreen)
    await back()
    await pilot.press("n")
    await until(pilot, lambda: isinstance(app.screen, LaunchScreen))
    await see(pilot, text)
    await click_all(app, pilot, text, screen=LaunchScreen)
    await pilot.press("2")
    await see(pilot, name[:40])
    await click_all(app, pilot, name[:40], screen=LaunchScreen)
    await back()


def test_the_canary_sings_where_markup_is_read(tmp_path: Path) -> None:
    """反证：同样的文字一旦当作标记，就真的会响；查样式的也看得见。"""
    from textual.widgets import Static

    async def scenario(app: Any, pilot: Any) -> None:
        await app.screen.mount(Static(CORPUS["click"].split("[/]")[0] + "[/]", id="trap"), before=0)
        await until(pilot, lambda: app.screen.query_one("#trap").region.height)
        with pytest.raises(AssertionError):
            assert_plain(app)
        await pilot.click("#trap", offset=(0, 0))
        await until(pilot, lambda: app.fired)

    drive(tmp_path, scenario, SIZE, app_class=Canary)
