"""用户自己的键：真的 `keys.toml`，真的应用。约 3 s。"""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pilot import drive, see, until, write_run
from trainer_fork import ROOT, clean_env

from workbench.keymap import check_keys, contexts, keys_file, known_bindings, own_bindings, read_keys, sample
from workbench.screens.monitor import MonitorScreen
from workbench.screens.runs import RunsScreen


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.setenv("TERM", "xterm-256color")


def write(text: str) -> Path:
    keys_file().parent.mkdir(parents=True, exist_ok=True)
    keys_file().write_text(text, encoding="utf-8")
    return keys_file()


def test_no_file_no_changes() -> None:
    assert read_keys(keys_file()) == ({}, [])


def test_spellings() -> None:
    """表与带点的键、一个与几个、各种写法。"""
    path = write('run.stop = "X"\n[monitor]\nzoom_in = ["z", "ctrl+up"]\nzoom_out = "Esc, Z"\nleft = ","\n'
                 '[app]\nhelp = "F1,!"\n')
    keymap, problems = read_keys(path)
    assert problems == ["monitor.zoom_out: escape is already monitor.back (back); give that another key too"]
    assert keymap["run.stop"] == "X" and keymap["monitor.zoom_in"] == "z,ctrl+up" and "monitor.zoom_out" not in keymap
    assert keymap["monitor.left"] == "comma" and keymap["app.help"] == "f1,exclamation_mark"


@pytest.mark.parametrize(("text", "answer"), [
    ('run.stpo = "X"', "run.stpo: there is no such key binding; did you mean run.stop"),
    ('run.stop = "ctrl+"', "run.stop: 'ctrl+' is not a key"),
    ('run.stop = "hyperdrive"', "'hyperdrive' is not a key"),
    ('run.stop = "foo+s"', "'foo+s' is not a key"),
    ("run.stop = 7", "write a key in quotes"), ("run.stop = []", "write a key in quotes"),
    ('run.stop = "r"', "r is already run.resume (resume)"), ('run.stop = "q"', "q is already app.quit"),
    ('app.mouse = "s"', "s is already run.stop"), ("run.stop = ", "this is not TOML"),
    ('"\\u001b[2J" = "x"', "\\x1b[2J: there is no such key"), ("\x00", "this is not TOML")])
def test_a_wrong_entry_is_answered_and_left_out(text: str, answer: str) -> None:
    keymap, problems = read_keys(write(text))
    assert keymap == {} and len(problems) == 1 and answer in problems[0]
    assert "\x1b" not in problems[0]


def test_two_keys_may_be_swapped() -> None:
    keymap, problems = check_keys({"run.stop": "r", "run.resume": "s"})
    assert problems == [] and keymap == {"run.stop": "r", "run.resume": "s"}


def test_every_default_is_a_legal_entry() -> None:
    """样本去掉注释，就是一份没有错也什么都不变的文件；每个绑定都在某一组里。"""
    lines = [line.removeprefix("# ") for line in sample().splitlines()[1:]]
    text = "\n".join(line for line in lines if " = [" in line)
    keymap, problems = read_keys(write(text))
    assert problems == []
    known = {name: binding for group in known_bindings() for name, binding in group.items()}
    assert set(keymap) == set(known) == {b.id for group in contexts() for owner in group for b in own_bindings(owner)}
    assert len(tomllib.loads(text)) > 5
    for name, binding in known.items():
        assert keymap[name] == ",".join(key.strip() for key in binding.key.split(",")), name


def test_the_app_takes_them_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    """新的键有用，旧的没用，提示栏写新的；写错的在角上与帮助里。回车仍归快速开始与打开。"""
    write_run(tmp_path / "runs" / "alpha")
    write('runs.open = "z"\nruns.filter = "ctrl+x"\nrun.nosuch = "x"\n')

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "alpha", "z  open", "run.nosuch", "ctrl+x  filter")
        await pilot.press("enter", "slash")
        assert isinstance(app.screen, RunsScreen) and app.focused is None
        await pilot.press("f1")
        await see(pilot, "Keys of this screen")
        await pilot.press(*["pagedown"] * 8)
        await see(pilot, "Not taken from", "run.nosuch")
        await pilot.press("escape", "z")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen))

    drive(tmp_path, scenario)


def test_enter_still_starts_where_open_was_moved(tmp_path: Path) -> None:
    write('runs.open = "z"\n')

    async def scenario(app: Any, pilot: Any) -> None:
        await see(pilot, "enter  quick start")
        await until(pilot, lambda: app._keymap)
        assert app.screen.active_bindings["enter"].binding.id == "runs.first_start"

    drive(tmp_path, scenario)


def test_the_sample_is_printed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "workbench", "--print-keys", "--lang", "en"], cwd=tmp_path,
                          env=clean_env(XDG_CONFIG_HOME=str(tmp_path), PYTHONPATH=str(ROOT)), capture_output=True,
                          text=True, timeout=60, check=True, encoding="utf-8")
    assert '# run.stop = ["s"]  # stop' in done.stdout and str(tmp_path / "nanogpt-workbench") in done.stdout
