"""从自己的文本到数据集目录，一条直路：来源 → 单元 →（词表）→ 份 → 划分 → `train.bin` 与 `val.bin`。

`nanogpt.prepare` 解析命令行后调用 `build`。中途的东西都在输出目录的 `.parts-<指纹>/` 里：被杀死之后再运行同样的
命令就接着做；坏输入则一个文件也不留。
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nanogpt.atomic import write_atomic
from nanogpt.dataset_write import TOKEN_TYPE, check_free_space, explain_os_error, make_folder, write_dataset
from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from nanogpt.prepare_convert import convert, needs_conversion
from nanogpt.prepare_documents import Corpus, plan_corpus
from nanogpt.prepare_recipe import Recipe, check_fits, fingerprint, resolve_inputs
from nanogpt.prepare_report import Report
from nanogpt.prepare_sources import SourceFile
from nanogpt.prepare_split import Split, split_by_document, split_by_position
from nanogpt.prepare_survey import survey, train_tokenizer
from nanogpt.prepare_tokens import Encoder, tokenize
from nanogpt.tokenizer import (
    MAX_VOCAB_SIZE,
    ByteTokenizer,
    CharTokenizer,
    GPT2Tokenizer,
    Tokenizer,
    load_gpt2_encoding,
    tokenizer_from_dict,
)

REPEATED = N_("{count:,} documents repeat an earlier one (always in the same split); --drop-duplicates leaves them out")
DROPPED = N_("{count:,} documents repeat an earlier one; they were left out")
# 估计 token 数时看这么多字符。
ESTIMATE_CHARS = 1 << 16


def build(recipe: Recipe, folder: Path, processes: int, report: Report, overwrite: bool = False) -> dict[str, Any]:
    """做成数据集目录 `folder`，返回 `meta.json` 的内容；坏输入抛出 `BadInput`，此前的东西一个字节不动。"""
    if recipe.tokenizer == "gpt2":
        # 缺了分词器，读完语料也是白费
        load_gpt2_encoding()
    if not overwrite and (folder / "train.bin").exists():
        raise BadInput("dataset_exists", _("there is a dataset already"), str(folder),
                       _("choose another name, or replace it with --overwrite"))
    given = resolve_inputs(recipe)
    check_fits(recipe, given)
    was_there = folder.exists()
    make_folder(folder)
    with _only_one(folder), _clean_up(folder, was_there):
        work = folder / f".parts-{fingerprint(recipe, given)}"
        _drop_other_parts(folder, work)
        make_folder(work)
        corpus = read_corpus(recipe, given, work, report)
        split, tokenizer = _encode(recipe, corpus, work, processes, report)
        meta = _write(recipe, given, split, tokenizer, folder, report)
        shutil.rmtree(work)
    report.end(str(folder), meta)
    return meta


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """占住 `folder`：同一个数据集同时只由一个进程准备。锁随进程结束而释放。"""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInput("already_preparing", _("another process is preparing this dataset"), str(folder),
                           _("wait for it, or end it first")) from error
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _clean_up(folder: Path, was_there: bool) -> Iterator[None]:
    """坏输入时收走半成品；被杀、磁盘满时留着，同样的命令会接着做。"""
    try:
        try:
            yield
        except OSError as error:
            raise explain_os_error(error, folder) from error
    except BadInput:
        for path in folder.glob(".parts-*"):
            shutil.rmtree(path, ignore_errors=True)
        if not was_there:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _drop_other_parts(folder: Path, work: Path) -> None:
    """别的做法留下的份不会再用到，只占地方。"""
    for path in folder.glob(".parts-*"):
        if path != work:
            shutil.rmtree(path, ignore_errors=True)


def read_corpus(recipe: Recipe, given: list[SourceFile], work: Path, report: Report) -> Corpus:
    """该转的转成 UTF-8，再切成单元。"""
    todo = [source for source in given if needs_conversion(source)]
    if todo:
        for source in todo:
            if source.is_detected:
                report.note("encoding", _("{file} is read as {encoding}").format(
                    file=source.name, encoding=source.encoding))
        check_free_space(work, sum(source.bytes for source in todo) * 2)
        report.stage("convert", sum(source.bytes for source in todo))
    sources = []
    for number, source in enumerate(given):
        if source in todo:
            sources.append(convert(source, number, work, recipe.text_column))
            report.advance(source.bytes)
        else:
            sources.append(source)
    return plan_corpus(sources, recipe.text_column, recipe.separator)


def _encode(recipe: Recipe, corpus: Corpus, work: Path, processes: int, report: Report) -> tuple[Split, Tokenizer]:
    """分词器、各份、划分。别的格式里只有一篇文档时，改成单篇文本再来一次。"""
    manifest = _manifest(work)
    chars: list[int] = manifest.get("chars", [])
    if "tokenizer" in manifest:
        tokenizer = tokenizer_from_dict(manifest["tokenizer"])
    else:
        tokenizer, chars = _choose_tokenizer(recipe, corpus, processes, report)
        manifest = {"recipe": asdict(recipe), "units": len(corpus.units), "chars": chars,
                    "tokenizer": tokenizer.to_dict()}
        write_atomic(work / "manifest.json", json.dumps(manifest))
    cuts = _cuts(chars, recipe, corpus) if corpus.is_single else None
    _check_space(corpus, tokenizer, work)
    skipped = tokenize(corpus, tokenizer, cuts, work, processes, report)
    if skipped:
        report.note("going_on", _("going on: {done} of {total} parts were already tokenized").format(
            done=skipped, total=len(corpus.units)))
    count = len(corpus.units)
    if corpus.is_single:
        return split_by_position(work, count), tokenizer
    split = split_by_document(work, count, recipe.val_fraction, recipe.seed, recipe.drop_duplicates)
    if split.documents["train"]:
        return split, tokenizer
    if split.documents["val"] + split.duplicates > 1:
        raise BadInput("text_too_short", _("all documents are the same; training and validation need one each"),
                       _shown(corpus.sources), _("use more text"))
    # 各有各的文件夹：续做时不会把一种的份当成另一种的
    alone = work / "single"
    make_folder(alone)
    return _encode(recipe, _as_single(corpus, alone), alone, processes, report)


def _manifest(work: Path) -> dict[str, Any]:
    """上次留下的清单：训练好的分词器不必再来一遍，续做的份也就一定用同一个。"""
    try:
        found = json.loads((work / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _choose_tokenizer(recipe: Recipe, corpus: Corpus, processes: int, report: Report) -> tuple[Tokenizer, list[int]]:
    """（分词器, 单篇文本时每个单元的字符数）。"""
    chars: list[int] = []
    alphabet: list[str] = []
    if recipe.tokenizer == "char" or corpus.is_single:
        chars, alphabet = survey(corpus, processes, report)
    if corpus.is_single and not any(char.strip() for char in alphabet):
        raise BadInput("empty_text", _("{file} holds nothing but white space").format(file=corpus.sources[0].name),
                       _shown(corpus.sources), _("give files that hold some text"))
    if recipe.tokenizer == "byte":
        return ByteTokenizer(), chars
    if recipe.tokenizer == "gpt2":
        return GPT2Tokenizer(), chars
    if recipe.tokenizer == "bpe":
        tokenizer = train_tokenizer(corpus, recipe.vocab_size, report)
        if tokenizer.vocab_size < recipe.vocab_size:
            report.note("smaller_vocabulary", _("the text holds only enough for a vocabulary of {found}").format(
                found=tokenizer.vocab_size))
        return tokenizer, chars
    # 没有文末记号：多篇之间以换行隔开，它就得在词表里
    alphabet = sorted({*alphabet, *([] if corpus.is_single else ["\n"])})
    if len(alphabet) > MAX_VOCAB_SIZE:
        raise BadInput("too_many_characters", _("{count} different characters; a token id of two bytes holds {most}")
                       .format(count=len(alphabet), most=MAX_VOCAB_SIZE), _shown(corpus.sources),
                       _("use --tokenizer bpe, byte or gpt2, which can write every character"))
    return CharTokenizer(alphabet), chars


def _cuts(chars: list[int], recipe: Recipe, corpus: Corpus) -> list[int]:
    """单篇文本：每个单元里归训练的字符数。切点的算法同 nanoGPT：`int(n * 0.9)`。"""
    total = sum(chars)
    cut = int(total * (1 - recipe.val_fraction))
    if not 0 < cut < total:
        raise BadInput("text_too_short", _("{file} holds {count} characters; training and validation need some each")
                       .format(file=corpus.sources[0].name, count=total), _shown(corpus.sources), _("use more text"))
    cuts, offset = [], 0
    for count in chars:
        cuts.append(min(max(cut - offset, 0), count))
        offset += count
    return cuts


def _check_space(corpus: Corpus, tokenizer: Tokenizer, work: Path) -> None:
    """各份与成品并存，所以每个 token 要四个字节。字节数是上界，BPE 由开头的一段估出每个 token 几个字节。"""
    total = sum(corpus.weights)
    if isinstance(tokenizer, (CharTokenizer, ByteTokenizer)):
        ratio = 1.0
    else:
        sample = next((segment.text[:ESTIMATE_CHARS] for number in range(len(corpus.units))
                       for segment in corpus.read(number) if segment.text), " ")
        ratio = len(sample.encode("utf-8")) / max(1, sum(ids.size for ids in Encoder(tokenizer).encode(sample)))
    check_free_space(work, int(total / ratio) * 2 * TOKEN_TYPE.itemsize)


def _as_single(corpus: Corpus, work: Path) -> Corpus:
    """JSON、CSV 里唯一的一篇文档：写成文本文件，与文本文件同样处理。"""
    path = work / "single.txt"
    with open(path, "w", encoding="utf-8", newline="") as file:
        for number in range(len(corpus.units)):
            for segment in corpus.read(number):
                file.write(segment.text if segment.text.strip() else "")
    single = replace(corpus.sources[0], path=str(path), format="text", encoding="utf-8", bom_bytes=0,
                     bytes=path.stat().st_size)
    return plan_corpus([single], corpus.column, "")


def _write(recipe: Recipe, given: list[SourceFile], split: Split, tokenizer: Tokenizer, folder: Path,
           report: Report) -> dict[str, Any]:
    """写出成品，说出划分的结果。"""
    is_single = split.side is None
    for code, count, message in (
        ("empty", split.empty, _("{count:,} empty documents were left out")),
        ("duplicates", split.duplicates, _(DROPPED) if recipe.drop_duplicates else _(REPEATED)),
    ):
        if count:
            report.note(code, message.format(count=count))
    report.stage("write", sum(split.tokens.values()) * TOKEN_TYPE.itemsize)

    def counted(name: str) -> Iterator[Any]:
        for ids in split.stream(name):
            yield ids
            report.advance(ids.nbytes)

    names = sorted({source.name for source in given})
    return write_dataset(
        folder, tokenizer, {name: counted(name) for name in ("train", "val")},
        expected_tokens=sum(split.tokens.values()),
        source=", ".join(names[:5]) + (f", … ({len(names)})" if len(names) > 5 else ""),
        source_bytes=sum(source.bytes for source in given), documents=1 if is_single else sum(split.documents.values()),
        train_documents=split.documents["train"],
        val_documents=split.documents["val"], train_chars=split.chars["train"], val_chars=split.chars["val"],
        duplicates=split.duplicates, empty_documents=split.empty, val_fraction=recipe.val_fraction, seed=recipe.seed,
        split="position" if is_single else "document")


def _shown(sources: list[SourceFile]) -> str:
    return sources[0].path if len(sources) == 1 else ""
