"""从自己的文本到数据集：与 nanoGPT 逐字节相同、往返、各种格式与编码、划分、重复、被杀之后续做、内存。约 60 s。"""

import csv
import gzip
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import IS_SLOW, SHARED, needs_bpe, slow

from nanogpt import prepare
from nanogpt.dataset import open_dataset
from nanogpt.dataset_stats import leaked_share
from nanogpt.errors import BadInput, OutOfResources
from nanogpt.prepare_documents import one_newline, plan_units, read_unit
from nanogpt.prepare_sources import find_sources
from nanogpt.tokenizer import tokenizer_from_dict

ROOT = Path(__file__).resolve().parents[1]
TINY, TANG = (SHARED / name / "input.txt" for name in ("tinyshakespeare", "tang_poems"))
needs_texts = pytest.mark.skipif(not (TINY.is_file() and TANG.is_file()), reason="no texts here")
KINDS = ["char", "byte", "bpe", pytest.param("gpt2", marks=needs_bpe)]
STORIES = [f"Story {i}: the quick brown fox {i * i} jumps.\nThe end of {i}." for i in range(200)]


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    """每个测试在自己的工作区里，用备好的 BPE 缓存。"""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHARED / "tiktoken_cache"))


def make(*arguments, name="mine"):
    """`python -m nanogpt.prepare NAME ...`，在本进程里；返回打开的数据集。"""
    assert prepare.main([name, *map(str, arguments)]) == 0
    return open_dataset(name)


def ids_of(dataset, split):
    return np.fromfile(dataset.path(split), dtype="<u2")


def text_of(dataset, split):
    return tokenizer_from_dict(dataset.tokenizer).decode(int(i) for i in ids_of(dataset, split))


def documents_of(dataset, split):
    """以文末记号（字符级是换行）隔开的各篇。"""
    tokenizer = tokenizer_from_dict(dataset.tokenizer)
    mark = "\n" if tokenizer.eot_id is None else "<|endoftext|>"
    *documents, rest = text_of(dataset, split).split(mark)
    assert rest == ""
    return documents


def digests(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("train.bin", "val.bin")}


@needs_texts
@needs_bpe
def test_one_file_is_nanogpts():
    """字符级与 GPT-2：与 nanoGPT 的两个脚本逐字节相同（摘要见 `test_prepare.py`）。"""
    from test_prepare import NANOGPT_SHA256

    for kind, name in (("char", "shakespeare_char"), ("gpt2", "shakespeare")):
        dataset = make("--input", TINY, "--tokenizer", kind, name=kind)
        assert digests(dataset.folder) == NANOGPT_SHA256[name]


@needs_texts
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", [TINY, TANG], ids=["shakespeare", "tang"])
def test_everything_comes_back(path, kind):
    """两份解码后接起来，就是原文。这里只取开头；整篇见 `benchmarks/texts.py`。"""
    more = ("--vocab-size", 2000) if kind == "bpe" else ()
    text = path.read_text(encoding="utf-8")[:200_000]
    Path("a.txt").write_text(text, encoding="utf-8")
    dataset = make("--input", "a.txt", "--tokenizer", kind, *more)
    assert dataset.tokenizer["kind"] == kind and (kind != "bpe" or dataset.vocab_size == 2000)
    train, val = text_of(dataset, "train"), text_of(dataset, "val")
    assert train + val == text and len(train) == int(len(text) * 0.9)
    assert dataset.meta["train_chars"] == len(train) and dataset.meta["split"] == "position"
    assert not list(dataset.folder.glob(".*"))


def write_stories(path, texts=STORIES):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": text, "n": 1}) + "\n" for text in texts), encoding="utf-8")
    elif path.suffix == ".csv":
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["n", "text"], *([i, text] for i, text in enumerate(texts))])
    elif path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.table({"text": texts}), path, row_group_size=37)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode()))
    elif path.suffix == ".json":
        path.write_text(json.dumps([{"text": text} for text in texts], indent=1), encoding="utf-8")
    elif path.suffix == ".txt":
        path.write_text("\n<|endoftext|>\n".join(texts), encoding="utf-8")
    elif path.suffix == ".arrow":
        datasets = pytest.importorskip("datasets")
        datasets.Dataset.from_dict({"text": texts}).save_to_disk(str(path))
    else:
        path.mkdir()
        for i, text in enumerate(texts):
            (path / f"{i:04d}.txt").write_text(text, encoding="utf-8")
    return path


FORMATS = ["a.jsonl", "a.csv", "a.parquet", "a.jsonl.gz", "a.json", "a.txt", "a.arrow", "folder"]


@pytest.mark.parametrize("name", FORMATS)
def test_formats_give_the_same(name, tmp_path):
    """同样的文档，不论装在什么里，得到同样的字节；每篇以文末记号隔开，整篇归一边。"""
    reference = make("--input", write_stories(tmp_path / "reference.jsonl"), "--tokenizer", "byte", name="reference")
    more = ("--separator", "<|endoftext|>") if name == "a.txt" else ()
    dataset = make("--input", write_stories(tmp_path / name), "--tokenizer", "byte", *more)
    assert digests(dataset.folder) == digests(reference.folder)
    train, val = documents_of(dataset, "train"), documents_of(dataset, "val")
    assert sorted(train + val) == sorted(STORIES) and len(val) == 20
    assert train == [story for story in STORIES if story in set(train)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gb18030", "big5", "shift_jis"])
def test_encodings_are_detected(encoding, tmp_path):
    texts = {"shift_jis": "これは日本語の文章です。今日は天気がいい。\n", "big5": "今天天氣很好，我們去學校讀書。\n"}
    text = texts.get(encoding, "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n") * 300
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    dataset = make("--input", "a.txt")
    assert text_of(dataset, "train") + text_of(dataset, "val") == text


def test_named_encoding(tmp_path):
    text = "Où êtes-vous, là-bas à l'été ? " * 40
    (tmp_path / "a.csv").write_bytes(f'id;body\n1;"{text}"\n2;autre\n3;été\n'.encode("cp1252"))
    dataset = make("--input", "a.csv", "--encoding", "cp1252", "--column", "body", "--tokenizer", "byte")
    assert sorted(documents_of(dataset, "train") + documents_of(dataset, "val")) == sorted([text, "autre", "été"])


def test_newlines_and_bom(tmp_path):
    """BOM 不是正文，三种换行成一种，与 Python 的文本模式相同。"""
    (tmp_path / "a.txt").write_bytes("\ufeffab\r\nc\rd\ne中\r\n".encode() * 3)
    dataset = make("--input", "a.txt", "--tokenizer", "byte")
    assert (text_of(dataset, "train") + text_of(dataset, "val")).encode() == \
        "\ufeffab\nc\nd\ne中\n".encode()[3:] + "\ufeffab\nc\nd\ne中\n".encode() * 2


def test_split_is_seeded_and_by_document(tmp_path):
    path = write_stories(tmp_path / "a.jsonl")
    first = make("--input", path, "--tokenizer", "byte", name="first")
    again = make("--input", path, "--tokenizer", "byte", name="again")
    other = make("--input", path, "--tokenizer", "byte", "--seed", 7, "--val-fraction", 0.25, name="other")
    assert digests(first.folder) == digests(again.folder) != digests(other.folder)
    assert (first.meta["val_documents"], other.meta["val_documents"]) == (20, 50)
    # 换了次序，归哪边不变
    shuffled = make("--input", write_stories(tmp_path / "b.jsonl", STORIES[::-1]), "--tokenizer", "byte", name="b")
    assert documents_of(shuffled, "val") == documents_of(first, "val")[::-1]


def test_duplicates_never_cross(tmp_path, capsys):
    """重复的文档（首尾空白不同也算）总在同一边；说出有几篇，`--drop-duplicates` 只留第一篇。"""
    texts = [*STORIES, *(f"  {story}\n" for story in STORIES[:60]), "", "  \n"]
    path = write_stories(tmp_path / "a.jsonl", texts)
    dataset = make("--input", path, "--tokenizer", "byte")
    train, val = ([text.strip() for text in documents_of(dataset, split)] for split in ("train", "val"))
    assert not set(train) & set(val) and len(train + val) == 260
    out = capsys.readouterr().out
    assert "60 documents repeat an earlier one" in out and "2 empty documents" in out
    dropped = make("--input", path, "--tokenizer", "byte", "--drop-duplicates", name="dropped")
    assert sorted(documents_of(dropped, "train") + documents_of(dropped, "val")) == sorted(STORIES)
    assert dropped.meta["duplicates"] == 60 and dropped.meta["documents"] == 200
    assert leaked_share(dropped, 40)[0] == 0


def test_one_document_in_a_table_is_split_by_position(tmp_path):
    write_stories(tmp_path / "a.jsonl", ["", "to be or not to be " * 30])
    dataset = make("--input", "a.jsonl")
    assert text_of(dataset, "train") + text_of(dataset, "val") == "to be or not to be " * 30
    assert dataset.meta["split"] == "position" and dataset.tokens("val") == 57


def test_two_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"text {name} " * 20, encoding="utf-8")
    dataset = make("--input", "a.txt", "b.txt")
    assert (dataset.meta["train_documents"], dataset.meta["val_documents"]) == (1, 1)
    assert documents_of(dataset, "train") != documents_of(dataset, "val")


def test_globs_and_order(tmp_path):
    write_stories(tmp_path / "folder")
    one = make("--input", "folder", "--tokenizer", "byte", name="one")
    two = make("--input", "folder/0*[0-9].txt", "folder/0001.txt", "--tokenizer", "byte", name="two")
    assert digests(one.folder) == digests(two.folder)


def test_units_do_not_change_the_result(tmp_path):
    """单元切在哪里都一样：文档、段的拼接、安全的切点。"""
    chooser = random.Random(3)
    story = "".join(chooser.choices(["词语", "word ", "a, b", "\n", "\r\n", "长句没有标点", " "], k=4000))
    (tmp_path / "one.txt").write_bytes(story.encode())
    (tmp_path / "sep.txt").write_bytes("\n\n\n".join(f"{i} {story[i:i * 7]}" for i in range(60)).encode())
    write_stories(tmp_path / "a.jsonl", [story[i : i * 9] for i in range(80)])
    for name, separator in (("one.txt", ""), ("sep.txt", "\n\n"), ("a.jsonl", "")):
        sources = find_sources([name])
        documents = {}
        for size in (1 << 30, 5000, 999, 64):
            found = []
            for unit in plan_units(sources, size):
                for segment in read_unit(unit, sources, "text", separator):
                    if segment.is_start:
                        found.append("")
                    found[-1] += segment.text
            documents[size] = found
        whole = documents.pop(1 << 30)
        assert all(found == whole for found in documents.values()), name
        if name == "one.txt":
            assert whole == [one_newline(story)]


@needs_bpe
@slow
def test_many_units_encode_like_one_text(tmp_path):
    """一篇 20 MB 的文本分成三个单元、由几个进程编码，与整篇一次编码逐 token 相同。"""
    line = "It was the best of times, it was the worst of times; 春眠不觉晓，处处闻啼鸟。 123\n"
    text = "".join(f"{i} {line}" for i in range(200_000))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    dataset = make("--input", "a.txt", "--tokenizer", "gpt2")
    from nanogpt.tokenizer import GPT2Tokenizer

    cut = int(len(text) * 0.9)
    for split, part in (("train", text[:cut]), ("val", text[cut:])):
        assert np.array_equal(ids_of(dataset, split), GPT2Tokenizer().encode_array(part))


def command(*arguments):
    return [sys.executable, "-m", "nanogpt.prepare", *map(str, arguments)]


def environ():
    return {**os.environ, "PYTHONPATH": str(ROOT), "NANOGPT_LANG": "en"}


@needs_bpe
def test_killed_and_resumed_is_the_same(tmp_path):
    """在随机的时刻强杀（慢的测试里两次）再续做：与不间断的一次逐字节相同，子进程不留下，做完的份不重做。"""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from prepare import write_corpus
    finally:
        sys.path.pop(0)
        sys.modules.pop("prepare", None)
    write_corpus(tmp_path / "a.jsonl", 20_000_000)
    arguments = ("--input", "a.jsonl", "--tokenizer", "gpt2", "--num-proc", "2")
    whole = make(*arguments, name="whole")
    chooser, kept = random.Random(5), 0
    for _round in range(2 if IS_SLOW else 1):
        process = subprocess.Popen(command("killed", *arguments), env=environ(), cwd=tmp_path, start_new_session=True)
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "data").glob("killed/.parts-*/*.index"))) <= kept and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chooser.uniform(0, 0.2))
        # 只杀父进程：工作进程要自己发现
        process.kill()
        assert process.wait() == -signal.SIGKILL
        while time.monotonic() < deadline:
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.02)
        else:
            pytest.fail("a worker outlived its parent")
        assert not (tmp_path / "data" / "killed" / "train.bin").exists()
        kept = len(list((tmp_path / "data").glob("killed/.parts-*/*.index")))
    done = subprocess.run(command("killed", *arguments), env=environ(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and f"going on: {kept} of 3 parts" in done.stdout, done.stderr
    assert digests(tmp_path / "data" / "killed") == digests(whole.folder)
    assert not list((tmp_path / "data" / "killed").glob(".*"))


def test_spoilt_part_is_done_again(tmp_path):
    """断电可能留下坏的份：CRC 认得出来，只重做它。"""
    from nanogpt.prepare_build import Recipe, build
    from nanogpt.prepare_report import Report

    write_stories(tmp_path / "a.jsonl", STORIES)
    recipe = Recipe(("a.jsonl",), tokenizer="byte")
    process = subprocess.run([sys.executable, "-c", (
        "import os, sys\nfrom nanogpt import prepare_build as b, prepare_report as r\nfrom pathlib import Path\n"
        "b._write = lambda *a: os._exit(9)\n"
        "b.build(b.Recipe(('a.jsonl',), tokenizer='byte'), Path('data/x'), 1, r.Report())")], env=environ())
    assert process.returncode == 9
    part = next((tmp_path / "data" / "x").glob(".parts-*/*.tokens"))
    whole = part.read_bytes()
    part.write_bytes(b"\0" * len(whole))
    meta = build(recipe, Path("data/x"), 1, Report())
    reference = make("--input", "a.jsonl", "--tokenizer", "byte")
    assert meta["train_tokens"] == reference.tokens("train")
    assert digests(tmp_path / "data" / "x") == digests(reference.folder)


def test_memory_stays_small(tmp_path):
    """一行 200 MB 的文本：内存不随文件长。`ru_maxrss` 会带上父进程的，所以看 `VmHWM`。"""
    if not Path("/proc/self/status").is_file():
        pytest.skip("no /proc")
    with open(tmp_path / "a.txt", "w", encoding="utf-8") as file:
        for _block in range(200):
            file.write("lorem ipsum dolor sit amet " * 38_000)
    code = ("from nanogpt.prepare import main\n"
            "code = main(['m', '--input', 'a.txt', '--tokenizer', 'byte', '--num-proc', '1'])\n"
            "print(next(l for l in open('/proc/self/status', encoding='utf-8') if 'VmHWM' in l).split()[1])")
    done = subprocess.run([sys.executable, "-c", code], env=environ(), capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 200 * 1024


def test_no_space_leaves_nothing(tmp_path):
    """写到一半没有空间（以文件大小的上限代替）：说清楚，退出码 4，没有半成品冒充数据集。"""
    (tmp_path / "a.txt").write_text("some text " * 100_000, encoding="utf-8")
    limited = command("mine", "--input", "a.txt", "--tokenizer", "byte")
    done = subprocess.run(limited, env=environ(), capture_output=True, text=True, cwd=tmp_path,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000)))
    assert done.returncode == 4 and "disk full" in done.stderr and len(done.stderr.splitlines()) <= 3, done.stderr
    assert not list((tmp_path / "data").rglob("*.bin"))


def test_too_little_space_is_said_first(tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    (tmp_path / "a.txt").write_text("some text " * 1000, encoding="utf-8")
    with pytest.raises(OutOfResources) as caught:
        make("--input", "a.txt")
    assert caught.value.code == "disk_full"


def test_json_lines_for_a_screen(tmp_path, capsys):
    write_stories(tmp_path / "a.jsonl", [*STORIES, STORIES[0]])
    make("--input", "a.jsonl", "--tokenizer", "byte", "--json")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event["event"] for event in events} == {"progress", "note", "end"}
    last = [event for event in events if event["event"] == "progress"][-1]
    assert last["stage"] == "write" and last["done_bytes"] == last["total_bytes"] > 0
    assert events[-1]["train_tokens"] > 0 and events[-1]["folder"] == "data/mine"
    with pytest.raises(BadInput):
        make("--input", "absent.txt", "--json", name="other")
    assert json.loads(capsys.readouterr().out)["event"] == "error"


def test_existing_dataset_is_not_replaced_by_accident(tmp_path):
    (tmp_path / "a.txt").write_text("some text " * 20, encoding="utf-8")
    make("--input", "a.txt")
    with pytest.raises(BadInput) as caught:
        make("--input", "a.txt", "--tokenizer", "byte")
    assert caught.value.code == "dataset_exists" and "--overwrite" in caught.value.hint
    assert make("--input", "a.txt", "--tokenizer", "byte", "--overwrite").vocab_size == 257


def test_two_at_once_are_refused(tmp_path):
    import fcntl

    (tmp_path / "a.txt").write_text("some text " * 20, encoding="utf-8")
    (tmp_path / "data" / "mine").mkdir(parents=True)
    handle = os.open(tmp_path / "data" / "mine", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(BadInput) as caught:
        make("--input", "a.txt")
    os.close(handle)
    assert caught.value.code == "already_preparing"
    make("--input", "a.txt")


def test_preview_says_what_would_come(tmp_path, capsys):
    text = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n" * 200
    (tmp_path / "a.txt").write_bytes(text.encode("gb18030"))
    assert prepare.main(["--preview", "mine", "--input", "a.txt", "--tokenizer", "byte", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["encodings"] == ["gb18030"] and shown["is_encoding_detected"] and shown["text"] == text[:600]
    assert [token["id"] for token in shown["tokens"]] == list(text.encode()[:120])
    assert not (tmp_path / "data").exists()
    for kind in ("char", "bpe"):
        assert prepare.main(["--preview", "--input", "a.txt", "--tokenizer", kind]) == 0
        assert "床|前|明|月|光" in capsys.readouterr().out or kind == "bpe"
    with pytest.raises(BadInput):
        prepare.main(["--preview", "--input", "absent"])


def test_preview_guesses_well(tmp_path, capsys):
    write_stories(tmp_path / "a.csv", STORIES * 100)
    prepare.main(["--preview", "--input", "a.csv", "--tokenizer", "bpe", "--vocab-size", "500", "--json"])
    shown = json.loads(capsys.readouterr().out)
    dataset = make("--input", "a.csv", "--tokenizer", "bpe", "--vocab-size", "500")
    found = dataset.tokens("train") + dataset.tokens("val")
    assert 0.6 < shown["estimated_tokens"] / found < 1.6 and shown["split"] == "document"


def test_chinese_poems(tmp_path):
    """随包的中文例子：一首一篇，整首归一边，医生没有话说。"""
    from nanogpt.dataset_doctor import examine

    done = subprocess.run(command("chinese_poems"), env=environ(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    dataset = open_dataset("chinese_poems")
    poems = (ROOT / "data" / "chinese_poems" / "poems.txt").read_text(encoding="utf-8").strip().split("\n\n")
    train, val = text_of(dataset, "train"), text_of(dataset, "val")
    assert all((poem + "\n" in train) != (poem + "\n" in val) for poem in poems)
    assert len(train + val) == sum(map(len, poems)) + len(poems)
    assert dataset.meta["documents"] == len(poems) == len(set(poems)) and dataset.meta["val_documents"] == 13
    assert examine(dataset, 64)["findings"] == []
