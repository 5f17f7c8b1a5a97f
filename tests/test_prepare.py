"""准备数据集：与 nanoGPT 逐字节相同、坏的输入、捣乱的下载（故障表第 40 行）。约 6 s。"""

import hashlib
import http.server
import os
import pickle
import runpy
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from conftest import SHARED, needs_bpe

from nanogpt import download, prepare_script
from nanogpt.dataset import check_dataset, open_dataset
from nanogpt.dataset import dataset_dir as find_dataset
from nanogpt.errors import BadInput, UserError
from nanogpt.tokenizer import tokenizer_from_dict

ROOT = Path(__file__).resolve().parents[1]
TINY = SHARED / "tinyshakespeare" / "input.txt"
needs_tiny = pytest.mark.skipif(not TINY.is_file(), reason="no tiny Shakespeare here")

# nanoGPT 自己的脚本写出的文件：在 nanoGPT 的目录里 `python data/shakespeare_char/prepare.py`
# 与 `python data/shakespeare/prepare.py`，再 `sha256sum data/shakespeare*/*.bin`。
NANOGPT_SHA256 = {
    "shakespeare_char": {
        "train.bin": "6ec305602a99ac2802745a134e1f5e33e2231b4855525b00b9aebb730ac2626f",
        "val.bin": "d37d30cc0c8327c270d493299c3dca54135f6d5f1c9ef60cda78076e311204b1",
    },
    "shakespeare": {
        "train.bin": "502a2bdc8210d1ac5d5674867cb74467dd31db575d25cf6dbb08c8bdbea8680f",
        "val.bin": "68a53422394c26a655ebe641f5c6f49888e8f4e45fe5d6f02abda63ba3ebd65b",
    },
}


def script(name):
    """某个脚本的 `main(argv)`，在本进程里调用。"""
    return runpy.run_path(str(ROOT / "data" / name / "prepare.py"))["main"]


def run_command(arguments, cwd, **environ):
    """真的起一个进程。"""
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environ
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environ, capture_output=True, text=True, timeout=120
    )


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.bin"))}


@needs_tiny
def test_shakespeare_char_is_nanogpts(tmp_path, capsys):
    assert script("shakespeare_char")(["--input", str(TINY), "--out", str(tmp_path / "data" / "x")]) == 0
    folder = tmp_path / "data" / "x"
    assert digests(folder) == NANOGPT_SHA256["shakespeare_char"]
    assert "train has 1,003,854 tokens\nval has 111,540 tokens" in capsys.readouterr().out
    chars = sorted(set(TINY.read_text(encoding="utf-8")))
    meta = pickle.loads((folder / "meta.pkl").read_bytes())
    assert meta == {
        "vocab_size": 65,
        "itos": dict(enumerate(chars)),
        "stoi": {char: i for i, char in enumerate(chars)},
    }
    dataset = open_dataset("x", tmp_path)
    check_dataset(dataset, 256, 65)
    ids = np.fromfile(dataset.path("train"), dtype="<u2")[:100]
    assert tokenizer_from_dict(dataset.tokenizer).decode(ids) == TINY.read_text(encoding="utf-8")[:100]


@needs_tiny
@needs_bpe
def test_shakespeare_is_nanogpts(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHARED / "tiktoken_cache"))
    assert script("shakespeare")(["--input", str(TINY), "--out", str(tmp_path)]) == 0
    assert digests(tmp_path) == NANOGPT_SHA256["shakespeare"]
    assert "train has 301,966 tokens\nval has 36,059 tokens" in capsys.readouterr().out


def test_own_text_with_every_kind_of_line_end(tmp_path):
    """与 Python 文本模式读到的一样：三种换行成一种，BOM 留着。"""
    path = tmp_path / "own.txt"
    path.write_bytes("\ufeff中\r\n文\rab\ncd😀".encode())
    script("shakespeare_char")(["--input", str(path), "--out", str(tmp_path / "data" / "own")])
    text = path.read_text(encoding="utf-8")
    dataset = open_dataset("own", tmp_path)
    tokenizer = tokenizer_from_dict(dataset.tokenizer)
    assert tokenizer.tokens == sorted(set(text)) and "\r" not in tokenizer.tokens
    cut = int(len(text) * 0.9)
    for split, part in (("train", text[:cut]), ("val", text[cut:])):
        assert tokenizer.decode(np.fromfile(dataset.path(split), dtype="<u2")) == part


BAD_TEXTS = [
    (b"good \xff bad", "bad_encoding", "byte 5"),
    ("汉字".encode("gb18030"), "bad_encoding", "byte 0"),
    (b"", "text_too_short", "0 characters"),
    (b"a", "text_too_short", "1 characters"),
    (None, "bad_text", "does not exist"),
    ("folder", "bad_text", "not a text file"),
    ("fifo", "bad_text", "not a text file"),
    ("".join(chr(i) for i in range(0x10000, 0x20001)).encode(), "too_many_characters", "65537"),
]


@pytest.mark.parametrize(("content", "code", "says"), BAD_TEXTS)
def test_bad_text_is_refused(content, code, says, tmp_path):
    path = tmp_path / "input.txt"
    if content == "folder":
        path.mkdir()
    elif content == "fifo":
        os.mkfifo(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        script("shakespeare_char")(["--input", str(path), "--out", str(tmp_path / "out")])
    assert caught.value.code == code and says in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    assert list((tmp_path / "out").iterdir()) == []


class Misbehaving(http.server.BaseHTTPRequestHandler):
    """本地服务器，代替远方那个：按路径捣乱。`/flaky` 先断两次再给全。"""

    content = bytes(range(256)) * 400
    seen: ClassVar[list[str]] = []

    def do_GET(self):
        self.seen.append(self.path)
        if self.path in ("/404", "/503"):
            return self.send_error(int(self.path[1:]))
        body, length = self.content, len(self.content)
        if self.path == "/cut" or (self.path == "/flaky" and self.seen.count("/flaky") <= 2):
            body = body[:50_000]
        elif self.path == "/short":
            body, length = body[:50_000], 50_000
        elif self.path == "/altered":
            body = body[:-1] + b"!"
        elif self.path == "/longer":
            body, length = body * 3, length * 3
        elif self.path == "/zeros":
            body, length = bytes(prepare_script.TINY_SHAKESPEARE.bytes), prepare_script.TINY_SHAKESPEARE.bytes
        elif self.path == "/empty":
            body, length = b"", 0
        self.send_response(200)
        if self.path != "/no_length":
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)
        if self.path == "/silent":
            threading.Event().wait(3)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """捣乱的服务器的地址；重试不等待，读超时 1 s。"""
    monkeypatch.setattr(download, "RETRY_DELAYS_S", (0.0, 0.0))
    monkeypatch.setattr(download, "TIMEOUT_S", 1.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    Misbehaving.seen.clear()
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Misbehaving)
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def wanted(url):
    return download.Download(url, hashlib.sha256(Misbehaving.content).hexdigest(), len(Misbehaving.content))


@pytest.mark.parametrize("path", ["/whole", "/no_length", "/flaky"])
def test_download(path, server, tmp_path):
    download.fetch(wanted(server + path), tmp_path / "input.txt", "offline way")
    assert (tmp_path / "input.txt").read_bytes() == Misbehaving.content
    assert [file.name for file in tmp_path.iterdir()] == ["input.txt"]
    assert len(Misbehaving.seen) == (3 if path == "/flaky" else 1)


@pytest.mark.parametrize(
    ("path", "code", "says", "tries"),
    [
        ("/cut", "download_failed", "cut off after 50000 of 102400 bytes", 3),
        ("/short", "download_failed", "cut off after 50000 of 102400 bytes", 3),
        ("/empty", "download_failed", "cut off after 0", 3),
        ("/503", "download_failed", "HTTP 503", 3),
        ("/404", "download_failed", "HTTP 404", 1),
        ("/altered", "download_altered", "expected sha256", 1),
        ("/longer", "download_altered", "expected sha256", 1),
    ],
)
def test_row_40(path, code, says, tries, server, tmp_path):
    """校验和、重试与离线的办法都说出来；半成品不留，已有的文件不动。"""
    (tmp_path / "old").write_bytes(b"old")
    with pytest.raises(UserError) as caught:
        download.fetch(wanted(server + path), tmp_path / "old", "offline way")
    message = str(caught.value)
    assert caught.value.code == code and says in message and "offline way" in message
    assert wanted("").sha256 in message and len(message.splitlines()) <= 3
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"old": b"old"}
    assert len(Misbehaving.seen) == tries


def test_silent_server_times_out(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "RETRY_DELAYS_S", ())
    longer = download.Download(server + "/silent", "0" * 64, len(Misbehaving.content) + 1)
    with pytest.raises(UserError) as caught:
        download.fetch(longer, tmp_path / "input.txt", "offline way")
    assert caught.value.code == "download_failed" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "http://", "http://[x", "http://a b/"])
@pytest.mark.usefixtures("server")
def test_unreachable_address(url, tmp_path):
    with pytest.raises(UserError) as caught:
        download.fetch(wanted(url), tmp_path / "input.txt", "offline way")
    assert caught.value.code == "download_failed" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "/etc/passwd", ""])
def test_other_schemes_are_refused(url, tmp_path):
    with pytest.raises(BadInput):
        download.fetch(wanted(url), tmp_path / "input.txt", "")


@pytest.mark.parametrize("name", ["shakespeare_char", "shakespeare"])
@needs_bpe
def test_scripts_tell_the_offline_way(name, server, tmp_path):
    """整个脚本：地址经 `--url` 换成捣乱的服务器。"""
    cache = str(SHARED / "tiktoken_cache")
    arguments = [ROOT / "data" / name / "prepare.py", "--out", tmp_path, "--url", server + "/zeros"]
    done = run_command(arguments, tmp_path, TIKTOKEN_CACHE_DIR=cache, no_proxy="127.0.0.1")
    assert done.returncode == 1 and "discarded" in done.stderr and prepare_script.TINY_SHAKESPEARE.sha256 in done.stderr
    assert "--input FILE" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def clone(target, name, package="nanogpt"):
    """没有安装过的克隆：只有包与一个脚本。"""
    shutil.copytree(ROOT / "nanogpt", target / package, ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    (target / "data" / name).mkdir(parents=True)
    shutil.copy(ROOT / "data" / name / "prepare.py", target / "data" / name)
    return target / "data" / name


def test_script_runs_from_its_own_folder_of_a_clone(tmp_path):
    folder = clone(tmp_path, "shakespeare_char")
    (folder / "input.txt").write_text("to be or not to be\n" * 10, encoding="utf-8")
    assert run_command(["prepare.py"], folder).returncode == 0
    assert (folder / "train.bin").is_file() and (folder / "meta.json").is_file()


def test_installed_copy_writes_into_the_current_folder(tmp_path):
    """包里的脚本不往包里写，而是写到当前目录的 `data/`，随后也从那里找到。"""
    folder = clone(tmp_path / "site", "python_stdlib")
    shutil.move(tmp_path / "site" / "data", tmp_path / "site" / "nanogpt" / "shipped" / "data")
    work = tmp_path / "work"
    work.mkdir()
    done = run_command(
        ["-m", "nanogpt.prepare", "python_stdlib"], work, PYTHONPATH=str(tmp_path / "site"), PYTHONDONTWRITEBYTECODE="1"
    )
    assert done.returncode == 0, done.stderr
    assert find_dataset("python_stdlib", work) == work / "data" / "python_stdlib"
    inside = tmp_path / "site" / "nanogpt" / "shipped" / "data" / folder.name
    assert [path.name for path in inside.iterdir()] == ["prepare.py"]


def test_python_stdlib_is_small_ascii_and_deterministic(tmp_path):
    for name in ("a", "b"):
        assert script("python_stdlib")(["--out", str(tmp_path / "data" / name)]) == 0
    assert digests(tmp_path / "data" / "a") == digests(tmp_path / "data" / "b")
    dataset = open_dataset("a", tmp_path)
    check_dataset(dataset, 256, dataset.vocab_size)
    assert set(dataset.tokenizer["tokens"]) <= {"\n", "\t", *map(chr, range(32, 127))}
    train, val = dataset.tokens("train"), dataset.tokens("val")
    assert 1_000_000 < train + val <= 9_000_000 and 0.08 < val / (train + val) < 0.2
    text = tokenizer_from_dict(dataset.tokenizer).decode(np.fromfile(dataset.path("train"), dtype="<u2"))
    assert text.count("\nimport ") > 100


def test_python_stdlib_leaves_out_what_it_says(tmp_path):
    """自备的源码树：测试、第三方、非 ASCII 与带控制字符的文件都不进来。"""
    tree = tmp_path / "tree"
    for name, text in {
        "a.py": "good = 1\n",
        "b.py": "good = 2\n",
        "c.py": "name = 'é'\n",
        "d.py": "bell = '\a'\n",
        "test/e.py": "bad_test = 1\n",
        "site-packages/f.py": "bad_site = 1\n",
        "g.txt": "bad_suffix\n",
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text, encoding="utf-8")
    script("python_stdlib")(["--input", str(tree), "--out", str(tmp_path / "data" / "x")])
    dataset = open_dataset("x", tmp_path)
    tokenizer = tokenizer_from_dict(dataset.tokenizer)
    texts = {tokenizer.decode(np.fromfile(dataset.path(split), dtype="<u2")) for split in ("train", "val")}
    assert texts == {"good = 1\n", "good = 2\n"}
    for root in (tree / "test", tmp_path / "none"):
        with pytest.raises(BadInput):
            script("python_stdlib")(["--input", str(root), "--out", str(tmp_path / "y")])


@pytest.mark.parametrize("name", ["shakespeare_char", "shakespeare", "openwebtext", "python_stdlib"])
def test_help_and_bad_arguments(name, tmp_path):
    path = ROOT / "data" / name / "prepare.py"
    done = run_command([path, "--help"], tmp_path)
    assert done.returncode == 0 and "--input" in done.stdout and "--out" in done.stdout
    done = run_command([path, "--frobnicate"], tmp_path)
    assert done.returncode == 2 and "--frobnicate" in done.stderr and len(done.stderr.splitlines()) <= 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "says"),
    [("shakespere", "did you mean shakespeare?"), ("my_new_text", "python_stdlib"), ("../x", "not a dataset name")],
)
def test_module_refuses_unknown_names(name, says, tmp_path):
    done = run_command(["-m", "nanogpt.prepare", name], tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.splitlines()) <= 3


def test_module_runs_the_workspaces_own_script(tmp_path):
    (tmp_path / "data" / "own").mkdir(parents=True)
    (tmp_path / "data" / "own" / "prepare.py").write_text("import sys; print('own', sys.argv[1:])", encoding="utf-8")
    done = run_command(["-m", "nanogpt.prepare", "own", "--x", "1"], tmp_path, PYTHONPATH=str(ROOT))
    assert done.stdout == "own ['--x', '1']\n"


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        script("python_stdlib")(["--out", str(tmp_path / "file" / "x")])
    assert caught.value.code == "not_writable"


def test_preparing_again_replaces(tmp_path):
    for text in ("aaaaaaaaaaaaaaaaaaaa", "bcbcbcbcbcbcbcbcbcbc"):
        (tmp_path / "t.txt").write_text(text, encoding="utf-8")
        script("shakespeare_char")(["--input", str(tmp_path / "t.txt"), "--out", str(tmp_path / "data" / "x")])
    assert open_dataset("x", tmp_path).tokenizer["tokens"] == ["b", "c"]
    assert sorted(path.name for path in (tmp_path / "data" / "x").iterdir()) == [
        "meta.json", "meta.pkl", "train.bin", "val.bin",
    ]  # fmt: skip


def test_shipped_script_writes_into_the_workspace(tmp_path: Path) -> None:
    """在别的目录里用随包的脚本：数据进当前目录的 `data/`，仓库里的不动。"""
    shipped = ROOT / "data" / "python_stdlib" / "meta.json"
    before = shipped.stat().st_mtime_ns if shipped.exists() else None
    done = subprocess.run([sys.executable, "-m", "nanogpt.prepare", "python_stdlib"], cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "python_stdlib" / "train.bin").stat().st_size > 0
    assert (shipped.stat().st_mtime_ns if shipped.exists() else None) == before
