"""数据医生：一个数据集有没有毛病，说得出是什么、怎样修。

`nanogpt.prepare --check NAME` 与工作台的数据集界面使用 `examine`；`nanogpt.preflight` 在训练之前只做便宜的
`quick_look`。事实由 `nanogpt.dataset_stats` 给出，这里只下判断。
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nanogpt.dataset import SPLITS, Dataset, check_ids, check_length, prepare_hint
from nanogpt.dataset_stats import SplitStats, leaked_share, read_tokens, split_stats, tokenizer_of
from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.text import visible
from nanogpt.tokenizer import REPLACEMENT, GPT2Tokenizer, Tokenizer

# 错误：训练不了，或练出来的不是你的文本。提醒：练得了，多半不是你要的。说明：知道就好。
ERROR, WARNING, NOTE = "error", "warning", "note"
# 看开头这么多 token 认类型：便宜的检查只读 2 MiB。
QUICK_TOKENS = 1 << 20
TOP_TOKENS = 20
# UTF-8 的文字被当成 cp1252 或 latin-1 读过一次，留下的样子。
_MOJIBAKE = tuple(char.encode("utf-8").decode(wrong) for wrong, chars in (
    ("latin-1", "éèöüä\u2019\u201c\u201d的不一，。"), ("cp1252", "éèöüä\u2019\u201c的")) for char in chars)


@dataclass(frozen=True)
class Finding:
    """一条结论。`code` 稳定，给程序看；`where` 可为空。"""

    code: str
    level: str
    what: str
    where: str = ""
    hint: str = ""


def examine(dataset: Dataset, block_size: int = 0) -> dict[str, Any]:
    """整个检查：事实与结论，只含能写进 JSON 的值。几百 MB 的数据集约两三秒，更大的也不会更久。"""
    hint = prepare_hint(dataset.name, dataset.folder)
    shown: dict[str, Any] = {"name": dataset.name, "folder": str(dataset.folder), "block_size": block_size,
                             "vocab_size": dataset.vocab_size, "tokenizer": None, "splits": {}, "top_tokens": [],
                             "samples": [], "leaked_share": None}
    findings, broken = _file_findings(dataset, max(block_size, 1))
    if not broken:
        tokenizer = tokenizer_of(dataset)
        shown["tokenizer"] = tokenizer.kind if tokenizer is not None else None
        shown["vocab_size"] = vocab_size = dataset.vocab_size or GPT2Tokenizer.vocab_size
        findings += _id_findings(dataset, vocab_size)
        stats = {split: split_stats(dataset, split, tokenizer) for split in SPLITS}
        per_token = stats["train"].chars_per_token or 1.0
        share, place = leaked_share(dataset, int(min(max(100 / per_token, 16), 100)))
        shown |= _facts(stats, tokenizer) | {"leaked_share": share}
        findings += _content_findings(dataset, stats, tokenizer, vocab_size, hint)
        findings += _split_findings(dataset, stats, block_size, share, place)
    shown["findings"] = [asdict(finding) for finding in findings]
    return shown


def quick_look(dataset: Dataset) -> list[Finding]:
    """训练之前的几眼，约 20 ms：类型认错、预留而没有写满。大小与 id 由 `check_dataset` 查。"""
    return [finding for split in SPLITS for finding in _type_findings(dataset, split)]


def _file_findings(dataset: Dataset, block_size: int) -> tuple[list[Finding], bool]:
    """（文件大小与类型的结论, 是否坏到不必再往下看）。"""
    findings = []
    for split in SPLITS:
        try:
            check_length(dataset, split, block_size)
        except BadInput as error:
            findings.append(Finding(error.code, ERROR, error.what, error.where, error.hint))
    if any(finding.code != "split_too_short" for finding in findings):
        return findings, True
    types = quick_look(dataset)
    return findings + types, any(finding.level == ERROR for finding in types)


def _type_findings(dataset: Dataset, split: str) -> list[Finding]:
    """写成了别的类型：`.npy` 的文件头，四字节或八字节的整数，大端。"""
    path = dataset.path(split)
    ids = read_tokens(dataset, split, 0, QUICK_TOKENS)
    hint = _("write little-endian uint16 without a header: ids.astype('<u2').tofile(path)")
    if ids[:3].tobytes() == b"\x93NUMPY":
        return [Finding("npy_header", ERROR, _("{file} is a .npy file; its header would be read as tokens").format(
            file=path.name), str(path), hint)]
    pairs = ids[: ids.size // 4 * 4].reshape(-1, 4)
    # 两三个 id 交替的小数据也会隔一个是零：要有足够多不同的 id 才作数
    if len(pairs) >= 100 and np.unique(pairs[:, 0]).size >= 8:
        zero = (pairs == 0).all(axis=0)
        # 小于 65,536 的数写成更宽的整数，高位的那几个 uint16 全是零
        width = 8 if zero[1:].all() and not zero[0] else 4 if zero[1] and zero[3] and not zero[0] else 2
        if width > 2:
            return [Finding("wrong_dtype", ERROR, _("{file} holds integers of {width} bytes, not of two").format(
                file=path.name, width=width), str(path), hint)]
    vocab_size = dataset.vocab_size or GPT2Tokenizer.vocab_size
    # 大端的小数字都变成 256 的倍数；换回来却都在词表里
    if ids.size and (ids >= vocab_size).mean() > 0.5 and (ids.byteswap() < vocab_size).all():
        return [Finding("wrong_byte_order", ERROR, _("{file} is big-endian").format(file=path.name), str(path), hint)]
    return []


def _id_findings(dataset: Dataset, vocab_size: int) -> list[Finding]:
    findings = []
    for split in SPLITS:
        try:
            check_ids(dataset, split, vocab_size)
        except BadInput as error:
            findings.append(Finding(error.code, ERROR, error.what, error.where, error.hint))
    return findings


def _content_findings(dataset: Dataset, stats: dict[str, SplitStats], tokenizer: Tokenizer | None, vocab_size: int,
                      hint: str) -> list[Finding]:
    """每一份里的文字像不像话。"""
    findings = []
    for split in SPLITS:
        one, path = stats[split], str(dataset.path(split))
        top = int(one.counts.argmax())
        if one.tail_repeats >= max(1000, one.tokens // 100):
            last = int(read_tokens(dataset, split, one.tokens - 1, 1)[0])
            findings.append(Finding("repeated_tail", ERROR, _(
                "{split} ends with {count:,} times the token {id}").format(
                    split=split, count=one.tail_repeats, id=last), path,
                _("the file was made too large and not filled; prepare it again")))
        elif one.counts[top] > 0.8 * one.seen and one.seen > 1000:
            findings.append(Finding("one_token", WARNING, _("{share:.0%} of {split} is the token {id}").format(
                share=one.counts[top] / one.seen, split=split, id=top), path, hint))
        findings += _text_findings(split, one, path)
    used = int((stats["train"].counts[:vocab_size] > 0).sum())
    top_id = int(np.flatnonzero(stats["train"].counts)[-1]) if used else 0
    # GPT-2 的词表，却只用了开头的几百个 id：多半是字符的 id，而 meta 丢了
    if tokenizer is not None and tokenizer.kind == "gpt2" and stats["train"].seen > 10_000 and top_id < 1000:
        findings.append(Finding("wrong_tokenizer", ERROR, _(
            "no id above {top} occurs, which GPT-2 BPE never does: these are ids of another tokenizer").format(
                top=top_id), str(dataset.folder), _("put the meta.json or meta.pkl that belongs to the files here")))
    per_token = stats["train"].chars_per_token
    if per_token is not None and per_token < 0.75 and tokenizer is not None and tokenizer.kind in ("gpt2", "bpe"):
        findings.append(Finding("poor_compression", NOTE, _("a token holds {count:.2f} characters on average").format(
            count=per_token), "", _("for this text --tokenizer bpe or char needs fewer tokens")))
    return findings


def _text_findings(split: str, stats: SplitStats, path: str) -> list[Finding]:
    """随机几处的文字里，替换字符、控制字符与读错编码的痕迹。"""
    text = "".join(stats.texts)
    if not text:
        return []
    again = _("prepare it again from the source, with the right --encoding")
    bad = text.count(REPLACEMENT) / len(text)
    if bad > 0.001:
        return [Finding("replacement_characters", ERROR if bad > 0.05 else WARNING, _(
            "{share:.2%} of the characters in {split} are replacement characters (U+FFFD)").format(
                share=bad, split=split), path, again)]
    if sum(map(text.count, _MOJIBAKE)) / len(text) > 0.002:
        return [Finding("mojibake", WARNING, _("{split} looks like UTF-8 that was read in another encoding: {shown}")
                        .format(split=split, shown=_around(text)), path, again)]
    control = sum(text.count(chr(code)) for code in (*range(9), *range(14, 32), 127)) / len(text)
    if control > 0.01:
        return [Finding("binary", WARNING, _("{share:.1%} of the characters in {split} are control characters").format(
            share=control, split=split), path, _("the source was not plain text; prepare it again from text"))]
    return []


def _around(text: str) -> str:
    place = min(found for mark in _MOJIBAKE if (found := text.find(mark)) >= 0)
    return repr(text[max(0, place - 10) : place + 20])


def _split_findings(dataset: Dataset, stats: dict[str, SplitStats], block_size: int, share: float,
                    place: int | None) -> list[Finding]:
    """训练与验证之间：泄漏、比例、像不像同一种东西。"""
    findings = []
    train, val = stats["train"], stats["val"]
    # 源代码里整张的表、许可证常常相同，两三成还不是泄漏
    if share > 0.3:
        findings.append(Finding("leakage", ERROR if share > 0.5 else WARNING, _(
            "{share:.0%} of random passages of val stand word for word in train").format(share=share),
            _("{file}, token {offset}").format(file=dataset.path("val"), offset=place),
            _("split by document and leave out duplicates: python -m nanogpt.prepare … --drop-duplicates")))
    if val.tokens > train.tokens:
        findings.append(Finding("val_larger", WARNING, _(
            "val ({val:,} tokens) is larger than train ({train:,})").format(val=val.tokens, train=train.tokens), "",
            _("were the two files swapped?")))
    if block_size and block_size < val.tokens < 10 * block_size:
        findings.append(Finding("val_short", WARNING, _(
            "val holds only {count:.1f} windows of block_size={block_size}; its loss will be noisy").format(
                count=val.tokens / block_size, block_size=block_size), str(dataset.path("val")),
            _("use more text, or a larger --val-fraction")))
    if train.seen == train.tokens:
        unseen = int(val.counts[train.counts == 0].sum()) / max(1, val.seen)
        if unseen > 0.1:
            findings.append(Finding("unlike_splits", WARNING, _(
                "{share:.1%} of val are tokens that train never holds").format(share=unseen), "",
                _("the two files may come from different texts or tokenizers; prepare both together")))
    return findings


def _facts(stats: dict[str, SplitStats], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """给人看的统计：每份多少、每个 token 几个字符、最常见的 token、随机几处的文字。"""
    train = stats["train"]
    top = np.argsort(train.counts, kind="stable")[::-1][:TOP_TOKENS]
    return {
        "splits": {split: {"tokens": one.tokens, "chars_per_token": one.chars_per_token,
                           "used_tokens": int((one.counts > 0).sum())} for split, one in stats.items()},
        "top_tokens": [{"id": int(i), "text": tokenizer.decode([int(i)]) if tokenizer is not None else None,
                        "share": float(train.counts[i] / max(1, train.seen))} for i in top if train.counts[i]],
        "samples": [text[:200] for text in train.texts[:3]],
    }


def print_findings(shown: dict[str, Any]) -> None:
    """`examine` 的结果，给人看。"""
    say = visible
    print(_("dataset {name}: {folder}").format(name=shown["name"], folder=say(shown["folder"])))
    if shown["splits"]:
        print(_("tokenizer {kind}, vocabulary {size:,}").format(kind=shown["tokenizer"] or _("unknown"),
                                                               size=shown["vocab_size"]))
    for split, one in shown["splits"].items():
        ratio = one["chars_per_token"]
        print(_("{split}: {tokens:,} tokens, {used:,} different, {ratio} characters a token").format(
            split=split, tokens=one["tokens"], used=one["used_tokens"], ratio=f"{ratio:.2f}" if ratio else "?"))
    if shown["leaked_share"] is not None:
        print(_("passages of val that stand in train too: {share:.0%}").format(share=shown["leaked_share"]))
    if shown["top_tokens"]:
        print(_("most frequent: {tokens}").format(tokens=" ".join(
            f"{token['text']!r} {token['share']:.1%}" for token in shown["top_tokens"][:10])))
    for text in shown["samples"][:1]:
        print(_("a random place:"))
        print("    " + say(text, keep="\n").replace("\n", "\n    "))
    for finding in shown["findings"]:
        names = {ERROR: _("error"), WARNING: _("warning"), NOTE: _("note")}
        print(f"{names[finding['level']]}: {say(finding['what'], keep='')}")
        if finding["where"]:
            print(_("  where: {where}").format(where=say(finding["where"], keep="")))
        if finding["hint"]:
            print(_("  fix: {hint}").format(hint=say(finding["hint"], keep="")))
    if not any(finding["level"] != NOTE for finding in shown["findings"]):
        print(_("nothing wrong found"))
