"""自己的文本那一屏背后的：填的各项成为怎样的命令、名字怎样想、路径怎样补全、问另一个进程。约 10 s。"""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_tiny_dataset
from trainer_fork import ROOT

from nanogpt.errors import BadInput
from nanogpt.i18n import use_language
from workbench import path_completion as completion
from workbench.launch import command_line, prepare_command
from workbench.own_text import FIELDS, OwnText
from workbench.prepare_query import query


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def own(text: str, **values: str) -> OwnText:
    found = OwnText()
    found.values["input"] = text
    for key, value in values.items():
        found.values[key.replace("_", "-")] = value
    return found


def test_paths_are_split_as_in_a_shell(here: Path) -> None:
    (here / "my book.txt").write_text("x", encoding="utf-8")
    cases = {"a.txt b.txt": ["a.txt", "b.txt"], "my book.txt": ["my book.txt"], r"my\ book.txt": ["my book.txt"],
             "'my book.txt' b": ["my book.txt", "b"], "-x": ["./-x"], "~/a": [str(here / "a")], "": [], "  ": []}
    for text, words in cases.items():
        assert own(text).inputs() == words, text
    with pytest.raises(BadInput, match="quote"):
        own("it's").inputs()


def test_only_what_applies_is_shown_and_passed() -> None:
    everything = {"vocab-size": "512", "column": "body", "encoding": "cp1252", "separator": "---"}
    cases = {("a.txt", "char"): {"encoding", "separator"}, ("a.jsonl", "bpe"): {"encoding", "column", "vocab-size"},
             ("a.parquet", "char"): {"column"}, ("a.csv.gz", "byte"): {"encoding", "column"},
             ("hf:name", "char"): {"encoding", "column", "separator"}, ("*", "char"): {"encoding", "separator"}}
    for (text, tokenizer), wanted in cases.items():
        found = own(text, tokenizer=tokenizer, **everything)
        assert {key for key in everything if found.is_shown(key)} == wanted, text
        assert {word[2:].split("=")[0] for word in found.options() if word.startswith("--")} == {
            "input", *wanted, *(["tokenizer"] if tokenizer != "char" else [])}, text
    # 预览认出的说了算；明说的更算
    found = own("folder.d", **everything)
    assert found.is_shown("separator") and not found.is_shown("column")
    found.formats = frozenset({"jsonl"})
    assert found.is_shown("column") and not found.is_shown("separator")
    found.values["format"] = "parquet"
    assert not found.is_shown("encoding")


def test_bad_numbers_are_named() -> None:
    for key, value in (("val_fraction", "a tenth"), ("seed", "1.5"), ("vocab_size", "many")):
        with pytest.raises(BadInput, match=value):
            own("a.txt", tokenizer="bpe", **{key: value}).options()
    with pytest.raises(BadInput) as caught:
        own("").options()
    assert caught.value.code == "no_input"


def test_the_proposed_name(here: Path) -> None:
    make_tiny_dataset(here / "data" / "book")
    (here / "my.books").mkdir()
    cases = {"novel.txt": "novel", "data.jsonl.gz": "data", "book.txt": "book-2", "shakespeare.txt": "shakespeare-2",
             "'a b/*.txt'": "a-b", "texts/": "texts", "my.books": "my.books", "hf:org/set": "set",
             "'../e\u202evil x.txt'": "e-vil-x", "..": here.parent.name[:40], "": "", "'": ""}
    for text, name in cases.items():
        assert own(text).proposed_name(here) == name, text
    assert own("a.txt", name="mine").check_name(here) == "mine"
    for bad in ("../x", "shakespeare_char", "\x1b[2J"):
        with pytest.raises(BadInput):
            own("a.txt", name=bad).check_name(here)


def test_the_command_prepares_what_it_says(here: Path) -> None:
    """显示的命令粘贴到 shell 里就做成；每个选项都真的被读懂。"""
    rows = [json.dumps({"body": f"line {number} of the poem"}) for number in range(40)]
    (here / "my rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    found = own("my rows.jsonl", tokenizer="bpe", vocab_size="300", column="body", val_fraction="0.25", seed="7",
                drop_duplicates="yes", format="jsonl", encoding="utf-8")
    assert all(found.values[field.key] != field.default for field in FIELDS[2:] if found.is_shown(field.key))
    name = found.check_name(here)
    line = command_line(prepare_command(name, *found.options()))
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    meta = json.loads((here / "data" / "my-rows" / "meta.json").read_text(encoding="utf-8"))
    assert meta["vocab_size"] <= 300 and meta["train_tokens"] > meta["val_tokens"] > 0


def test_completion(here: Path) -> None:
    (here / "texts").mkdir()
    for name in ("texts/a one.txt", "texts/a two.txt", "texts/it's.txt", "other.txt", ".hidden"):
        (here / name).write_text("x", encoding="utf-8")
    assert completion.candidates("") == ["texts/", "other.txt"]
    assert completion.candidates(".h") == [".hidden"]
    assert completion.candidates("te") == ["texts/"]
    assert completion.candidates("~/te") == ["~/texts/"]
    found = completion.candidates("texts/a")
    assert found == ["texts/a one.txt", "texts/a two.txt"] and completion.common(found) == "texts/a "
    assert completion.candidates("nowhere/x") == [] == completion.candidates("a\0b")
    for text, word in (("a.txt te", "te"), (r"texts/a\ o", "texts/a o"), ("'texts/a o", "texts/a o"), ("x ", ""),
                       ("", ""), ("a\\", "a")):
        start, found_word = completion.last_word(text)
        assert found_word == word, text
        assert text[:start].strip() in ("", "a.txt", "x")
    for path in ("texts/it's.txt", "texts/a one.txt", "$(x) `y`", 'a"b', "\x1b[2J", "汉字 x"):
        assert own(completion.escaped(path)).inputs() == [path]


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="utf-8").split())


def test_the_query_answers_refuses_and_is_killed(here: Path) -> None:
    # 同一个 pytest 进程里，别的测试留着别的子进程
    before = children()
    (here / "a.txt").write_text("hello there " * 20, encoding="utf-8")
    shown = asyncio.run(query(["--preview", "--input", "a.txt"]))
    assert shown["estimated_documents"] == 1 and shown["estimated_tokens"] == 240 and not shown["is_estimate"]
    with pytest.raises(BadInput, match="does not exist"):
        asyncio.run(query(["--preview", "--input", "b.txt"]))
    with pytest.raises(BadInput) as caught:
        asyncio.run(query(["--check", "nothing"]))
    assert caught.value.code == "dataset_missing" and caught.value.hint
    with pytest.raises(BadInput) as caught:
        asyncio.run(query(["--preview", "--input", "a.txt", "--seed=x"]))
    assert "--seed" in caught.value.what or "--seed" in str(caught.value)

    async def cancelled() -> None:
        task = asyncio.create_task(query(["--preview", "--input", "a.txt", "--tokenizer", "bpe"]))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert children() <= before


def test_the_query_speaks_the_language() -> None:
    use_language("zh")
    try:
        with pytest.raises(BadInput, match="不存在"):
            asyncio.run(query(["--preview", "--input", "b.txt"]))
    finally:
        use_language("en")


def test_nothing_heavy_is_imported() -> None:
    code = ("import sys, workbench.screens.own_text, workbench.screens.doctor;"
            "print(sorted({'torch', 'datasets', 'transformers', 'tokenizers'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
