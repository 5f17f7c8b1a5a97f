"""自己的文本在哪里、是什么：把路径、文件夹、通配与 `hf:名字` 展开成一张文件表，认出格式与编码。

`nanogpt.prepare_build` 使用；这里只读每个文件的开头，坏输入因此在开工之前就有答复。
"""

import codecs
import glob
import gzip
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.text import visible

FORMATS = ("text", "jsonl", "csv", "parquet", "arrow")
SUFFIXES = {".txt": "text", ".text": "text", ".md": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
            ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".arrow": "arrow"}
SAMPLE_BYTES = 1 << 18
_BOMS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8"),
         (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# 常被当作文本交来的文件，各以什么开头
_MAGIC = ((b"%PDF", "PDF"), (b"PK\x03\x04", "zip, docx, epub"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\x1f\x8b", "gzip"),
          (b"PAR1", "Parquet"), (b"\x89PNG", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"\x7fELF", "ELF"),
          (b"SQLite format 3", "SQLite"), (b"\xd0\xcf\x11\xe0", "doc, xls"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"))


@dataclass(frozen=True)
class SourceFile:
    """一个输入文件。`bom_bytes` 是正文之前要跳过的字节；`is_detected`：编码是猜的，不是默认的 UTF-8。"""

    path: str
    format: str
    encoding: str
    bytes: int
    mtime_ns: int
    bom_bytes: int = 0
    is_gzip: bool = False
    is_detected: bool = False

    @property
    def name(self) -> str:
        return visible(Path(self.path).name, keep="")


def find_sources(inputs: list[str], fmt: str | None = None, encoding: str | None = None) -> list[SourceFile]:
    """`inputs` 的全部文件，次序固定（文件夹与通配之内按路径）；空文件略去。找不到、读不了时抛出 `BadInput`。"""
    if encoding is not None:
        encoding = _known_encoding(encoding)
    paths = list(dict.fromkeys(path for given in inputs for path in _expand(given, fmt)))
    found = [_open_source(Path(path), fmt, encoding) for path in paths]
    sources = [source for source in found if source.bytes > source.bom_bytes]
    if not sources:
        what = _("{path} is empty").format(path=inputs[0]) if len(paths) == 1 else _("all of the files are empty")
        raise BadInput("empty_text", what, "", _("give files that hold some text"))
    return sources


def _known_encoding(name: str) -> str:
    try:
        codec = codecs.lookup(name)
        # `rot13`、`hex` 一类也查得到，却不是文字的编码
        if not getattr(codec, "_is_text_encoding", True):
            raise LookupError
        return codec.name
    except (LookupError, ValueError) as error:
        raise BadInput("bad_encoding", _("there is no encoding {name}").format(name=repr(name[:40])), "--encoding",
                       _("for example utf-8, utf-16, gb18030, big5, shift_jis, cp1252")) from error


def _expand(given: str, fmt: str | None) -> list[str]:
    """一个 `--input`：文件、文件夹，或通配。"""
    if "\0" in given:
        raise BadInput("bad_text", _("{path} does not exist").format(path=repr(given[:80])), "", input_hint())
    path = Path(given)
    if path.is_dir():
        return _folder_files(path, fmt)
    if path.exists():
        if not path.is_file():
            raise BadInput("bad_text", _("{path} is not a regular file").format(path=given), "", input_hint())
        return [str(path.resolve())]
    if glob.has_magic(given):
        matches = [name for name in sorted(glob.glob(given, recursive=True)) if Path(name).is_file()]
        if matches:
            return [str(Path(name).resolve()) for name in matches]
        raise BadInput("bad_text", _("no file matches {pattern}").format(pattern=given), "", input_hint())
    raise BadInput("bad_text", _("{path} does not exist").format(path=given), "", input_hint())


def input_hint() -> str:
    return _("--input takes text, JSON lines, CSV or Parquet, folders, globs, or hf:NAME for a Hugging Face dataset")


def _folder_files(folder: Path, fmt: str | None) -> list[str]:
    """文件夹里的数据文件，按路径；隐藏的不算。`datasets` 存下的文件夹只取它说的那些。"""
    if (folder / "dataset_dict.json").is_file():
        return _folder_files(folder / "train", "arrow")
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return _saved_dataset(folder)
    by_format: dict[str, list[str]] = {}
    others = []
    for root, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            if name.startswith(".") or not os.path.isfile(os.path.join(root, name)):
                continue
            path = str(Path(root, name).resolve())
            known = SUFFIXES.get(suffix_of(Path(name)))
            by_format.setdefault(known, []).append(path) if known else others.append(path)
    if fmt is not None:
        # 明说了格式而没有那种后缀的，就信他：全部都是
        return by_format.get(fmt) or [*others, *(path for paths in by_format.values() for path in paths)]
    if len(by_format) > 1:
        counts = ", ".join(f"{name} {len(paths)}" for name, paths in sorted(by_format.items()))
        raise BadInput("bad_text", _("{path} mixes kinds of files: {counts}").format(path=folder, counts=counts), "",
                       _("choose one with --format, or give a glob such as '{path}/*.txt'").format(path=folder))
    if not by_format:
        raise BadInput("bad_text", _("{path} holds no file of a known kind").format(path=folder), "",
                       _("known are {suffixes}; --format text takes every file").format(suffixes=", ".join(SUFFIXES)))
    return next(iter(by_format.values()))


def _saved_dataset(folder: Path) -> list[str]:
    """`Dataset.save_to_disk` 的文件夹：`state.json` 说有哪些文件、什么次序。"""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        names = [entry["filename"] for entry in state["_data_files"]]
        if state.get("_indices_files"):
            raise BadInput("bad_text", _("{path} was saved with an index (shuffled or filtered)").format(path=folder),
                           "", _("save it after flatten_indices(), or export it to Parquet"))
        return [str((folder / Path(name).name).resolve(strict=True)) for name in names]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput("bad_text", _("{path} is not a whole saved dataset").format(path=folder), str(error)[:200],
                       _("save it again with save_to_disk()")) from error


def suffix_of(path: Path) -> str:
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def _open_source(path: Path, fmt: str | None, encoding: str | None) -> SourceFile:
    """看文件的开头，定下格式与编码。没有认得的后缀又没有明说的，当作文本。"""
    fmt = fmt or SUFFIXES.get(suffix_of(path), "text")
    try:
        status = path.stat()
        with open(path, "rb") as file:
            head = file.read(SAMPLE_BYTES)
        is_gzip = head[:2] == b"\x1f\x8b" and fmt in ("text", "jsonl", "csv")
        if is_gzip:
            with gzip.open(path, "rb") as unpacked:
                head = unpacked.read(SAMPLE_BYTES)
    except (OSError, EOFError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadInput("bad_text", _("{file} cannot be read: {why}").format(file=path.name, why=why), str(path),
                       _("check its permissions")) from error
    source = SourceFile(str(path), fmt, "utf-8", status.st_size, status.st_mtime_ns, is_gzip=is_gzip)
    if fmt in ("parquet", "arrow") or not head:
        return source
    bom = next(((mark, name) for mark, name in _BOMS if head.startswith(mark)), (b"", ""))
    # 明说的编码优先；UTF-8 的 BOM 不是正文，UTF-16 的由解码器自己认
    if encoding is not None:
        found, is_detected = encoding, False
    else:
        found, is_detected = (bom[1], bom[1] != "utf-8") if bom[1] else _detect(head, path)
    skip = len(bom[0]) if bom[1] == "utf-8" and found == "utf-8" else 0
    return SourceFile(str(path), fmt, found, status.st_size, status.st_mtime_ns, skip, is_gzip, is_detected)


def _detect(head: bytes, path: Path) -> tuple[str, bool]:
    """没有 BOM 的 `head` 的编码与「是不是猜的」；是二进制、或几种编码都说得通时抛出 `BadInput`。"""
    kind = next((kind for mark, kind in _MAGIC if head.startswith(mark)), "")
    if kind:
        raise BadInput("binary_file", _("{file} is not text: it looks like {kind}").format(file=path.name, kind=kind),
                       str(path), _("save or export it as plain text first"))
    is_utf8 = _is_utf8(head)
    if is_utf8 and b"\0" not in head:
        return "utf-8", False
    best, others = _guess(head)
    if best is None or (is_utf8 and not best.encoding.startswith(("utf_16", "utf_32"))):
        raise BadInput("binary_file", _("{file} does not look like text in any known encoding").format(file=path.name),
                       str(path), _("export it as UTF-8 text, or name its encoding with --encoding"))
    if others:
        names = ", ".join([best.encoding, *others][:6])
        raise BadInput("unsure_encoding", _("{file} is not UTF-8, and its encoding is not certain").format(
            file=path.name), str(path), _("name it with --encoding; it may be one of {names}").format(names=names))
    return codecs.lookup(best.encoding).name, True


def _is_utf8(head: bytes) -> bool:
    """`head` 是不是 UTF-8；末尾被切断的字符不算错。"""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < SAMPLE_BYTES)
    except UnicodeDecodeError:
        return False
    return True


def _guess(head: bytes) -> tuple[Any, list[str]]:
    """`charset_normalizer` 的最佳猜测，与同样说得通、但读出来不一样的别的编码。"""
    import charset_normalizer

    if len(head) == SAMPLE_BYTES:
        # 切在字符中间会让每种编码都说不通：退到最后一个换行。有零字节的多半是 UTF-16 或 UTF-32，长度已是四的倍数
        cut = 0 if b"\0" in head else head.rfind(b"\n") + 1
        head = head[:cut] if cut > SAMPLE_BYTES // 2 else head
    matches = charset_normalizer.from_bytes(head)
    best = matches.best()
    if best is None:
        return None, []
    # 单字节的编码几乎什么都读得出来，差别只在重音字母，猜错了要到训练之后才看得见
    rivals = [match.encoding for match in matches if str(match) != str(best)]
    is_multibyte = best.encoding.startswith(("utf", "gb", "big5", "cp932", "shift", "euc", "cp949", "iso2022"))
    return best, [] if is_multibyte else rivals
