"""本项目的分词器写成 `tokenizers` 库的样子，transformers 的 `AutoTokenizer` 就读得了；id 与文本都不变。

`nanogpt.export` 使用；`tokenizers` 用到才导入。
"""

import json
from typing import Any

from nanogpt.bpe import END_OF_TEXT, byte_alphabet, load_library
from nanogpt.tokenizer import CharTokenizer, GPT2Tokenizer, Tokenizer, load_gpt2_encoding


def tokenizer_files(tokenizer: Tokenizer, block_size: int) -> dict[str, dict[str, Any]]:
    """文件名 -> 内容：`tokenizer.json` 与 `tokenizer_config.json`。"""
    if isinstance(tokenizer, CharTokenizer):
        library = char_library(tokenizer)
    else:
        library = gpt2_library() if isinstance(tokenizer, GPT2Tokenizer) else tokenizer.library()
        # 排在词表之后，恰是 `eot_id`
        library.add_special_tokens([load_library().AddedToken(END_OF_TEXT, special=True, normalized=False)])
        assert library.token_to_id(END_OF_TEXT) == tokenizer.eot_id
    special = {} if tokenizer.eot_id is None else {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    return {"tokenizer.json": json.loads(library.to_str()),
            # 默认的「清理」会删掉标点前的空格，文本就不是原来的了
            "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **special,
                                      "clean_up_tokenization_spaces": False, "model_max_length": block_size}}


def char_library(tokenizer: CharTokenizer) -> Any:
    """每个字符一个词；词表外的字符出错，与本项目相同。"""
    tokenizers = load_library()
    vocab = {token: i for i, token in enumerate(tokenizer.tokens)}
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab=vocab, unk_token="<unk>"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    library.decoder = tokenizers.decoders.Fuse()
    return library


def gpt2_library() -> Any:
    """GPT-2 的 BPE。tiktoken 只存 token 的次序，合并表由它反推：每个 token 由比它早的 token 拼成。约 1 秒。"""
    tokenizers = load_library()
    ranks: dict[bytes, int] = load_gpt2_encoding()._mergeable_ranks
    alphabet = byte_alphabet()

    def name(token: bytes) -> str:
        return "".join(alphabet[byte] for byte in token)

    merges = [tuple(map(name, _last_merge(token, rank, ranks)))
              for token, rank in sorted(ranks.items(), key=lambda item: item[1]) if len(token) > 1]
    model = tokenizers.models.BPE(vocab={name(token): rank for token, rank in ranks.items()}, merges=merges)
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    library.decoder = tokenizers.decoders.ByteLevel()
    return library


def _last_merge(token: bytes, rank: int, ranks: dict[bytes, int]) -> list[bytes]:
    """只用比 `rank` 早的合并，把 `token` 并到剩两段：这两段就是它那一条合并。"""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        found = [ranks.get(parts[i] + parts[i + 1], rank) for i in range(len(parts) - 1)]
        i = found.index(min(found))
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return parts
