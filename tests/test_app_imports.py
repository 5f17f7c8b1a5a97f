"""应用的进程里从没有过 torch、transformers、datasets，不管点了什么。约 30 s。"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from detach import PRESET
from pilot import write_run
from trainer_fork import ROOT, clean_env

from workbench.stop_run import signal_holder


@pytest.mark.timeout(600)
def test_no_screen_and_no_action_imports_torch(workspace: Path) -> None:
    """走遍每一屏的每个动作（真的训练、采样、准备数据都在别的进程里），再画 `plot`。"""
    for name, status in (("alpha", "finished"), ("beta", "stopped"), ("gamma", None)):
        write_run(workspace / "runs" / name, status=status)
    # 工作区自己的脚本：这台机器上随包的数据备好了没有都一样，快速开始都要先准备
    own = workspace / "data" / "python_stdlib" / "prepare.py"
    own.parent.mkdir()
    own.write_text((ROOT / "data" / "python_stdlib" / "prepare.py").read_text(encoding="utf-8") + "# ours\n",
                   encoding="utf-8")
    (workspace / "presets").mkdir()
    (workspace / "presets" / "quickstart.toml").write_text(
        PRESET.replace('"python_stdlib"', '"tiny"'), encoding="utf-8")
    try:
        done = walk(workspace)
    finally:
        for out_dir in (workspace / "runs").glob("*"):
            signal_holder(out_dir, signal.SIGKILL)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["imported"] and not found["loaded"], found
    assert set(found["screens"]) >= screens(), "a screen that no action opens"
    assert found["actions"] > 100


def walk(workspace: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / "tests" / "every_action.py")], cwd=workspace, timeout=500,
                          env=clean_env(HOME=str(workspace)), capture_output=True, text=True, check=False)


def screens() -> set[str]:
    """`workbench/screens` 里的每一屏，除了供别的屏继承的。"""
    import importlib
    import inspect

    from textual.screen import Screen

    found: set[type] = set()
    for path in (ROOT / "workbench" / "screens").glob("[!_]*.py"):
        module = importlib.import_module(f"workbench.screens.{path.stem}")
        found |= {value for value in vars(module).values()
                  if inspect.isclass(value) and issubclass(value, Screen) and value.__module__ == module.__name__}
    bases = {base for kind in found for base in kind.__mro__[1:]}
    return {kind.__name__ for kind in found - bases}
