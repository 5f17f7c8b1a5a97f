"""开工之前看一眼：读到的是什么编码、几个文件，第一篇的开头切成怎样的 token，大约会有多少。

`nanogpt.prepare --preview` 与工作台的数据界面使用；只读开头，什么也不写，不导入 `torch`。
"""

import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from nanogpt.bpe import train_bpe
from nanogpt.i18n import _
from nanogpt.prepare_convert import converted_texts, needs_conversion
from nanogpt.prepare_documents import PARQUET_RATIO, Span, plan_units, read_unit
from nanogpt.prepare_recipe import Recipe, check_fits, resolve_inputs
from nanogpt.prepare_sources import SourceFile
from nanogpt.text import visible
from nanogpt.tokenizer import ByteTokenizer, CharTokenizer, GPT2Tokenizer, Tokenizer

# 看每个来源开头的这么多字符：够猜比例，几百毫秒就好。
SAMPLE_CHARS = 200_000
SAMPLE_FILES, UNIT_BYTES = 50, 1 << 20
SHOWN_CHARS, SHOWN_TOKENS = 600, 120


def preview(recipe: Recipe) -> dict[str, Any]:
    """只含能写进 JSON 的值；坏输入抛出 `BadInput`，与真的准备时相同。

    `is_estimate` 的那几项由开头推算：BPE 只在开头上训练过，字符的词表也只见过开头。
    """
    sources = resolve_inputs(recipe)
    check_fits(recipe, sources)
    texts, is_all = _first_texts(recipe, sources)
    sample = "".join(texts)
    tokenizer = _tokenizer(recipe, texts)
    ids = tokenizer.encode_ordinary(sample)
    chars_per_token = len(sample) / max(1, len(ids))
    total_bytes = sum(_text_bytes(source) for source in sources)
    # JSON 与 CSV 的键与引号也算在字节里：没有读完的会估得偏多
    chars = len(sample) if is_all else int(total_bytes * len(sample) / max(1, len(sample.encode("utf-8"))))
    first = texts[0][:SHOWN_CHARS]
    return {
        "files": len(sources), "bytes": sum(source.bytes for source in sources),
        "formats": sorted({source.format for source in sources}),
        "encodings": sorted({source.encoding for source in sources}),
        "is_encoding_detected": any(source.is_detected for source in sources),
        "first_file": sources[0].name, "text": first,
        "tokens": [{"id": i, "text": visible(_token_text(tokenizer, i), keep="")}
                   for i in tokenizer.encode_ordinary(first)[:SHOWN_TOKENS]],
        "tokenizer": recipe.tokenizer, "vocab_size": tokenizer.vocab_size, "chars_per_token": chars_per_token,
        "estimated_documents": _documents(recipe, sources, texts, chars / max(1, len(sample))),
        "estimated_chars": chars, "estimated_tokens": int(chars / chars_per_token),
        "estimated_val_tokens": int(chars / chars_per_token * recipe.val_fraction),
        "disk_bytes": int(chars / chars_per_token) * 4,
        "split": "position" if _is_single(recipe, sources) else "document",
        "is_estimate": not is_all,
    }


def _documents(recipe: Recipe, sources: list[SourceFile], texts: list[str], growth: float) -> int:
    """大约多少篇：文本不分开时一个文件一篇，其余由开头的篇数按长度推算。"""
    if not recipe.separator and all(source.format == "text" for source in sources):
        return len(sources)
    return max(1, round(len(texts) * max(1.0, growth)))


def _is_single(recipe: Recipe, sources: list[SourceFile]) -> bool:
    return len(sources) == 1 and sources[0].format == "text" and not recipe.separator


def _text_bytes(source: SourceFile) -> int:
    return source.bytes * (PARQUET_RATIO if source.format == "parquet" else 1)


def _first_texts(recipe: Recipe, sources: list[SourceFile]) -> tuple[list[str], bool]:
    """（各来源开头的文档，合计至多 `SAMPLE_CHARS` 个字符；是不是全部都在里面了）。"""
    texts: list[str] = []
    # 只读开头的一个单元
    is_all = len(sources) <= SAMPLE_FILES and all(
        source.bytes <= UNIT_BYTES and source.format in ("text", "jsonl") and not needs_conversion(source)
        for source in sources)
    share = max(2000, SAMPLE_CHARS // min(len(sources), SAMPLE_FILES))
    with tempfile.TemporaryDirectory(prefix="nanogpt-preview-") as folder:
        for number, source in enumerate(sources[:SAMPLE_FILES]):
            left = share
            for text in _texts_of(recipe, source, number, Path(folder)):
                texts.append(text[:left])
                left -= len(texts[-1])
                if left <= 0:
                    is_all = False
                    break
            if sum(map(len, texts)) >= SAMPLE_CHARS:
                is_all = False
                break
    return [text for text in texts if text.strip()] or [" "], is_all


def _texts_of(recipe: Recipe, source: SourceFile, number: int, folder: Path) -> Any:
    """一个来源开头的各篇；要转换的先把开头转好。"""
    if needs_conversion(source):
        suffix, fmt = (".txt", "text") if source.format == "text" else (".jsonl", "jsonl")
        path = folder / f"{number}{suffix}"
        with open(path, "w", encoding="utf-8", newline="") as file:
            for text in islice(converted_texts(source, recipe.text_column), 1 if fmt == "text" else 1000):
                file.write(text)
        source = replace(source, path=str(path), format=fmt, encoding="utf-8", bytes=path.stat().st_size, bom_bytes=0,
                         is_gzip=False)
    # 只读开头的一个单元；文本的末尾切在安全的地方
    units = plan_units([source], UNIT_BYTES)[:1] if source.format in ("text", "jsonl") else [[Span(0, 0, 1)]]
    for spans in units:
        for segment in read_unit(spans, [source], recipe.text_column, recipe.separator):
            yield segment.text


def _tokenizer(recipe: Recipe, texts: list[str]) -> Tokenizer:
    if recipe.tokenizer == "byte":
        return ByteTokenizer()
    if recipe.tokenizer == "gpt2":
        return GPT2Tokenizer()
    if recipe.tokenizer == "bpe":
        return train_bpe(texts, recipe.vocab_size)
    return CharTokenizer(sorted(set().union(*texts)))


def _token_text(tokenizer: Tokenizer, token: int) -> str:
    """一个 token 的样子；半个字符写成字节。"""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<{byte:02x}>" for byte in data)


def print_preview(shown: dict[str, Any]) -> None:
    """`preview` 的结果，给人看。"""
    print(_("{count} files, {size:.1f} MB, {formats}, {encodings}").format(
        count=shown["files"], size=shown["bytes"] / 1e6, formats="+".join(shown["formats"]),
        encodings="+".join(shown["encodings"]) + (_(" (detected)") if shown["is_encoding_detected"] else "")))
    print(_("first text ({file}):").format(file=shown["first_file"]))
    print("    " + visible(shown["text"][:300], keep="\n").replace("\n", "\n    "))
    print(_("its tokens ({tokenizer}, vocabulary {size:,}):").format(
        tokenizer=shown["tokenizer"], size=shown["vocab_size"]))
    print("    " + "|".join(token["text"] for token in shown["tokens"][:80]))
    about = _("about ") if shown["is_estimate"] else ""
    line = _("{about}{tokens:,} tokens, {ratio:.2f} characters a token; {val:,} of them for validation, by {split}")
    print(line.format(
        about=about, tokens=shown["estimated_tokens"], ratio=shown["chars_per_token"],
        val=shown["estimated_val_tokens"], split=shown["split"]))
