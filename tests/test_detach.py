"""应用 kill -9 四次、终端结束四次（慢的测试里各二十次），同一个真的训练：日志不缺一行，重新打开后图上一步不缺。"""

import signal
from pathlib import Path

from conftest import IS_SLOW, make_tiny_dataset
from detach import KILL, SIZE, AppTerminal, campaign
from terminal import needs_tmux

pytestmark = needs_tmux[1:]


def test_runs_outlive_the_app_and_its_terminal(tmp_path: Path) -> None:
    make_tiny_dataset(tmp_path / "data" / "python_stdlib")
    times = 20 if IS_SLOW else 4
    count, iters = campaign(tmp_path, times, times, seed=1337)
    assert count[KILL] == times and sum(count.values()) == 2 * times and len(count) == 4
    assert iters > 100


def test_the_app_ends_with_its_terminal_even_under_nohup(tmp_path: Path) -> None:
    """SIGHUP 被忽略着继承下来时也结束，不对着没了的终端空转。约 2 s。"""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        terminal = AppTerminal(tmp_path, *SIZE)
    finally:
        signal.signal(signal.SIGHUP, before)
    try:
        terminal.see("No runs here yet")
        terminal.hang_up()
        assert terminal.wait(10.0) == -signal.SIGHUP
    finally:
        terminal.kill()
