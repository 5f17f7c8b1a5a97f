"""OpenWebText：本地的小语料，与 nanoGPT 的做法逐字节相同；杀死后接着做；坏的输入。约 15 s。"""

import http.server
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import slow

from nanogpt.dataset import check_dataset, open_dataset

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "data" / "openwebtext" / "prepare.py"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
datasets = pytest.importorskip("datasets")
tiktoken = pytest.importorskip("tiktoken")
pytestmark = pytest.mark.skipif(not (SHARED / "tiktoken_cache").is_dir(), reason="no GPT-2 BPE files here")
COUNT = 45_000


@pytest.fixture(autouse=True)
def own_caches(tmp_path_factory, monkeypatch):
    """`datasets` 的缓存放在临时目录，BPE 用备好的，不碰网络。"""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHARED / "tiktoken_cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.getbasetemp() / "hf"))


def document(i):
    """第 `i` 篇：含各种换行、非 ASCII、像特殊记号的文字，也有空的。"""
    return ["", f"Document {i}.\n" * (i % 5), f"中文 é {i}\r\n", f"a<|endoftext|>b {i}"][i % 4]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """JSON 行两个文件，45,000 篇：训练分三份，验证 23 篇。"""
    folder = tmp_path_factory.mktemp("corpus")
    for part, numbers in enumerate((range(30_000), range(30_000, COUNT))):
        with open(folder / f"part-{part}.jsonl", "w", encoding="utf-8") as file:
            for i in numbers:
                file.write(json.dumps({"id": i, "text": document(i)}) + "\n")
    return folder


@pytest.fixture(scope="session")
def expected():
    """照 nanoGPT 的做法直接算出的字节：同样的划分，逐篇编码，各接一个 50256。"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(SHARED / "tiktoken_cache"))
        encoding = tiktoken.get_encoding("gpt2")
    table = datasets.Dataset.from_dict({"text": [document(i) for i in range(COUNT)]})
    halves = table.train_test_split(test_size=0.0005, seed=2357, shuffle=True)
    found = {}
    for split, half in (("train", halves["train"]), ("val", halves["test"])):
        ids = [[*encoding.encode_ordinary(text), encoding.eot_token] for text in half["text"]]
        found[f"{split}.bin"] = np.concatenate(ids).astype("<u2").tobytes()
    return found


def command(*arguments):
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def prepare(*arguments, **environ):
    return subprocess.run(
        command(*arguments), env=os.environ | environ, capture_output=True, text=True, timeout=120, cwd=ROOT
    )


def bins(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.bin")}


@pytest.mark.parametrize("workers", [pytest.param(1, marks=slow), 2])
def test_bytes_are_nanogpts(workers, corpus, expected, tmp_path):
    folder = tmp_path / "data" / "owt"
    done = prepare("--input", corpus, "--out", folder, "--num-proc", workers)
    assert done.returncode == 0, done.stderr
    assert bins(folder) == expected
    assert sorted(path.name for path in folder.iterdir()) == ["meta.json", "train.bin", "val.bin"]
    dataset = open_dataset("owt", tmp_path)
    check_dataset(dataset, 64, 50304)
    assert dataset.tokenizer == {"kind": "gpt2"} and dataset.meta["documents"] == COUNT
    assert f"train has {len(expected['train.bin']) // 2:,} tokens" in done.stdout


def test_parquet_and_single_file(tmp_path):
    table = datasets.Dataset.from_dict({"text": [document(i) for i in range(50)], "id": list(range(50))})
    table.to_parquet(str(tmp_path / "a.parquet"))
    with open(tmp_path / "a.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": document(i)}) + "\n" for i in range(50))
    for name in ("a.parquet", "a.jsonl"):
        assert prepare("--input", tmp_path / name, "--out", tmp_path / name[2:]).returncode == 0
    assert bins(tmp_path / "parquet") == bins(tmp_path / "jsonl")


def test_text_files_are_one_document_each(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(6):
        (tmp_path / "in" / f"{i}.txt").write_text(f"line one {i}\n\nline two\n", encoding="utf-8")
    done = prepare("--input", tmp_path / "in", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    ids = np.concatenate([np.fromfile(tmp_path / "out" / f"{split}.bin", dtype="<u2") for split in ("train", "val")])
    assert (ids == 50256).sum() == 6 and ids[-1] == 50256


@slow
def test_killed_then_run_again(corpus, expected, tmp_path):
    """第一份编码好时 kill -9 整个父进程：工作进程跟着结束，做好的份留着，再运行得到同样的字节。"""
    folder = tmp_path / "out"
    process = subprocess.Popen(
        command("--input", corpus, "--out", folder, "--num-proc", 1), stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(folder.glob(".parts-*/*.bin")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert bins(folder) == {}
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.02)
    else:
        pytest.fail("a worker outlived its parent")
    kept = {path: path.stat().st_mtime_ns for path in folder.glob(".parts-*/*.bin")}
    assert kept
    done = prepare("--input", corpus, "--out", folder)
    assert done.returncode == 0 and f"going on: {len(kept)} of 4 parts" in done.stdout
    assert bins(folder) == expected and not list(folder.glob(".*"))


def test_changed_corpus_does_not_reuse_old_parts(tmp_path):
    """别的语料留下的份不作数。"""
    path = tmp_path / "a.jsonl"
    for word in ("one", "two"):
        path.write_text("".join(json.dumps({"text": f"{word} {i}"}) + "\n" for i in range(20)), encoding="utf-8")
        load = runpy.run_path(str(SCRIPT))
        documents = load["load_documents"](path)
        stale = tmp_path / "out" / f".parts-{load['fingerprint'](documents)}"
        if word == "one":
            stale.mkdir(parents=True)
            np.zeros(4, dtype="<u2").tofile(stale / "train-00000-of-00001.bin")
        else:
            assert not stale.exists()


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


BAD_INPUTS = [
    ("a.jsonl", b'{"body": "x"}\n' * 5, "no column named text; the columns are: body"),
    ("a.jsonl", b'{"text": 5}\n' * 5, "instead of strings"),
    ("a.jsonl", b'{"text": "x"}\n{"text": null}\n' * 3, "3 documents have no text"),
    ("a.jsonl", b'{"text": "x"}\n', "1 documents"),
    ("a.jsonl", b'{"text": "x"\n{{{', "cannot be read"),
    ("a.txt", b"\xff\xfe\xff" * 9, "cannot be read"),
    ("a.parquet", b"PAR1 not really", "cannot be read"),
    ("a.csv", b"text\nx\n", "holds no parquet"),
    (None, b"", "does not exist"),
]


@pytest.mark.parametrize(("name", "content", "says"), [
    *BAD_INPUTS[::3], *(pytest.param(*one, marks=slow) for i, one in enumerate(BAD_INPUTS) if i % 3)])
def test_bad_input(name, content, says, tmp_path):
    if name:
        (tmp_path / name).write_bytes(content)
    done = prepare("--input", tmp_path / (name or "absent"), "--out", tmp_path / "out")
    assert done.returncode == 2 and says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and list((tmp_path / "out").iterdir()) == []


def test_mixed_folder_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    write_lines(tmp_path / "b.jsonl", [{"text": "x"}])
    done = prepare("--input", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2 and "mixes kinds of files" in done.stderr


def test_missing_datasets_package(tmp_path):
    code = f"import sys, runpy; sys.modules['datasets'] = None; sys.argv = ['x', '--out', {str(tmp_path)!r}]\n"
    code += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "pip install datasets" in done.stderr


class Refusing(http.server.BaseHTTPRequestHandler):
    """代替 Hugging Face 的本地服务器：什么都没有。"""

    def do_GET(self):
        self.send_error(404)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *arguments):
        pass


def test_failed_download_shows_the_offline_way(tmp_path):
    """故障表第 40 行：地址经 `HF_ENDPOINT` 换成本地的。"""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    done = prepare("--out", tmp_path / "out", HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "hf"), no_proxy="127.0.0.1")
    server.shutdown()
    server.server_close()
    assert done.returncode == 1 and "cannot download Skylion007/openwebtext" in done.stderr
    assert "--input PATH" in done.stderr and "Traceback" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == []
