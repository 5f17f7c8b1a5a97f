"""数据医生：种下的每一种毛病都认得出来，好的数据集没有毛病。约 5 s。"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, needs_bpe

from nanogpt import prepare
from nanogpt.dataset import open_dataset, write_dataset
from nanogpt.dataset_doctor import examine, quick_look
from nanogpt.dataset_stats import leaked_share
from nanogpt.tokenizer import ByteTokenizer, CharTokenizer

ROOT = Path(__file__).resolve().parents[1]
TEXT = "".join(f"Line {i * i} of a text that goes on: {i * 7919 % 1000}.\n" for i in range(3000))
CHARS = CharTokenizer(sorted(set(TEXT)))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """一个好的字符数据集 `data/mine`。"""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHARED / "tiktoken_cache"))
    target = tmp_path / "data" / "mine"
    cut = len(TEXT) * 9 // 10
    halves = {"train": TEXT[:cut], "val": TEXT[cut:]}
    write_dataset(target, CHARS, {split: np.array(CHARS.encode(text)) for split, text in halves.items()})
    return target


def codes(block_size=0):
    """`--check` 所见：代号到级别。"""
    findings = examine(open_dataset("mine"), block_size)["findings"]
    assert all(finding["what"] and finding["level"] in ("error", "warning", "note") for finding in findings)
    return {finding["code"]: finding["level"] for finding in findings}


def change(folder, split, function):
    """改掉一份的内容，连同 `meta.json` 里的个数。"""
    path = folder / f"{split}.bin"
    data = function(np.fromfile(path, dtype="<u2"))
    path.write_bytes(data if isinstance(data, bytes) else np.asarray(data).tobytes())
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    meta[f"{split}_tokens"] = path.stat().st_size // 2
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def forget_meta(folder):
    for name in ("meta.json", "meta.pkl"):
        (folder / name).unlink()


def replace_text(folder, text):
    cut = len(text) * 9 // 10
    tokenizer = ByteTokenizer()
    write_dataset(folder, tokenizer, {"train": np.array(tokenizer.encode(text[:cut])),
                                      "val": np.array(tokenizer.encode(text[cut:]))})


def only_in_val(folder, token):
    """验证里三成是训练里从来没有的 token。"""
    change(folder, "train", lambda ids: np.where(ids == token, 3, ids).astype("<u2"))
    change(folder, "val", lambda ids: np.where(np.arange(ids.size) % 3, ids, token).astype("<u2"))


def npy(ids):
    import io

    buffer = io.BytesIO()
    np.save(buffer, ids)
    return buffer.getvalue()


PLANTED = {
    "wrong_dtype": lambda folder: change(folder, "train", lambda ids: ids.astype("<u4")),
    "wrong_dtype ": lambda folder: change(folder, "val", lambda ids: ids.astype("<i8")),
    "wrong_byte_order": lambda folder: change(folder, "train", lambda ids: ids.byteswap()),
    "npy_header": lambda folder: change(folder, "train", npy),
    "id_out_of_range": lambda folder: change(folder, "train", lambda ids: np.append(ids, np.uint16(len(CHARS.tokens)))),
    "split_empty": lambda folder: change(folder, "val", lambda _ids: b""),
    "split_odd": lambda folder: change(folder, "val", lambda ids: ids.tobytes()[:-1]),
    "split_missing": lambda folder: (folder / "val.bin").unlink(),
    "split_changed": lambda folder: (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes()[:-100]),
    "leakage": lambda folder: shutil.copy(folder / "train.bin", folder / "val.bin") and change(
        folder, "val", lambda ids: ids[5000:9000]),
    "repeated_tail": lambda folder: change(folder, "train", lambda ids: np.append(ids, np.zeros(5000, dtype="<u2"))),
    "one_token": lambda folder: change(folder, "train",
                                       lambda ids: np.where(np.arange(ids.size) % 10, 1, ids).astype("<u2")),
    "wrong_tokenizer": forget_meta,
    "replacement_characters": lambda folder: replace_text(folder, TEXT.replace("o", "\ufffd")),
    "mojibake": lambda folder: replace_text(folder, TEXT.replace("o", "é").encode().decode("latin-1")),
    "binary": lambda folder: replace_text(folder, TEXT.replace("o", "\x01")),
    "unlike_splits": lambda folder: only_in_val(folder, len(CHARS.tokens) - 1),
    "val_larger": lambda folder: change(folder, "train", lambda ids: ids[:9000]),
}


@pytest.mark.parametrize("planted", [pytest.param(name, marks=[needs_bpe] if name == "wrong_tokenizer" else [])
                                     for name in PLANTED])
def test_planted_fault_is_found(planted, folder):
    assert codes() == {}
    PLANTED[planted](folder)
    found = codes()
    assert planted.strip() in found and found[planted.strip()] != "note", found


@pytest.mark.usefixtures("folder")
def test_sizes_against_block_size():
    val = open_dataset("mine").tokens("val")
    assert codes(256) == {} and codes(val) == {"split_too_short": "error"}
    assert codes(val // 3) == {"val_short": "warning"}


@pytest.mark.usefixtures("folder")
def test_command(capsys):
    assert prepare.main(["--check", "mine"]) == 0
    out = capsys.readouterr().out
    assert "nothing wrong found" in out and "1.00 characters a token" in out and "most frequent:" in out
    assert prepare.main(["--check", "mine", "--json", "--block-size", "64"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["findings"] == [] and shown["splits"]["train"]["tokens"] == open_dataset("mine").tokens("train")
    assert shown["tokenizer"] == "char" and len(shown["top_tokens"]) == 20 and shown["samples"]
    assert prepare.main(["--check", "mine", "--block-size", "999999"]) == 2
    out = capsys.readouterr().out
    assert "error: train.bin holds" in out and "fix:" in out


@pytest.mark.parametrize("name", ["shakespeare_char", "shakespeare", "python_stdlib"])
def test_shipped_datasets_are_well(name, monkeypatch):
    """随包的数据集（备好了的）没有错误也没有提醒。"""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHARED / "tiktoken_cache"))
    if not (ROOT / "data" / name / "train.bin").is_file():
        pytest.skip("not prepared here")
    if name == "shakespeare" and not (SHARED / "tiktoken_cache").is_dir():
        pytest.skip("no GPT-2 BPE files here")
    shown = examine(open_dataset(name, ROOT), 256)
    assert [finding for finding in shown["findings"] if finding["level"] != "note"] == []


def test_quick_look_is_quick(folder):
    """便宜的部分只看开头：类型认错在训练之前就说。"""
    assert quick_look(open_dataset("mine")) == []
    change(folder, "train", lambda ids: ids.astype("<u4"))
    assert [finding.code for finding in quick_look(open_dataset("mine"))] == ["wrong_dtype"]


def test_leak_is_found_wherever_it_stands(tmp_path):
    """两百万 token 的训练里，验证的一半照抄自各处（跨窗口的边界也算），另一半是新的。"""
    chooser = np.random.default_rng(3)
    train = chooser.integers(0, 250, 2_200_000).astype("<u2")
    copied = np.concatenate([train[i * 104_000 + 8_500:][:5000] for i in range(20)])
    val = np.concatenate([copied, chooser.integers(0, 250, copied.size).astype("<u2")])
    write_dataset(tmp_path / "data" / "mine", ByteTokenizer(), {"train": train, "val": val})
    share, place = leaked_share(open_dataset("mine", tmp_path), 50)
    assert 0.4 < share < 0.6 and place is not None and place < copied.size
    write_dataset(tmp_path / "data" / "mine", ByteTokenizer(), {"train": train, "val": val[copied.size:]})
    assert leaked_share(open_dataset("mine", tmp_path), 50) == (0.0, None)
