"""分词器：往返、越界的字符与 id、敌意的描述。约 3 s。"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanogpt.errors import BadInput
from nanogpt.tokenizer import CharTokenizer, GPT2Tokenizer, tokenizer_from_dict

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_bpe = pytest.mark.skipif(not (SHARED / "tiktoken_cache").is_dir(), reason="no GPT-2 BPE files here")


@pytest.fixture
def bpe(monkeypatch):
    """用备好的 BPE 缓存，不碰网络。"""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHARED / "tiktoken_cache"))


def run_python(code, **environ):
    """在干净的解释器里执行 `code`。"""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, timeout=60
    )


def test_char_round_trip():
    tokenizer = CharTokenizer(["\n", " ", "a", "é", "中", "😀"])
    text = "a中é\n😀 a"
    assert tokenizer.encode(text) == [2, 4, 3, 0, 5, 1, 2]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert (tokenizer.kind, tokenizer.vocab_size, tokenizer.eot_id) == ("char", 6, None)


def test_char_dict_travels_through_json():
    tokenizer = CharTokenizer(["\n", "a", "\u2028", "中"])
    again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again.tokens == tokenizer.tokens and again.encode("中a") == [3, 1]


@pytest.mark.parametrize(
    ("text", "shown", "where"),
    [
        ("abZab", "'Z' (U+005A", "index 2 (line 1, column 3)"),
        ("ab\nab\naéb", "'é' (U+00E9", "index 7 (line 3, column 2)"),
        ("\x1b", "'\\x1b' (U+001B)", "index 0 (line 1, column 1)"),
        ("a" * 100 + "\n" + "😀Z", "'😀' (U+1F600", "index 101 (line 2, column 1)"),
    ],
)
def test_out_of_vocabulary_names_first_character(text, shown, where):
    with pytest.raises(BadInput) as caught:
        CharTokenizer(["\n", "a", "b"]).encode(text)
    assert caught.value.code == "out_of_vocabulary"
    assert shown in caught.value.what and caught.value.where == where
    assert len(str(caught.value).splitlines()) <= 3 and "\x1b" not in str(caught.value)


def test_char_decode_of_unknown_ids():
    assert CharTokenizer(["a", "b"]).decode([0, 2, 1, -1, 50303]) == "a\ufffdb\ufffd\ufffd"


@needs_bpe
@pytest.mark.usefixtures("bpe")
def test_gpt2_special_token():
    tokenizer = GPT2Tokenizer()
    assert tokenizer.encode("a<|endoftext|>") == [64, tokenizer.eot_id]
    assert tokenizer.eot_id not in tokenizer.encode_ordinary("a<|endoftext|>")
    assert tokenizer.vocab_size == 50257


@needs_bpe
@pytest.mark.usefixtures("bpe")
def test_gpt2_decode():
    tokenizer = GPT2Tokenizer()
    text = "héllo 中文 😀\n"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, 50257, 50303, -1]) == text + "\ufffd" * 3
    # 一个汉字的前一半字节：看得见的替代字符，而不是异常。
    assert "\ufffd" in tokenizer.decode(tokenizer.encode("😀")[:1])


@needs_bpe
@pytest.mark.usefixtures("bpe")
def test_gpt2_survives_lone_surrogate():
    assert GPT2Tokenizer().encode("a\ud800")


@pytest.mark.parametrize(
    "description",
    [
        None,
        [],
        "gpt2",
        {},
        {"kind": "bpe"},
        {"kind": ["gpt2"]},
        {"kind": 10**5000},
        {"kind": "gpt2", "more": 1},
        {"kind": "char"},
        {"kind": "char", "tokens": "abc"},
        {"kind": "char", "tokens": []},
        {"kind": "char", "tokens": ["a", "a"]},
        {"kind": "char", "tokens": ["a", ""]},
        {"kind": "char", "tokens": ["a", 1]},
        {"kind": "char", "tokens": ["a", "\ud800"]},
        {"kind": "char", "tokens": ["a", "b" * 65]},
        {"kind": "char", "tokens": [chr(i) for i in range(0x10000, 0x20001)]},
        {"kind": "char", "tokens": ["a"], "__class__": "x"},
    ],
)
def test_hostile_description_is_refused(description):
    with pytest.raises(BadInput) as caught:
        tokenizer_from_dict(description)
    assert len(str(caught.value).splitlines()) <= 3


def test_gpt2_description():
    assert isinstance(tokenizer_from_dict(GPT2Tokenizer().to_dict()), GPT2Tokenizer)


def test_missing_bpe_files_tell_where_to_put_them(tmp_path):
    """没有缓存也没有网络：一个没人听的代理。"""
    code = "from nanogpt.tokenizer import GPT2Tokenizer\nfrom nanogpt.errors import run_main\n"
    code += "import sys; sys.exit(run_main(lambda: GPT2Tokenizer().encode('a')))"
    done = run_python(code, TIKTOKEN_CACHE_DIR=str(tmp_path), https_proxy="http://127.0.0.1:9", no_proxy="")
    assert done.returncode == 2 and "TIKTOKEN_CACHE_DIR" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 3


def test_missing_tiktoken_says_how_to_install():
    code = "import sys; sys.modules['tiktoken'] = None\nfrom nanogpt.tokenizer import GPT2Tokenizer\n"
    code += "from nanogpt.errors import run_main\nsys.exit(run_main(lambda: GPT2Tokenizer().encode('a')))"
    done = run_python(code)
    assert done.returncode == 2 and "pip install tiktoken" in done.stderr


def test_nothing_heavy_is_imported():
    code = "import sys, nanogpt.tokenizer, nanogpt.dataset\n"
    code += "print([m for m in ('torch', 'tiktoken', 'datasets', 'transformers', 'textual') if m in sys.modules])"
    assert run_python(code).stdout.strip() == "[]"
