"""坏的输入（议题 5 的第五条）：每一种都有三行以内的答复，什么也不留下。约 6 s。"""

import gzip
import json
import os

import pytest

from nanogpt import prepare
from nanogpt.errors import BadInput

GOOD = "the quick brown fox jumps over the lazy dog\n" * 50
LINES = "".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(50)).encode()


def parquet(**columns):
    import pyarrow.parquet

    def write(path):
        pyarrow.parquet.write_table(pyarrow.table(columns), path)

    return write


def fifo(path):
    os.mkfifo(path)


def mixed_folder(path):
    path.mkdir()
    (path / "a.txt").write_text("x", encoding="utf-8")
    (path / "b.jsonl").write_bytes(LINES)


def unknown_folder(path):
    path.mkdir()
    (path / "a.docx").write_bytes(b"PK\x03\x04")


def half_saved(path):
    path.mkdir()
    (path / "dataset_info.json").write_text("{}", encoding="utf-8")
    (path / "state.json").write_text('{"_data_files": [{"filename": "data-0.arrow"}]}', encoding="utf-8")


LATIN = "Où êtes-vous, là-bas à l'été ? Ça va très bien.\n".encode("cp1252") * 40

# 名字, 内容（字节，或写出它的函数，或 None 不写）, 另外的参数, 错误的代号, 答复里要有的话
BROKEN = {
    "empty": ("a.txt", b"", [], "empty_text", "a.txt is empty"),
    "blank": ("a.txt", b" \n\t\n" * 30, [], "empty_text", "nothing but white space"),
    "one character": ("a.txt", b"a", [], "text_too_short", "1 characters"),
    "blank documents": ("a.jsonl", b'{"text": ""}\n{"text": " "}\n', ["--tokenizer", "byte"], "empty_text", "empty"),
    "missing": (None, None, ["--input", "absent.txt"], "bad_text", "absent.txt does not exist"),
    "no match": (None, None, ["--input", "absent/*.txt"], "bad_text", "no file matches absent/*.txt"),
    "not a file": ("pipe", fifo, [], "bad_text", "not a regular file"),
    "unreadable": (None, None, ["--input", "/proc/self/mem"], "bad_text", "cannot be read"),
    "binary": ("a.txt", bytes(range(256)) * 99, [], "binary_file", "does not look like text"),
    "pdf": ("a.txt", b"%PDF-1.7\n\xe2\xe3", [], "binary_file", "looks like PDF"),
    "named encoding is wrong": ("a.txt", "汉字".encode("gb18030") * 9, ["--encoding", "utf-8"], "bad_encoding",
                                "byte 0"),
    "utf-8 breaks late": ("a.txt", b"good text " * 99_999 + b"\xff!", [], "bad_encoding", "byte 999990"),
    "gb18030 breaks late": ("a.txt", "汉字很多\n".encode("gb18030") * 40_000 + b"\xff\xff\n", [], "bad_encoding",
                            "byte 360000"),
    "one of several encodings": ("a.txt", LATIN, [], "unsure_encoding", "name it with --encoding"),
    "no such encoding": ("a.txt", b"abc", ["--encoding", "utf-99"], "bad_encoding", "no encoding 'utf-99'"),
    "cut gzip": ("a.jsonl.gz", gzip.compress(LINES * 99)[:-40], [], "bad_text", "cannot be read"),
    "mixed folder": ("folder", mixed_folder, [], "bad_text", "mixes kinds of files: jsonl 1, text 1"),
    "unknown folder": ("folder", unknown_folder, [], "bad_text", "no file of a known kind"),
    "half-saved dataset": ("folder", half_saved, [], "bad_text", "not a whole saved dataset"),
    "csv without the column": ("a.csv", b"id,body\n1,x\n2,y\n", [], "no_column", "it has: id, body"),
    "csv with a short row": ("a.csv", b"id,text\n1,x\n2\n3,z\n", [], "bad_csv", "line 3"),
    "csv with an open quote": ("a.csv", b'id,text\n1,"x\n2,y\n', [], "bad_csv", "not valid CSV"),
    "json line cut short": ("a.jsonl", LINES + b'{"text": "cut sh', [], "bad_json", "line 51"),
    "json line is no object": ("a.jsonl", LINES + b"[1]\n" + LINES, [], "bad_json", "line 51"),
    "json without the column": ("a.jsonl", b'{"body": "x"}\n' * 5, [], "no_column", "it has: body"),
    "json text is a number": ("a.jsonl", LINES + b'{"text": 5}\n', [], "bad_json", "'text' is not a text"),
    "lone surrogate": ("a.jsonl", LINES + b'{"text": "a\\ud800b"}\n', [], "bad_json", "half of a surrogate pair"),
    "json line of 65 MiB": ("a.jsonl", b'{"text": "' + b"x" * (65 << 20) + b'"}\n', [], "bad_json",
                            "longer than 64 MiB"),
    "broken parquet": ("a.parquet", b"PAR1 not really", [], "bad_text", "cannot be read"),
    "parquet without the column": ("a.parquet", parquet(body=["x", "y"]), [], "no_column", "it has: body"),
    "parquet of numbers": ("a.parquet", parquet(text=[1, 2]), [], "no_column", "int64 instead of text"),
    "parquet with nulls": ("a.parquet", parquet(text=["x", None]), [], "bad_text", "rows without a text"),
    "all the same": ("a.jsonl", b'{"text": "same"}\n' * 9, [], "text_too_short", "all documents are the same"),
    "too many characters": ("a.txt", "".join(map(chr, range(0x10000, 0x20001))).encode(), [], "too_many_characters",
                            "--tokenizer bpe"),
    "vocabulary beyond uint16": ("a.txt", GOOD.encode(), ["--tokenizer", "bpe", "--vocab-size", "70000"],
                                 "bad_argument", "65536"),
    "vocabulary of characters": ("a.txt", GOOD.encode(), ["--vocab-size", "500"], "bad_argument", "--tokenizer bpe"),
    "fraction": ("a.txt", GOOD.encode(), ["--val-fraction", "1.5"], "bad_argument", "between 0 and 1"),
    "column of a text": ("a.txt", GOOD.encode(), ["--column", "x"], "bad_argument", "--column"),
    "separator of json": ("a.jsonl", LINES, ["--separator", "x"], "bad_argument", "--separator"),
    "unknown flag": ("a.txt", GOOD.encode(), ["--frobnicate"], "bad_argument", "--frobnicate"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_input(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, content, more, code, says = BROKEN[case]
    if case.startswith("parquet"):
        pytest.importorskip("pyarrow")
    if callable(content):
        content(tmp_path / name)
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    inputs = ["--input", name] if name else []
    with pytest.raises(BadInput) as caught:
        prepare.main(["mine", *inputs, *more])
    message = str(caught.value)
    assert caught.value.code == code and says in message, message
    assert len(message.splitlines()) <= 3 and caught.value.exit_code == 2
    # 一个文件也没有留下
    assert not (tmp_path / "data" / "mine").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_no_permission(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(GOOD, encoding="utf-8")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(BadInput) as caught:
        prepare.main(["mine", "--input", "a.txt"])
    assert "Permission denied" in caught.value.what and not (tmp_path / "data").exists()


def test_broken_input_leaves_the_old_dataset_alone(tmp_path, monkeypatch):
    """坏的输入不动已有的数据集。"""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(GOOD, encoding="utf-8")
    prepare.main(["mine", "--input", "a.txt"])
    before = {path.name: path.read_bytes() for path in (tmp_path / "data" / "mine").iterdir()}
    (tmp_path / "a.jsonl").write_bytes(LINES + b'{"text": "cut sh')
    with pytest.raises(BadInput):
        prepare.main(["mine", "--input", "a.jsonl", "--overwrite"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "data" / "mine").iterdir()} == before
