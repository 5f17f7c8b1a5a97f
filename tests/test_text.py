"""外来文本的净化。不到一秒。"""

import random
import sys
import unicodedata

import pytest

from nanogpt.errors import BadInput, OutOfResources, run_main
from nanogpt.text import visible


@pytest.mark.parametrize("text, shown", [
    ("plain", "plain"), ("中文 🎉 é", "中文 🎉 é"), ("a\nb\tc", "a\nb\tc"), ("\x1b[31mred", "\\x1b[31mred"),
    ("\x1b]52;c;AAAA\x07", "\\x1b]52;c;AAAA\\x07"), ("\x9b31m", "\\x9b31m"), ("\0\r\x7f", "\\x00\\x0d\\x7f"),
    ("a\u202eb\u2066c\ufeff", "a\\u202eb\\u2066c\\ufeff"), ("\u2028\u2029", "\\u2028\\u2029"),
    ("\udcff", "\\udcff"), ("[bold]x[/bold]", "[bold]x[/bold]")])
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_keep() -> None:
    assert visible("a\nb", keep="") == "a\\x0ab" and visible("a\rb", keep="\r") == "a\rb"


def test_every_character() -> None:
    """任一码位的结果都能编码、不含控制与双向字符，而且再净化一次不变。"""
    text = visible("".join(map(chr, range(sys.maxunicode + 1))), keep="")
    text.encode("utf-8")
    found = {char for char in set(text) if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
             or unicodedata.bidirectional(char) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")}
    assert not found and visible(text, keep="") == text


def test_errors_are_made_visible() -> None:
    """报错里的外来文字也经过净化。"""
    rng = random.Random(1)
    for _number in range(200):
        outside = "".join(chr(rng.choice([rng.randrange(32), rng.randrange(128, 160), 0x202E, 0xDC80, 65]))
                          for _char in range(10)).replace("\n", "")
        text = str(BadInput("code", outside, outside, outside))
        assert not {char for char in text if unicodedata.category(char) in ("Cc", "Cs")} - {"\n", "\t"}
        assert len(text.split("\n")) == 3


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """约定的退出码；不认得的异常也只有几行，没有调用栈。"""

    def failing(error: BaseException) -> int:
        def main() -> int:
            raise error
        return run_main(main)

    assert run_main(lambda: 0) == 0 and failing(BadInput("a", "b")) == 2 and failing(OutOfResources("a", "b")) == 4
    assert failing(KeyboardInterrupt()) == 1 and failing(ZeroDivisionError("x\x1b[0m\ny")) == 1
    text = capsys.readouterr().err
    assert "Traceback" not in text and "\x1b" not in text and "ZeroDivisionError" in text
