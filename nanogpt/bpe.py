"""在自己的文本上训练的字节级 BPE：没有归一化，任何文本都能编码，往返逐字节相同。

训练与编码由 Hugging Face 的 `tokenizers` 完成，用到时才导入；分词的正则与 GPT-2 的相同。
`nanogpt.tokenizer` 由描述还原它，`nanogpt.prepare_survey` 训练它，`nanogpt.export` 取 `library()` 导出。
"""

from collections.abc import Iterable
from typing import Any

from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.text_cuts import pieces

END_OF_TEXT = "<|endoftext|>"
# 256 个字节与文末记号总在，所以词表至少这么大。
MIN_VOCAB_SIZE = 257
# 一个 token 至多这么多字节。描述可能来自别人：每条合并都把前一条加倍的话，十几条就能占满内存。
MAX_TOKEN_BYTES = 256
# 训练时更短：更长的只是在背诵某一句。
TRAINED_TOKEN_BYTES = 64
# 一次交给 `tokenizers` 这么多字符：它每个字符要占上百字节，长段还更慢。
PIECE_CHARS = 1 << 13


def byte_alphabet() -> list[str]:
    """字节 0 到 255 在 GPT-2 的词表里写成的字符：可印的照写，其余依次从 U+0100 起。"""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 256 + others.index(byte)) for byte in range(256)]


class BPETokenizer:
    """由合并表 `merges` 定义的字节级 BPE。

    id 0 到 255 是字节本身；随后是各条合并得到的 token，按首次出现的次序；最后一个是文末记号。
    `merges` 的一条是被合并的两个 id，次序就是优先级。
    """

    kind = "bpe"

    def __init__(self, merges: list[list[int]]):
        self.merges = [[left, right] for left, right in merges]
        self._bytes = [bytes([byte]) for byte in range(256)]
        known = set(self._bytes)
        for left, right in self.merges:
            joined = self._bytes[left] + self._bytes[right]
            # 两条合并可以得到同一个串，例如 a+bc 与 ab+c
            if joined not in known:
                known.add(joined)
                self._bytes.append(joined)
        self.eot_id: int | None = len(self._bytes)
        self._bytes.append(END_OF_TEXT.encode("ascii"))
        self.vocab_size = len(self._bytes)
        self._loaded: Any = None

    def encode(self, text: str) -> list[int]:
        """提示文本的 id；`<|endoftext|>` 当作特殊记号。"""
        return encode_special(text, self.encode_ordinary, self.eot_id)

    def encode_ordinary(self, text: str) -> list[int]:
        """语料的 id；`<|endoftext|>` 只是普通文字。"""
        if self._loaded is None:
            self._loaded = self.library()
        parts = list(pieces(without_surrogates(text), PIECE_CHARS))
        return [i for part in self._loaded.encode_batch_fast(parts, add_special_tokens=False) for i in part.ids]

    def token_bytes(self, token: int) -> bytes:
        """一个 id 的字节，可以是半个 UTF-8 字符；词表外的 id 是 U+FFFD 的字节。"""
        return self._bytes[token] if 0 <= token < self.vocab_size else "\ufffd".encode()

    def decode(self, ids: Iterable[int]) -> str:
        """`ids` 的文本；词表外的 id 与拼不成 UTF-8 的字节变成 U+FFFD。"""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def to_dict(self) -> dict[str, Any]:
        """只含 str、int、list 的描述，见 `nanogpt.tokenizer.tokenizer_from_dict`。"""
        return {"kind": self.kind, "merges": [list(pair) for pair in self.merges]}

    def library(self) -> Any:
        """同一分词器的 `tokenizers.Tokenizer`（id 相同），也是导出成 `tokenizer.json` 的东西。不含文末记号。"""
        tokenizers = load_library()
        alphabet = byte_alphabet()
        names = ["".join(alphabet[byte] for byte in token) for token in self._bytes[:-1]]
        model = tokenizers.models.BPE(
            vocab={name: i for i, name in enumerate(names)},
            merges=[(names[left], names[right]) for left, right in self.merges],
        )
        library = tokenizers.Tokenizer(model)
        library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        library.decoder = tokenizers.decoders.ByteLevel()
        return library


def train_bpe(texts: Iterable[str], vocab_size: int) -> BPETokenizer:
    """在 `texts` 上训练词表至多 `vocab_size` 的 BPE；文本太少时会更小。

    `texts` 只走一遍，但不同的词都留在内存里：英文每字节约 10 字节，没有空白的中文约 100 字节。
    """
    tokenizers = load_library()
    alphabet = byte_alphabet()
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = tokenizers.trainers.BpeTrainer(
        # 文末记号不归它管
        vocab_size=vocab_size - 1, min_frequency=2, initial_alphabet=alphabet, show_progress=False,
        max_token_length=TRAINED_TOKEN_BYTES,
    )
    library.train_from_iterator((piece for text in texts for piece in pieces(text, PIECE_CHARS)), trainer)
    ids = {name: byte for byte, name in enumerate(alphabet)}
    merges = []
    for left, right in _merge_names(library):
        merges.append([ids[left], ids[right]])
        # 与 `BPETokenizer` 相同：得到已有的串的合并不占新的 id
        ids.setdefault(left + right, len(ids))
    return BPETokenizer(merges)


def _merge_names(library: Any) -> list[tuple[str, str]]:
    """训练好的合并表；`tokenizers` 的老版本把一条写成以空格隔开的一个串。"""
    import json

    merges = json.loads(library.to_str())["model"]["merges"]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return [(left, right) for left, right in pairs]


def check_merges(merges: Any, most: int) -> list[list[int]]:
    """确认 `merges` 是合用的合并表，词表不超过 `most`；否则抛出 `BadInput`。"""
    if type(merges) is not list or len(merges) > most:
        raise _bad(_("the merges must be a list of at most {most} pairs").format(most=most))
    tokens = [bytes([byte]) for byte in range(256)]
    known, seen = set(tokens), set()
    for index, pair in enumerate(merges):
        if type(pair) is not list or len(pair) != 2 or any(type(i) is not int for i in pair):
            raise _bad(_("merge {index} is not a pair of ids").format(index=index))
        left, right = pair
        if not (0 <= left < len(tokens) and 0 <= right < len(tokens)):
            raise _bad(_("merge {index} joins an id that does not exist yet").format(index=index))
        joined = tokens[left] + tokens[right]
        if len(joined) > MAX_TOKEN_BYTES or (left, right) in seen:
            raise _bad(_("merge {index} comes twice, or makes a token that is too long").format(index=index))
        seen.add((left, right))
        if joined not in known:
            known.add(joined)
            tokens.append(joined)
    if len(tokens) + 1 > most:
        raise _bad(_("the vocabulary holds more than {most} tokens").format(most=most))
    return merges


def encode_special(text: str, ordinary: Any, eot_id: int | None) -> list[int]:
    """把 `<|endoftext|>` 换成 `eot_id`，其余各段由 `ordinary` 编码。"""
    ids: list[int] = []
    for index, part in enumerate(text.split(END_OF_TEXT)):
        if index and eot_id is not None:
            ids.append(eot_id)
        ids += ordinary(part) if part else []
    return ids


def without_surrogates(text: str) -> str:
    """孤立的代理写不成 UTF-8：换成 U+FFFD，与 tiktoken 相同。"""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def load_library() -> Any:
    """`tokenizers` 包；没装时抛出 `BadInput`。导入约 40 ms，编码或训练时才需要。"""
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise BadInput("tokenizers_missing", _("a trained BPE needs the tokenizers package, which is not installed"),
                       "", _("pip install tokenizers")) from error
    return tokenizers


def _bad(what: str) -> BadInput:
    hint = _("prepare the dataset again, or take the checkpoint from its source again")
    return BadInput("bad_tokenizer", what, "", hint)
