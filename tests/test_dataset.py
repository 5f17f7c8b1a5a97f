"""数据集目录：名字、元数据、坏的 `.bin`（故障表第 35 行）、敌意的 `meta.pkl`、写到一半出错。约 4 s。"""

import json
import os
import pickle
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nanogpt.dataset import (
    check_dataset,
    check_dataset_name,
    dataset_dir,
    list_datasets,
    open_dataset,
    write_dataset,
)
from nanogpt.dataset_meta import MAX_META_BYTES
from nanogpt.errors import BadInput, OutOfResources
from nanogpt.shipped import shipped_dir
from nanogpt.tokenizer import CharTokenizer, GPT2Tokenizer

ROOT = Path(__file__).resolve().parents[1]
CHARS = CharTokenizer(["\n", "a", "b"])


@pytest.fixture
def folder(tmp_path):
    """工作区里的 `data/mine`：训练 40 个 token，验证 20 个，词表 3。"""
    target = tmp_path / "data" / "mine"
    write_dataset(target, CHARS, {"train": np.arange(40) % 3, "val": np.arange(20) % 3}, source="test")
    return target


def snapshot(folder):
    """目录里每个文件的字节。"""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(call, *arguments):
    """`call` 抛出的 `BadInput`，答复不超过三行。"""
    with pytest.raises(BadInput) as caught:
        call(*arguments)
    assert len(str(caught.value).splitlines()) <= 3
    return caught.value


BAD_NAMES = ["", "/etc", "..", "../x", "a/../b", "a/..", ".", "./a", "a//b", "a/", "-rf"]
BAD_NAMES += ["a\0b", "a\nb", "a\x1b[0m", "a\\b", "a\u202eb", "\ud800", "x" * 300]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names(name, tmp_path):
    assert refusal(check_dataset_name, name).code == "bad_name"
    assert refusal(open_dataset, name, tmp_path).code == "bad_name"


@pytest.mark.parametrize("name", ["shakespeare_char", "a/b", "my data", "中文", ".hidden", "a..b"])
def test_good_names(name):
    assert check_dataset_name(name) == name


def test_written_dataset_opens(folder, tmp_path):
    dataset = open_dataset("mine", tmp_path)
    assert (dataset.vocab_size, dataset.tokens("train"), dataset.tokens("val")) == (3, 40, 20)
    assert dataset.tokenizer == {"kind": "char", "tokens": ["\n", "a", "b"]}
    assert dataset.path("val").read_bytes() == (np.arange(20) % 3).astype("<u2").tobytes()
    check_dataset(dataset, block_size=19, vocab_size=3)
    assert json.loads((folder / "meta.json").read_text(encoding="utf-8"))["source"] == "test"


def test_meta_pkl_is_nanogpts(folder, tmp_path):
    expected = {"vocab_size": 3, "itos": {0: "\n", 1: "a", 2: "b"}, "stoi": {"\n": 0, "a": 1, "b": 2}}
    assert pickle.loads((folder / "meta.pkl").read_bytes()) == expected
    (folder / "meta.json").unlink()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (folder / "meta.pkl").write_bytes(pickle.dumps(expected, protocol))
        assert open_dataset("mine", tmp_path).tokenizer == CHARS.to_dict()


def test_large_meta_pkl_of_all_of_unicodes_first_plane(folder, tmp_path):
    chars = [chr(i) for i in range(0x10000, 0x20000)]
    (folder / "meta.json").unlink()
    itos = dict(enumerate(chars))
    content = {"vocab_size": len(chars), "itos": itos, "stoi": {c: i for i, c in itos.items()}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(content))
    assert open_dataset("mine", tmp_path).vocab_size == 65536


def test_folder_without_meta_is_gpt2(folder, tmp_path):
    (folder / "meta.json").unlink()
    (folder / "meta.pkl").unlink()
    dataset = open_dataset("mine", tmp_path)
    assert dataset.tokenizer is None and dataset.vocab_size is None
    check_dataset(dataset, block_size=8, vocab_size=50304)


def test_meta_pkl_with_only_a_size(folder, tmp_path):
    (folder / "meta.json").unlink()
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 100}))
    dataset = open_dataset("mine", tmp_path)
    assert dataset.tokenizer is None and dataset.vocab_size == 100


class Canary:
    """反序列化时会建立一个文件。"""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def hostile_pickles(canary):
    """名字到字节：会运行代码的、残缺的、类型不对的、要吃光内存的。"""
    good = {"vocab_size": 2, "itos": {0: "a", 1: "b"}, "stoi": {"a": 0, "b": 1}}
    shared: list = ["a"]
    for _ in range(60):
        shared = [shared, shared]
    ring: list = []
    ring.append(ring)
    return {
        "reduce": pickle.dumps(Canary(canary)),
        "reduce_inside": pickle.dumps(good | {"extra": Canary(canary)}),
        "reduce_protocol_0": pickle.dumps(Canary(canary), 0),
        "inst": b"(S'" + str(canary).encode() + b"'\nios\nmkdir\n.",
        "global_only": b"cos\nsystem\n.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"Px\n.",
        "tuple": pickle.dumps(good | {"x": (1, 2)}),
        "bytes": pickle.dumps(good | {"x": b"1"}),
        "none": pickle.dumps(good | {"x": None}),
        "bool": pickle.dumps(good | {"vocab_size": True}),
        "truncated": pickle.dumps(good)[:-4],
        "empty": b"",
        "text": b"hello",
        "zeros": bytes(1000),
        "list": pickle.dumps([1]),
        "huge_memo_index": b"\x80\x02}r\xff\xff\xff\x7f.",
        "huge_int": b"\x80\x02}X\x01\x00\x00\x00aI" + b"9" * 4000 + b"\ns.",
        "huge_string": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
        "shared_lists": pickle.dumps(good | {"itos": shared}),
        "ring": pickle.dumps(good | {"itos": {0: ring, 1: "b"}}),
        "unhashable_key": b"\x80\x02}(]K\x01u.",
        "bad_itos": pickle.dumps(good | {"itos": {0: "a", 2: "b"}}),
        "bad_stoi": pickle.dumps(good | {"stoi": {"a": 1, "b": 0}}),
        "size_too_small": pickle.dumps(good | {"vocab_size": 1}),
        "size_huge": pickle.dumps(good | {"vocab_size": 10**6}),
        "twice": pickle.dumps(good | {"itos": {0: "a", 1: "a"}}),
        "many_opcodes": b"\x80\x02" + b"]0" * 2_000_000 + b"}.",
    }


@pytest.mark.parametrize("kind", list(hostile_pickles("x")))
def test_hostile_meta_pkl_is_refused_and_nothing_runs(kind, folder, tmp_path):
    canary = tmp_path / "canary"
    (folder / "meta.json").unlink()
    (folder / "meta.pkl").write_bytes(hostile_pickles(canary)[kind])
    error = refusal(open_dataset, "mine", tmp_path)
    assert error.code in ("unsafe_pickle", "bad_meta", "bad_tokenizer") and "meta.pkl" in str(error)
    assert not canary.exists()


def test_canary_would_run(tmp_path):
    """上面的测试确实能失败：不加限制的读法会运行它。"""
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary")))
    assert (tmp_path / "canary").is_dir()


def test_oversized_meta_is_refused(folder, tmp_path):
    for name in ("meta.json", "meta.pkl"):
        with open(folder / name, "wb") as file:
            file.truncate(MAX_META_BYTES + 1)
        assert "64 MiB" in refusal(open_dataset, "mine", tmp_path).what
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "line 1, column 1"),
        (b'{"vocab_size": 3,\n "x" 1}', "line 2, column 6"),
        (b"\xff\xfe", "byte 0"),
        (b"[1]", "not an object"),
        (b'{"vocab_size": NaN}', "NaN"),
        (b'{"vocab_size": "3"}', "vocab_size"),
        (b'{"vocab_size": true}', "vocab_size"),
        (b'{"vocab_size": 0}', "vocab_size"),
        (b'{"vocab_size": 65537}', "vocab_size"),
        (b'{"vocab_size": 3.0}', "vocab_size"),
        (b"{}", "vocab_size"),
        (b'{"vocab_size": ' + b"9" * 6000 + b"}", "broken JSON"),
        (b'{"a":' + b"[" * 200_000, "broken JSON"),
        (b'{"vocab_size": 3, "train_tokens": -1}', "train_tokens"),
        (b'{"vocab_size": 3, "tokenizer": {"kind": "magic"}}', "magic"),
        (b'{"vocab_size": 1, "tokenizer": {"kind": "char", "tokens": ["a", "b"]}}', "vocab_size"),
        (b'{"vocab_size": 3, "tokenizer": 5}', "not a table"),
    ],
)
def test_broken_meta_json(content, says, folder, tmp_path):
    (folder / "meta.json").write_bytes(content)
    error = refusal(open_dataset, "mine", tmp_path)
    assert says in str(error) and "meta.json" in str(error)


def cut_to(path, size):
    os.truncate(path, size)


def put_id(path, offset, value):
    ids = np.fromfile(path, dtype="<u2")
    ids[offset] = value
    ids.tofile(path)


# 弄坏的办法、`block_size`、错误代码、答复里必须有的话。
ROW_35 = [
    (lambda f: (f / "train.bin").unlink(), 8, "split_missing", ["train.bin"]),
    (lambda f: (f / "val.bin").unlink(), 8, "split_missing", ["val.bin"]),
    (lambda f: cut_to(f / "val.bin", 0), 8, "split_empty", ["val.bin"]),
    (lambda f: cut_to(f / "train.bin", 79), 8, "split_odd", ["train.bin", "79 bytes"]),
    (lambda _: None, 20, "split_too_short", ["val.bin", "20 tokens", "at least 21", "block_size=19"]),
    (lambda f: cut_to(f / "train.bin", 60), 8, "split_changed", ["train.bin", "30 tokens", "40"]),
    (lambda f: put_id(f / "train.bin", 17, 3), 8, "id_out_of_range", ["train.bin, token 17", "id 3,"]),
    (lambda f: put_id(f / "val.bin", 19, 65535), 8, "id_out_of_range", ["val.bin, token 19", "65535"]),
]


@pytest.mark.parametrize(("spoil", "block_size", "code", "says"), ROW_35)
def test_row_35(spoil, block_size, code, says, folder, tmp_path):
    (folder / "prepare.py").write_text("", encoding="utf-8")
    dataset = open_dataset("mine", tmp_path)
    check_dataset(dataset, 19, 3)
    spoil(folder)
    error = refusal(check_dataset, dataset, block_size, 3)
    assert error.code == code and all(word in str(error) for word in says)
    assert str(folder) in error.where
    if code != "split_too_short":
        assert error.hint == "run: python data/mine/prepare.py"


def test_large_file_is_scanned_in_bounded_time(folder, tmp_path):
    """稀疏的 2 GB 文件：末尾的坏 id 仍被找到，且不整个读完。"""
    (folder / "meta.json").unlink()
    with open(folder / "train.bin", "r+b") as file:
        file.truncate(2_000_000_000)
    dataset = open_dataset("mine", tmp_path)
    start = time.perf_counter()
    check_dataset(dataset, 8, 3)
    assert time.perf_counter() - start < 10
    with open(folder / "train.bin", "r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(b"\x09\x00")
    assert "token 999999999" in refusal(check_dataset, dataset, 8, 3).where


def test_missing_dataset_names_the_command(tmp_path):
    error = refusal(open_dataset, "shakespeare_cha", tmp_path)
    assert error.code == "dataset_missing" and "did you mean shakespeare_char?" in error.hint
    own = tmp_path / "data" / "own"
    own.mkdir(parents=True)
    (own / "prepare.py").write_text("", encoding="utf-8")
    assert refusal(open_dataset, "own", tmp_path).hint == "run: python data/own/prepare.py"


@pytest.mark.skipif((shipped_dir("data") / "openwebtext" / "train.bin").exists(), reason="openwebtext is prepared here")
def test_shipped_but_unprepared_dataset_names_the_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(open_dataset, "openwebtext", tmp_path).hint == "run: python -m nanogpt.prepare openwebtext"


def test_workspace_goes_before_shipped(folder, tmp_path):
    assert dataset_dir("mine", tmp_path) == folder


@pytest.mark.usefixtures("folder")
def test_list_datasets(tmp_path):
    (tmp_path / "data" / "broken").mkdir()
    (tmp_path / "data" / "broken" / "val.bin").write_bytes(b"")
    rows = {row["name"]: row for row in list_datasets(tmp_path)}
    assert rows["mine"]["is_prepared"] and rows["mine"]["tokens"] == {"train": 40, "val": 20}
    assert (rows["mine"]["vocab_size"], rows["mine"]["bytes"]) == (3, 120)
    assert not rows["broken"]["is_prepared"] and "train.bin" in rows["broken"]["problem"]
    assert {"shakespeare_char", "shakespeare", "openwebtext", "python_stdlib"} <= rows.keys()


def test_permissions_under_any_umask(tmp_path):
    before = os.umask(0)
    try:
        write_dataset(tmp_path / "new", CHARS, {"train": np.zeros(3), "val": np.zeros(3)})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()} == {0o600}


def failing_stream(error):
    yield np.zeros(100_000, dtype=np.uint16)
    raise error


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (lambda: failing_stream(RuntimeError("x")), RuntimeError),
        (lambda: failing_stream(KeyboardInterrupt()), KeyboardInterrupt),
        (lambda: failing_stream(OSError(28, "No space left on device")), OutOfResources),
        (lambda: np.array([0, 1, 65536]), BadInput),
        (lambda: np.array([0, 3]), BadInput),
        (lambda: np.array([-1]), BadInput),
    ],
)
def test_failed_write_leaves_the_old_dataset_whole(bad, kind, folder):
    before = snapshot(folder)
    with pytest.raises(kind):
        write_dataset(folder, CHARS, {"train": np.zeros(50), "val": bad()})
    assert snapshot(folder) == before


def test_disk_full_while_writing(folder):
    """真的写不下：文件大小受限的进程。"""
    before = snapshot(folder)
    code = f"""
import resource, sys, numpy as np
from pathlib import Path
from nanogpt.dataset import write_dataset
from nanogpt.errors import run_main
from nanogpt.tokenizer import CharTokenizer
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
splits = {{"train": iter([np.zeros(9, dtype=np.uint16)] * 100_000), "val": np.zeros(9)}}
sys.exit(run_main(lambda: write_dataset(Path({str(folder)!r}), CharTokenizer(["a"]), splits)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 4 and "disk full" in done.stderr and "Traceback" not in done.stderr
    assert snapshot(folder) == before


def test_free_space_is_checked_first(folder):
    before = snapshot(folder)
    with pytest.raises(OutOfResources) as caught:
        write_dataset(folder, CHARS, {"train": iter([]), "val": iter([])}, expected_tokens=1 << 60)
    assert "need" in caught.value.what and snapshot(folder) == before


def test_killed_writer_leaves_old_data_and_its_temp_is_swept(folder):
    before = snapshot(folder)
    code = f"""
import os, signal, numpy as np
from pathlib import Path
from nanogpt.dataset import write_dataset
from nanogpt.tokenizer import CharTokenizer
def stream():
    yield np.zeros(100_000, dtype=np.uint16)
    os.kill(os.getpid(), signal.SIGKILL)
write_dataset(Path({str(folder)!r}), CharTokenizer(["a"]), {{"train": stream(), "val": stream()}})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60)
    assert done.returncode == -9
    left = snapshot(folder)
    assert {name: left[name] for name in before} == before and len(left) == len(before) + 1
    write_dataset(folder, CHARS, {"train": np.zeros(40), "val": np.zeros(20)})
    assert snapshot(folder).keys() == before.keys()


def test_changing_to_gpt2_drops_the_character_vocabulary(folder, tmp_path):
    write_dataset(folder, GPT2Tokenizer(), {"train": np.arange(50), "val": np.arange(50)})
    assert not (folder / "meta.pkl").exists()
    dataset = open_dataset("mine", tmp_path)
    assert dataset.vocab_size == 50257 and dataset.tokenizer == {"kind": "gpt2"}


def test_directory_in_the_way_is_named(folder):
    (folder / "val.bin").unlink()
    (folder / "val.bin").mkdir()
    before = (folder / "train.bin").read_bytes()
    error = refusal(write_dataset, folder, CHARS, {"train": np.zeros(5), "val": np.zeros(5)})
    assert error.code == "not_a_file" and (folder / "train.bin").read_bytes() == before
