"""本机负荷的一行：CPU 与内存是真的；这里没有 GPU，`nvidia-smi` 是 PATH 上的替身。约 3 s。"""

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
from pilot import drive, see, until, write_run

from workbench.machine_load import MachineLoad
from workbench.screens.monitor import MonitorScreen

FAKE = """#!/bin/sh
for index in 0 1 2 3; do echo "$((90 + index)), 71234, 81559, 65, 690.12"; done
echo "ERR! [/bold]"
"""


def install(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "nvidia-smi").write_text(body, encoding="utf-8")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TERM", "xterm-256color")


def test_every_gpu_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "bin", FAKE, monkeypatch)
    parts = MachineLoad().sample().split("  ")
    assert "GPU 0 90% 71234/81559 MiB 65°C 690.12 W" in parts and "GPU 3 93% 71234/81559 MiB 65°C 690.12 W" in parts
    assert sum(part.startswith("GPU") for part in parts) == 4
    assert any(part.startswith("RAM ") and part.endswith(" GiB") for part in parts)
    monkeypatch.setenv("NANOGPT_ASCII", "1")
    assert MachineLoad().sample().isascii()


@pytest.mark.parametrize("body", ["#!/bin/sh\nexit 9\n", "#!/bin/sh\nprintf '\\377\\033[2J, 1'\n", "not a program"])
def test_a_broken_tool_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    install(tmp_path / "bin", body, monkeypatch)
    assert "GPU" not in MachineLoad().sample()


def test_the_monitor_breaks_the_line_between_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """80 格里一行放不下四块 GPU：折行，每一块都读得全。"""
    install(tmp_path / "bin", FAKE, monkeypatch)
    out_dir = write_run(tmp_path / "runs" / "alpha", status=None)

    async def scenario(app: Any, pilot: Any) -> None:
        await until(pilot, lambda: app.screen.chosen_runs())
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
        await see(pilot, *(f"GPU {index} {90 + index}% 71234/81559 MiB 65°C 690.12 W" for index in range(4)), "RAM")

    with open(out_dir / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        drive(tmp_path, scenario)
