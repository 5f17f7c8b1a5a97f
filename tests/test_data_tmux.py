"""从自己的文本到正在跑的训练，在真的终端里只用键：看预览、选分词器、准备、检查、启动、看曲线。约 30 s。"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import slow
from hostile import leaks
from terminal import BRAILLE, Terminal, needs_tmux
from test_e2e_tmux import PRESET
from trainer_fork import ROOT

from nanogpt.i18n import _ as translated
from nanogpt.i18n import use_language

pytestmark = needs_tmux
ESCAPES = "\x1b]52;c;UFdO\x07\x1b[41m \u202egnp [red]loud[/red]\n"


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Path]:
    """一个工作区，里面有一份自己的文本（夹着转义）与缩小了的预设；结束时不留下训练器。"""
    text = ESCAPES + "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "workbench").glob("*.py")))
    (tmp_path / "my texts").mkdir()
    (tmp_path / "my texts" / "code.txt").write_text(text, encoding="utf-8")
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "quickstart.toml").write_text(PRESET, encoding="utf-8")
    yield tmp_path
    use_language("en")
    from workbench.stop_run import signal_holder

    for out_dir in (tmp_path / "runs").glob("*"):
        signal_holder(out_dir, signal.SIGKILL)


@pytest.mark.parametrize(("size", "language"), [pytest.param((80, 24), "en", marks=slow), ((200, 50), "zh")])
def test_from_a_text_file_to_a_running_training(space: Path, tmp_path: Path, size: tuple[int, int],
                                                language: str) -> None:
    use_language(language)
    terminal = Terminal(space, size, language, record=tmp_path / "raw")
    try:
        terminal.see(translated("No runs here yet."))
        terminal.keys("n")
        terminal.see(translated("New run: {preset}").format(preset="quickstart"))
        terminal.keys("2")
        terminal.see(f"a  {translated('Own text')}")
        terminal.keys("a")
        terminal.see(translated("Dataset from your own text"), "my texts/")
        terminal.type("my")
        terminal.see("my")
        terminal.keys("Tab")
        terminal.see(r"my\ texts/", "code.txt")
        terminal.keys("Tab")
        terminal.see(r"my\ texts/code.txt", translated("Its tokens"), "[red]loud[/red]", "\\x1b]52")
        # 分词器换成 BPE，词表 300
        terminal.keys("Down", "Down", "Left")
        terminal.see("--tokenizer=bpe")
        terminal.keys("Down")
        terminal.see(translated("how many tokens the trained BPE has: 257 to 65,536"))
        # 连着来的一串里，Textual 先收字、后做绑定的键
        terminal.keys("C-u")
        terminal.see(translated("{key} cannot be {value}").format(key=translated("vocabulary"), value="''"))
        terminal.type("300")
        terminal.see("--vocab-size=300")
        terminal.until(lambda text: " 300" in text.split(translated("Its tokens"))[0] and
                       translated("reading...") not in text, what="the preview")
        terminal.keys("Enter")
        terminal.see(translated("{name} is ready: ctrl+r trains on it").format(name="code"), "--dataset=code")
        meta = json.loads((space / "data" / "code" / "meta.json").read_text(encoding="utf-8"))
        assert meta["vocab_size"] == 300
        terminal.keys("c")
        terminal.see(translated("Check of {name}").format(name="code"), translated("nothing wrong found"))
        terminal.keys("Escape")
        terminal.see(f"a  {translated('Own text')}")
        terminal.keys("C-r")
        terminal.see("quickstart-", translated("running"))
        terminal.until(lambda text: len(BRAILLE & set(text)) > 2, what="a curve")
        (out_dir,) = (space / "runs").iterdir()
        assert 'dataset = "code"' in (out_dir / "config.toml").read_text(encoding="utf-8")
        assert leaks((tmp_path / "raw").read_bytes()) == []
    finally:
        terminal.close()
