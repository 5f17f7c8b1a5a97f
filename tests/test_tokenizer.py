"""分词器：四种的往返、逐 token 的解码、切开编码、越界的字符与 id、敌意的描述。约 5 s。"""

import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHARED, needs_bpe

from nanogpt.bpe import BPETokenizer, train_bpe
from nanogpt.errors import BadInput
from nanogpt.text_cuts import pieces
from nanogpt.tokenizer import (
    ByteTokenizer,
    CharTokenizer,
    GPT2Tokenizer,
    StreamDecoder,
    tokenizer_from_dict,
)

ROOT = Path(__file__).resolve().parents[1]


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
        {"kind": "byte", "tokens": []},
        {"kind": "bpe"},
        {"kind": "bpe", "merges": "ab"},
        {"kind": "bpe", "merges": [[97]]},
        {"kind": "bpe", "merges": [[97, True]]},
        {"kind": "bpe", "merges": [[97, 256]]},
        {"kind": "bpe", "merges": [[-1, 97]]},
        {"kind": "bpe", "merges": [[97, 98], [97, 98]]},
        {"kind": "bpe", "merges": [[97, 97], *[[i, i] for i in range(256, 300)]]},
        {"kind": "bpe", "merges": [[i % 256, i // 256] for i in range(65536)]},
        {"kind": "bpe", "merges": [], "more": 1},
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


HARD_TEXTS = [
    "", "a", "\n", "\r\n\r", " \u3000\u00a0 \t", "héllo wörld", "中文，标点。换行\n", "😀👩‍👩‍👧é\u0301",
    "\x00\x1b\x7f\x85", "<|endoftext|>", "it's 'll 123 \uff14\uff15", "\ufeffbom \ufffd", "a" * 5000,
    "中" * 3000, " " * 3000 + "x", "\U0010ffff",
]


@pytest.fixture(scope="module")
def trained():
    """在杂文上训练的 BPE；三个字节以上的汉字因此有被合并的，也有没有的。"""
    return train_bpe(["the quick brown fox " * 50, "春眠不觉晓，处处闻啼鸟。" * 50, "".join(HARD_TEXTS)], 400)


def every_kind(trained):
    text = "".join(HARD_TEXTS)
    kinds = [CharTokenizer(sorted(set(text))), ByteTokenizer(), trained, BPETokenizer([])]
    return kinds + ([GPT2Tokenizer()] if (SHARED / "tiktoken_cache").is_dir() else [])


@pytest.mark.usefixtures("bpe")
def test_round_trip_of_every_kind(trained):
    """语料的往返逐字相同；描述经 JSON 还原后给出同样的 id。"""
    for tokenizer in every_kind(trained):
        again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
        assert (again.kind, again.vocab_size, again.eot_id) == (tokenizer.kind, tokenizer.vocab_size, tokenizer.eot_id)
        for text in [*HARD_TEXTS, "".join(HARD_TEXTS)]:
            ids = tokenizer.encode_ordinary(text)
            assert tokenizer.decode(ids) == text and again.encode_ordinary(text) == ids, tokenizer.kind
            assert all(0 <= i < tokenizer.vocab_size and i != tokenizer.eot_id for i in ids)


@pytest.mark.usefixtures("bpe")
def test_stream_gives_whole_characters(trained):
    """逐个 token 收，从不给半个字符；全部接起来与一次解码相同，坏字节与词表外的 id 也是。"""
    text = "".join(HARD_TEXTS)
    for tokenizer in every_kind(trained):
        stream, length = StreamDecoder(tokenizer), 0
        for token in tokenizer.encode_ordinary(text):
            shown = stream.push(token)
            assert text.startswith(shown, length)
            length += len(shown)
        assert text[:length] + stream.finish() == text
        noise = random.Random(7).choices(range(tokenizer.vocab_size + 3), k=500)
        stream = StreamDecoder(tokenizer)
        assert "".join(map(stream.push, noise)) + stream.finish() == tokenizer.decode(noise)


def test_bpe_is_what_was_asked_for(trained):
    assert trained.vocab_size <= 400 and trained.eot_id == trained.vocab_size - 1
    assert trained.encode("a<|endoftext|>b") == [97, trained.eot_id, 98]
    assert trained.decode([trained.eot_id]) == "<|endoftext|>"
    assert len(trained.encode_ordinary("the quick brown fox the")) == 5
    assert train_bpe(["ab"], 1000).merges == []


def test_bpe_training_repeats_itself():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = train_bpe([text], 600)
    assert first.vocab_size == 600 and train_bpe([text], 600).merges == first.merges
    assert 2 < len(text) / len(first.encode_ordinary(text)) < 5
    # 长文本分段交给 `tokenizers`，与整篇相同
    assert first.library().encode(text).ids == first.encode_ordinary(text)


def test_two_merges_may_make_the_same_token():
    """a+b=256, b+c=257, ab+c=258，a+bc 也是 258。"""
    tokenizer = BPETokenizer([[97, 98], [98, 99], [256, 99], [97, 257]])
    assert tokenizer.vocab_size == 260 and tokenizer.token_bytes(258) == b"abc" and tokenizer.eot_id == 259
    assert tokenizer_from_dict(tokenizer.to_dict()).merges == tokenizer.merges


def test_byte_ids_are_bytes():
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("é<|endoftext|>") == [0xC3, 0xA9, 256] and tokenizer.vocab_size == 257
    assert tokenizer.decode([0xC3, 300, 0xA9]) == "\ufffd\ufffd\ufffd"
    assert tokenizer.library().encode("é中\n").ids == tokenizer.encode("é中\n")


def test_lone_surrogates_become_replacement_characters(trained):
    for tokenizer in (ByteTokenizer(), trained):
        assert tokenizer.decode(tokenizer.encode("a\ud800b\udc00")) == "a\ufffdb\ufffd"


@needs_bpe
@pytest.mark.usefixtures("bpe")
def test_pieces_encode_like_the_whole(trained):
    """在安全的切点切开，各段的 token 接起来就是整篇的。"""
    chooser = random.Random(1)
    for alphabet in ("ab 'sl\n\t 12.,", "中文 ，。a\n\r's\u3000\u00a0", "a' \u0301\u200b\x1c\x85é\u0661²\n"):
        for _round in range(200):
            text = "".join(chooser.choices(alphabet, k=chooser.randrange(1, 400))) + " x\n"
            parts = list(pieces(text, 40))
            assert "".join(parts) == text and all(len(part) <= 40 for part in parts)
            # 只看两端都安全的：40 个字符里没有切点时只能硬切
            if all(part[-1:].strip() and nxt[0] in " \n\r" for part, nxt in itertools.pairwise(parts)):
                for tokenizer in (GPT2Tokenizer(), trained):
                    whole = tokenizer.encode_ordinary(text)
                    assert [i for part in parts for i in tokenizer.encode_ordinary(part)] == whole


def test_text_without_any_cut_is_cut_hard():
    assert list(pieces("x" * 100, 30)) == ["x" * 30] * 3 + ["x" * 10]
    assert list(pieces("中" * 29 + "\r\n", 30)) == ["中" * 29, "\r\n"]
    assert list(pieces("\n" * 5 + "\r\n" * 2, 6)) == ["\n" * 5, "\r\n\r\n"] and list(pieces("", 5)) == []


def test_missing_tokenizers_says_how_to_install():
    code = "import sys; sys.modules['tokenizers'] = None\nfrom nanogpt.bpe import BPETokenizer\n"
    code += "from nanogpt.errors import run_main\nsys.exit(run_main(lambda: BPETokenizer([]).encode('a')))"
    done = run_python(code)
    assert done.returncode == 2 and "pip install tokenizers" in done.stderr


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
    heavy = ("torch", "tiktoken", "tokenizers", "datasets", "transformers", "textual")
    code += f"print([m for m in {heavy} if m in sys.modules])"
    assert run_python(code).stdout.strip() == "[]"


@pytest.mark.usefixtures("bpe")
def test_empty_text_only_loads(trained):
    """空文本没有 token，却会载入要用的包；词表里没有拉丁字母的字符级也收得下。`nanogpt.loading` 借此先试一试。"""
    assert CharTokenizer(["中"]).encode_ordinary("") == []
    assert [tokenizer.encode_ordinary("") for tokenizer in every_kind(trained)] == [[]] * len(every_kind(trained))
