"""分词器：`char`、`byte`、`gpt2` 与训练出来的 `bpe`，文本与 token id 互换；不依赖 torch。

四种同一个接口：`kind`、`vocab_size`、`eot_id`（没有文末记号则 None）、`encode`（提示）、`encode_ordinary`（语料）、
`token_bytes`、`decode`、`to_dict`。`to_dict` 的结果写进 `meta.json` 与检查点；训练、采样、导出与工作台再用
`tokenizer_from_dict` 还原，所以一个分词器从数据集一直走到采样，只有一条路。
"""

import codecs
import unicodedata
from collections.abc import Iterable
from typing import Any

from nanogpt.bpe import END_OF_TEXT, BPETokenizer, check_merges, encode_special, without_surrogates
from nanogpt.deadline import within
from nanogpt.errors import BadInput
from nanogpt.i18n import _

# `.bin` 文件里一个 id 占一个 uint16，词表不可能更大。
MAX_VOCAB_SIZE = 1 << 16
KINDS = ("char", "byte", "gpt2", "bpe")
# 单个 token 的字符数上限：字符词表里只该有一个，留些余地给别人写的特殊记号。
MAX_TOKEN_CHARS = 64
# 下载 GPT-2 的词表至多等这么久（秒）；约 1.5 MB。
BPE_TIMEOUT_S = 20.0
# 词表以外的 id 解码成这个字符，让人看得见而不是崩溃。
REPLACEMENT = "\ufffd"


class CharTokenizer:
    """一个字符一个 token，id 就是它在 `tokens` 里的位置。

    与 nanoGPT 的 `meta.pkl` 同义：`tokens` 里多于一个字符的项能解码，但编码永远碰不到它。
    """

    kind = "char"
    eot_id: int | None = None

    def __init__(self, tokens: list[str]):
        self.tokens = list(tokens)
        self.vocab_size = len(self.tokens)
        self._ids = {token: i for i, token in enumerate(self.tokens)}

    def encode(self, text: str) -> list[int]:
        """`text` 的 id；有词表外的字符时抛出 `BadInput`，一个 id 也不给。"""
        unknown = set(text) - self._ids.keys()
        if unknown:
            raise self._out_of_vocabulary(text, unknown)
        return [self._ids[char] for char in text]

    encode_ordinary = encode

    def token_bytes(self, token: int) -> bytes:
        """一个 id 的 UTF-8 字节；词表外的 id 是 U+FFFD 的字节。"""
        return (self.tokens[token] if 0 <= token < self.vocab_size else REPLACEMENT).encode("utf-8")

    def decode(self, ids: Iterable[int]) -> str:
        """`ids` 的文本；词表外的 id 变成 U+FFFD。"""
        return "".join(self.tokens[i] if 0 <= i < self.vocab_size else REPLACEMENT for i in ids)

    def to_dict(self) -> dict[str, Any]:
        """只含 str、int、list 的描述，见 `tokenizer_from_dict`。"""
        return {"kind": self.kind, "tokens": list(self.tokens)}

    def _out_of_vocabulary(self, text: str, unknown: set[str]) -> BadInput:
        index = min(text.index(char) for char in unknown)
        char = text[index]
        line = text.count("\n", 0, index) + 1
        column = index - (text.rfind("\n", 0, index) + 1) + 1
        known = "".join(token for token in self.tokens if token.isprintable())
        known = known if len(known) <= 120 else known[:120] + "…"
        return BadInput(
            "out_of_vocabulary",
            _("character {char} (U+{point}{name}) is not in the vocabulary of {count} characters").format(
                char=repr(char), point=f"{ord(char):04X}", name=_character_name(char), count=self.vocab_size
            ),
            _("index {index} (line {line}, column {column})").format(index=index, line=line, column=column),
            _("use only these characters: {known}").format(known=known),
        )


def _character_name(char: str) -> str:
    name = unicodedata.name(char, "")
    return f" {name}" if name else ""


class ByteTokenizer:
    """UTF-8 的一个字节一个 token，id 就是字节的值；256 是文末记号。任何文本都能编码。"""

    kind = "byte"
    vocab_size = 257
    eot_id: int | None = 256

    def encode(self, text: str) -> list[int]:
        """提示文本的 id；`<|endoftext|>` 当作特殊记号。"""
        return encode_special(text, self.encode_ordinary, self.eot_id)

    def encode_ordinary(self, text: str) -> list[int]:
        """语料的 id；`<|endoftext|>` 只是普通文字。"""
        return list(without_surrogates(text).encode("utf-8"))

    def token_bytes(self, token: int) -> bytes:
        """一个 id 的字节，可以是半个 UTF-8 字符；词表外的 id 是 U+FFFD 的字节。"""
        if 0 <= token < 256:
            return bytes([token])
        return (END_OF_TEXT if token == self.eot_id else REPLACEMENT).encode("utf-8")

    def decode(self, ids: Iterable[int]) -> str:
        """`ids` 的文本；词表外的 id 与拼不成 UTF-8 的字节变成 U+FFFD。"""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def to_dict(self) -> dict[str, Any]:
        """只含 str、int、list 的描述，见 `tokenizer_from_dict`。"""
        return {"kind": self.kind}

    def library(self) -> Any:
        """同一分词器的 `tokenizers.Tokenizer`：没有合并的 BPE。给导出用。"""
        return BPETokenizer([]).library()


class GPT2Tokenizer:
    """GPT-2 的 BPE，由 tiktoken 完成；第一次编码或解码时才载入它。

    只训练不必有 tiktoken，所以构造时不碰它。
    """

    kind = "gpt2"
    vocab_size = 50257
    eot_id: int | None = 50256

    def __init__(self) -> None:
        self._loaded: Any = None

    def encode(self, text: str) -> list[int]:
        """提示文本的 id；`<|endoftext|>` 当作特殊记号，与 nanoGPT 的采样相同。"""
        ids: list[int] = self._encoding().encode(text, allowed_special={"<|endoftext|>"}, disallowed_special=())
        return ids

    def encode_ordinary(self, text: str) -> list[int]:
        """语料的 id；`<|endoftext|>` 只是普通文字。"""
        ids: list[int] = self._encoding().encode_ordinary(text)
        return ids

    def encode_array(self, text: str) -> Any:
        """同 `encode_ordinary`，给出 uint32 的 numpy 数组：不经过 Python 的列表，快约三成。"""
        return self._encoding().encode_to_numpy(text, disallowed_special=())

    def token_bytes(self, token: int) -> bytes:
        """一个 id 的字节，可以是半个 UTF-8 字符；词表外的 id 是 U+FFFD 的字节。"""
        if not 0 <= token < self.vocab_size:
            return REPLACEMENT.encode("utf-8")
        found: bytes = self._encoding().decode_single_token_bytes(int(token))
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """`ids` 的文本；词表外的 id（模型的词表常补齐到 50304）与拼不成 UTF-8 的字节变成 U+FFFD。"""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def to_dict(self) -> dict[str, Any]:
        """只含 str、int、list 的描述，见 `tokenizer_from_dict`。"""
        return {"kind": self.kind}

    def _encoding(self) -> Any:
        if self._loaded is None:
            self._loaded = load_gpt2_encoding()
        return self._loaded


def load_gpt2_encoding() -> Any:
    """tiktoken 的 GPT-2 编码；没装、下载不到或缓存已坏时抛出 `BadInput`。

    首次使用要下载约 1.5 MB 的词表，之后读缓存。
    """
    try:
        import tiktoken
    except ImportError as error:
        raise BadInput(
            "tiktoken_missing",
            _("GPT-2 BPE needs the tiktoken package, which is not installed"),
            "",
            _("pip install tiktoken"),
        ) from error
    try:
        # 词表不在缓存里时它会下载，而且没有超时
        return within(BPE_TIMEOUT_S, lambda: tiktoken.get_encoding("gpt2"))
    # 网络错误都是 OSError 的子类；缓存内容的校验和不符时 tiktoken 抛 ValueError。
    except (OSError, ValueError) as error:
        raise BadInput(
            "bpe_unavailable",
            _("cannot load the GPT-2 BPE files: {error}").format(error=" ".join(str(error).split())[:200]),
            "",
            _(
                "connect to the network once, or copy tiktoken's cache from a machine that has it "
                "and set TIKTOKEN_CACHE_DIR to that folder"
            ),
        ) from error


Tokenizer = CharTokenizer | ByteTokenizer | GPT2Tokenizer | BPETokenizer


class StreamDecoder:
    """逐个收 token，只给出完整的字符；全部接起来就是 `decode` 的结果。

    每个 token 的代价与已有多少 token 无关，所以可以一直接下去。
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """收下一个 token，返回新凑成的字符；半个 UTF-8 字符留到下一次。"""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """不再有 token：还留着的半个字符变成 U+FFFD。"""
        return self._decoder.decode(b"", True)


def tokenizer_from_dict(description: Any) -> Tokenizer:
    """由 `to_dict` 的结果还原分词器。

    `description` 可能来自别人的检查点，所以逐项查类型与范围，不合法就抛出 `BadInput`。
    """
    if type(description) is not dict:
        raise _bad(_("the tokenizer description is not a table"))
    kind = description.get("kind")
    if kind in ("gpt2", "byte"):
        _refuse_extra_keys(description, {"kind"})
        return GPT2Tokenizer() if kind == "gpt2" else ByteTokenizer()
    if kind == "bpe":
        _refuse_extra_keys(description, {"kind", "merges"})
        return BPETokenizer(check_merges(description.get("merges"), MAX_VOCAB_SIZE))
    if kind == "char":
        _refuse_extra_keys(description, {"kind", "tokens"})
        return CharTokenizer(check_tokens(description.get("tokens")))
    raise _bad(_("unknown tokenizer kind {kind}").format(kind=_short(kind)))


def check_tokens(tokens: Any) -> list[str]:
    """确认 `tokens` 是合用的词表：1 到 65,536 个互不相同的短字符串，都能写成 UTF-8。"""
    if type(tokens) is not list or not 1 <= len(tokens) <= MAX_VOCAB_SIZE:
        raise _bad(_("the vocabulary must be a list of 1 to {most} tokens").format(most=MAX_VOCAB_SIZE))
    for i, token in enumerate(tokens):
        if type(token) is not str or not 1 <= len(token) <= MAX_TOKEN_CHARS or _has_surrogate(token):
            raise _bad(_("token {index} is not a short string: {token}").format(index=i, token=_short(token)))
    if len(set(tokens)) != len(tokens):
        raise _bad(_("the vocabulary holds a token twice"))
    return tokens


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


def _refuse_extra_keys(description: dict[Any, Any], known: set[str]) -> None:
    extra = [key for key in description if key not in known]
    if extra:
        raise _bad(_("unknown key {key} in the tokenizer description").format(key=_short(extra[0])))


def _short(value: Any) -> str:
    """外来值的一小段 `repr`；整个容器不展开，它可能极大或自指。"""
    if type(value) is int:
        return repr(value) if value.bit_length() < 64 else "int"
    return repr(value[:40]) if type(value) is str else type(value).__name__


def _bad(what: str) -> BadInput:
    hint = _("prepare the dataset again, or take the checkpoint from its source again")
    return BadInput("bad_tokenizer", what, "", hint)
