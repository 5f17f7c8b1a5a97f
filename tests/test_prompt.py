"""提示、停止串与逐 token 的文本流。不到两秒；用 GPT-2 分词器的要共享的词表缓存。"""

import json
import random
from pathlib import Path

import pytest
from conftest import SHARED

from nanogpt.errors import BadInput
from nanogpt.prompt import TextStream, read_prompt, read_stops
from nanogpt.tokenizer import CharTokenizer, GPT2Tokenizer


@pytest.fixture
def gpt2(monkeypatch: pytest.MonkeyPatch) -> GPT2Tokenizer:
    if not (SHARED / "tiktoken_cache").is_dir():
        pytest.skip("no shared tiktoken cache")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHARED / "tiktoken_cache"))
    return GPT2Tokenizer()


def test_prompt_from_a_file(tmp_path: Path) -> None:
    """换行统一成 `\\n`，与 nanoGPT 的文本方式 open 相同。"""
    path = tmp_path / "p.txt"
    path.write_bytes("一\r\n二\r三\n".encode())
    assert read_prompt(f"FILE:{path}") == path.read_text(encoding="utf-8") == "一\n二\n三\n"
    assert read_prompt("file:x") == "file:x" and read_prompt("\n") == "\n"


def test_bad_prompts(tmp_path: Path) -> None:
    """第 36 行：编码不对、为空、读不出，各说出位置。"""
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty.txt").write_bytes(b"")
    with open(tmp_path / "big.txt", "wb") as file:
        file.truncate((64 << 20) + 1)
    for start, says in (("", "empty"), ("ab\udcff", "not UTF-8: character 2"), (f"FILE:{tmp_path}/empty.txt", "empty"),
                        (f"FILE:{tmp_path}/latin.txt", "not UTF-8: byte 3"), (f"FILE:{tmp_path}", "Is a directory"),
                        (f"FILE:{tmp_path}/none", "No such file"), ("FILE:", "cannot read"),
                        ("FILE:a\0b", "cannot read"),
                        (f"FILE:{tmp_path}/big.txt", "larger than 64 MiB"), ("FILE:" + "x" * 5000, "cannot read")):
        with pytest.raises(BadInput) as caught:
            read_prompt(start)
        text = str(caught.value)
        assert caught.value.code == "bad_prompt" and says in text and len(text.splitlines()) <= 3
        text.encode()


def test_stops() -> None:
    assert read_stops("") == [] and read_stops("END") == ["END"] and read_stops('["a", "b"]') == ["a", "b"]
    assert read_stops("[") == ["["] and read_stops("[INST]") == ["[INST]"] and read_stops("\n\n") == ["\n\n"]
    assert read_stops("[" * 100000) == ["[" * 100000]
    for wrong in ('[""]', "[1]", '["a", null]', "[[]]"):
        with pytest.raises(BadInput, match="JSON list"):
            read_stops(wrong)


def stream(tokenizer: CharTokenizer | GPT2Tokenizer, ids: list[int], stops: list[str]) -> list[str]:
    """逐个交给 `TextStream`，得到每次显示的片段。"""
    text = TextStream(tokenizer, stops)
    pieces = []
    for token in ids:
        pieces.append(text.push(token))
        if text.is_stopped:
            break
    return [*pieces, text.finish()]


LETTERS = CharTokenizer(list("abcdef\n"))


@pytest.mark.parametrize("text, stops, shown", [
    ("abcdef", ["cd"], "ab"), ("abcdef", ["ef"], "abcd"), ("abcde", ["ef"], "abcde"), ("abab", ["ab"], ""),
    ("aabab", ["abab"], "a"), ("abcdef", ["def", "cd"], "ab"), ("abcdef", ["bcdefa", "f"], "abcde"),
    ("ab\n\ncd", ["\n\n"], "ab"), ("fff", ["ab"], "fff"), ("abcabd", ["abd"], "abc")])
def test_stops_are_never_shown(text: str, stops: list[str], shown: str) -> None:
    """停止串跨着几个 token 时，它的任何一段也不先显示出来；没有停下则一个字不少。"""
    pieces = stream(LETTERS, LETTERS.encode(text), stops)
    assert "".join(pieces) == shown


def test_random_stops() -> None:
    """与「先全部解码再截断」相比，任意文本都一样，而且每一步显示的都是它的前缀。"""
    rng = random.Random(3)
    for _number in range(2000):
        text = "".join(rng.choices("abc", k=rng.randrange(1, 15)))
        stops = ["".join(rng.choices("abc", k=rng.randrange(1, 5))) for _stop in range(rng.randrange(1, 3))]
        # 流在停止串一完整就停，所以截在最先凑齐的那个
        ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
        seen = text[:min(ends)] if ends else text
        expected = seen[:min(seen.find(stop) for stop in stops if stop in seen)] if ends else text
        pieces = stream(LETTERS, LETTERS.encode(text), stops)
        assert "".join(pieces) == expected, (text, stops)


def test_never_half_a_character(gpt2: GPT2Tokenizer) -> None:
    """表情与汉字跨着几个 GPT-2 token：显示的每一段都是整字，合起来一字不差。"""
    for text in ("hi 🎉👩‍👩‍👧 ok", "床前明月光，疑是地上霜。", "a\u0301é\u200d🇨🇳", "naïve"):
        ids = gpt2.encode(text)
        pieces = stream(gpt2, ids, [])
        assert "".join(pieces) == text and not any("\ufffd" in piece for piece in pieces)
        assert stream(gpt2, ids, [text[-1]])[-1] == "" and "".join(stream(gpt2, ids, [text[3]])) == text[:3]
    ids = gpt2.encode("月")
    assert len(ids) > 1
    assert "".join(stream(gpt2, ids[:1], [])) == "\ufffd"  # 真的没收全，结束时才看得出来
    # 中间坏了的字符不拖住后面的
    pieces = stream(gpt2, [ids[0], *gpt2.encode("abc def ghi")], [])
    assert "".join(pieces) == "\ufffdabc def ghi" and "".join(pieces[:2]).startswith("\ufffd")


def test_long_stop_lists_are_json() -> None:
    assert read_stops(json.dumps(["甲", "\n乙"])) == ["甲", "\n乙"]
