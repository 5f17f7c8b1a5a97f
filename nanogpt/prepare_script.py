"""`data/*/prepare.py` 的公共部分：参数、取得原文、读文本、写字符数据集。

写出的目录由 `nanogpt.dataset` 读取；自己的文本走 `nanogpt.prepare_build`。
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nanogpt.dataset import write_dataset
from nanogpt.dataset_write import make_folder
from nanogpt.download import Download, fetch
from nanogpt.errors import BadInput, OutOfResources, run_main
from nanogpt.i18n import _
from nanogpt.prepare_report import progress
from nanogpt.shipped import is_installed_copy
from nanogpt.text import visible
from nanogpt.tokenizer import MAX_VOCAB_SIZE, CharTokenizer

__all__ = ["progress"]

# 一次编码这么多字符：临时数组约 12 MB。
CHUNK_CHARS = 1 << 20


TINY_SHAKESPEARE = Download(
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    1_115_394,
)


class ArgumentParser(argparse.ArgumentParser):
    """出错时抛出 `BadInput`，而不是打印整段用法。"""

    def error(self, message: str) -> NoReturn:
        raise BadInput("bad_argument", message, "", _("see {command} --help").format(command=self.prog))


def script_parser(script: Path, description: str, download: Download | None = None) -> ArgumentParser:
    """脚本共有的参数：`--input`、`--out`、（有下载的）`--url`、`--debug`。"""
    command = f"python {_shown(script)}"
    parser = ArgumentParser(prog=command, description=description, allow_abbrev=False)
    parser.add_argument("--input", type=Path, metavar="PATH", help=_("read this instead of the usual source"))
    parser.add_argument("--out", type=Path, metavar="DIR", help=_("write here (default: the folder of the script)"))
    if download:
        parser.add_argument("--url", default=download.url, help=_("download from here (default: %(default)s)"))
    parser.add_argument("--debug", action="store_true", help=_("show the traceback of an error"))
    return parser


def run_script(main: Any) -> NoReturn:
    """脚本的出口：运行 `main(argv)` 并以约定的退出码结束。"""
    arguments = sys.argv[1:]
    sys.exit(run_main(lambda: main(arguments), debug="--debug" in arguments))


def output_folder(script: Path, out: Path | None) -> Path:
    """写到哪里：`--out`，否则脚本旁边；脚本在安装好的包里时是当前目录的 `data/<name>/`。已建好。"""
    folder = script.resolve().parent
    if out is None and is_installed_copy(folder):
        out = Path.cwd() / "data" / folder.name
    folder = folder if out is None else out
    make_folder(folder)
    return folder


def text_source(options: argparse.Namespace, script: Path, folder: Path, download: Download) -> Path:
    """要读的文本：`--input`，否则输出目录或脚本旁边已有的 `input.txt`，再不然就下载一份。"""
    given: Path | None = options.input
    if given is not None:
        return given
    # 与 nanoGPT 相同：旁边已有的 `input.txt` 可能是用户自己的文本，不查校验和。
    for path in (folder / "input.txt", script.resolve().parent / "input.txt"):
        if path.exists():
            return path
    offline = _("get that file in another way, then run: python {script} --input FILE").format(script=_shown(script))
    fetch(Download(options.url, download.sha256, download.bytes), folder / "input.txt", offline)
    return folder / "input.txt"


def read_text(path: Path) -> str:
    """整个文本，UTF-8，换行与 Python 文本模式一样统一为 `\\n`；BOM 原样保留，与 nanoGPT 逐字节相同。"""
    if not path.is_file():
        what = _("{path} is not a text file") if path.exists() else _("{path} does not exist")
        raise BadInput("bad_text", what.format(path=path), "", _("give a UTF-8 text file with --input PATH"))
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(
            "bad_encoding",
            _("{file} is not UTF-8: byte 0x{byte:02x}").format(file=path.name, byte=error.object[error.start]),
            _("{file}, byte {offset}").format(file=path, offset=error.start),
            _("convert it first, for example: iconv -f GB18030 -t UTF-8"),
        ) from error
    except OSError as error:
        what = _("{file} cannot be read: {why}").format(file=path.name, why=error.strerror)
        raise BadInput("bad_text", what, str(path), _("check its permissions")) from error
    except MemoryError as error:
        what = _("{file} does not fit into memory").format(file=path.name)
        raise OutOfResources("out_of_memory", what, str(path), _("use a smaller file")) from error
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def split_text(text: str, path: Path) -> tuple[str, str]:
    """前 90% 的字符训练，其余验证；两份都不能空。"""
    # 写法也与 nanoGPT 相同：浮点乘法的舍入决定了切在哪个字符。
    cut = int(len(text) * 0.9)
    if not 0 < cut < len(text):
        what = _("{file} holds {count} characters; training and validation need some each")
        raise BadInput("text_too_short", what.format(file=path.name, count=len(text)), str(path), _("use more text"))
    return text[:cut], text[cut:]


def write_chars(folder: Path, train: str, val: str, source: str) -> dict[str, Any]:
    """写出字符级数据集：词表是两份里出现的全部字符，按码点排序。"""
    chars = sorted(set(train) | set(val))
    if len(chars) > MAX_VOCAB_SIZE:
        raise BadInput(
            "too_many_characters",
            _("{count} different characters; a token id of two bytes holds {most}").format(
                count=len(chars), most=MAX_VOCAB_SIZE
            ),
            source,
            _("use --tokenizer bpe, byte or gpt2, which can write every character: python -m nanogpt.prepare --help"),
        )
    splits = {"train": char_ids(train, chars), "val": char_ids(val, chars)}
    return write_dataset(folder, CharTokenizer(chars), splits, expected_tokens=len(train) + len(val), source=source)


def char_ids(text: str, chars: list[str]) -> Iterator[np.ndarray]:
    """`text` 在有序词表 `chars` 里的位置，一块一块地给。字符都在词表里。"""
    # 小端 UTF-32 的四个字节就是码点，二分查找代替逐字查字典，每秒数千万字符。
    points = np.array([ord(char) for char in chars], dtype="<u4")
    for start in range(0, len(text), CHUNK_CHARS):
        chunk = text[start : start + CHUNK_CHARS].encode("utf-32-le")
        yield np.searchsorted(points, np.frombuffer(chunk, dtype="<u4"))


def report(meta: dict[str, Any], folder: Path) -> None:
    """说出写了什么。"""
    print(_("vocab size: {count:,}").format(count=meta["vocab_size"]))
    for split in ("train", "val"):
        print(_("{split} has {count:,} tokens").format(split=split, count=meta[f"{split}_tokens"]))
    print(_("written to {folder}").format(folder=visible(str(folder), keep="")))


def _shown(script: Path) -> str:
    """脚本的路径，能相对当前目录时就写短的。"""
    relative = os.path.relpath(script)
    return visible(str(script) if relative.startswith("..") else relative, keep="")

