"""准备数据集的公共部分：参数、下载、读文本、写字符数据集；`python -m nanogpt.prepare NAME` 运行某个脚本。

`data/*/prepare.py` 使用它，写出的目录由 `nanogpt.dataset` 读取。
"""

import argparse
import difflib
import hashlib
import http.client
import os
import runpy
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from nanogpt.dataset import check_dataset_name, known_names, write_dataset
from nanogpt.dataset_write import check_free_space, make_folder, replace_together
from nanogpt.errors import BadInput, OutOfResources, UserError, run_main
from nanogpt.i18n import _
from nanogpt.shipped import is_installed_copy, shipped_dir
from nanogpt.text import visible
from nanogpt.tokenizer import MAX_VOCAB_SIZE, CharTokenizer

TIMEOUT_S = 30.0
# 每次重试之前等多久（秒）；有几项就重试几次。
RETRY_DELAYS_S = (1.0, 3.0)
# 一次编码这么多字符：临时数组约 12 MB。
CHUNK_CHARS = 1 << 20


@dataclass(frozen=True)
class Download:
    """一个可下载的文件。内容固定，所以换镜像（`--url`）也要合这个校验和。"""

    url: str
    sha256: str
    bytes: int


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


def fetch(download: Download, target: Path, offline: str) -> None:
    """下载到 `target`：校验和相符才改名过去，否则什么也不留。

    连不上、超时、断在半路会重试；校验和不符不重试。失败时抛出 `UserError`，`offline` 是不靠网络的办法。
    """
    if not download.url.startswith(("http://", "https://")):
        raise BadInput("bad_url", _("{url} is not an http or https address").format(url=repr(download.url)))
    check_free_space(target.parent, download.bytes)
    print(_("downloading {url}").format(url=visible(download.url)))
    why = ""
    for delay in (*RETRY_DELAYS_S, None):
        try:
            with replace_together(target.parent) as open_new:
                found = _stream(download, open_new(target.name))
                if found != download.sha256:
                    raise _altered(download, found, offline)
            return
        except _InterruptedError as error:
            why = str(error)
        # 4xx 是地址或权限不对，等多久都一样。
        if not why.startswith("HTTP 4") and delay is not None:
            print(_("{why}; trying again in {seconds:g} s").format(why=visible(why), seconds=delay), file=sys.stderr)
            time.sleep(delay)
        else:
            break
    raise UserError(
        "download_failed",
        _("cannot download {url}: {why}").format(url=download.url, why=why),
        _("wanted: {bytes} bytes, sha256 {sha256}").format(bytes=download.bytes, sha256=download.sha256),
        offline,
    )


class _InterruptedError(Exception):
    """这一次没有下完，值得再试。"""


def _stream(download: Download, file: BinaryIO) -> str:
    """把内容写进 `file`，返回 sha256。多于应有的长度就停，免得被无尽的回答写满磁盘。"""
    digest, done = hashlib.sha256(), 0
    try:
        request = urllib.request.Request(download.url, headers={"User-Agent": "nanogpt-workbench"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            while chunk := _read_chunk(answer):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress(_("downloading"), done, download.bytes)
                if done > download.bytes:
                    break
    except urllib.error.HTTPError as error:
        raise _InterruptedError(f"HTTP {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, ValueError) as error:
        raise _InterruptedError(str(getattr(error, "reason", "") or error)) from error
    if done < download.bytes:
        raise _InterruptedError(_("cut off after {done} of {bytes} bytes").format(done=done, bytes=download.bytes))
    return digest.hexdigest()


def _read_chunk(answer: Any) -> bytes:
    """网络一侧的系统错误与磁盘一侧的分开：前者值得重试。"""
    try:
        chunk: bytes = answer.read(1 << 16)
        return chunk
    except OSError as error:
        raise _InterruptedError(str(error)) from error


# 内容不对多半是登录页或被替换的文件，再下一次也一样，所以不重试。
def _altered(download: Download, found: str, offline: str) -> UserError:
    return UserError(
        "download_altered",
        _("the download does not match its checksum and was discarded"),
        _("{url}: expected sha256 {expected}, got {found}").format(
            url=download.url, expected=download.sha256, found=found
        ),
        offline,
    )


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
            _("use GPT-2 BPE instead: python -m nanogpt.prepare shakespeare --input FILE --out DIR"),
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


def progress(label: str, done: int, total: int) -> None:
    """终端上的一行进度；不是终端时不出声。"""
    if sys.stderr.isatty():
        end = "\n" if done >= total else ""
        print(f"\r{label}: {min(100, 100 * done // max(1, total))}%", end=end, file=sys.stderr, flush=True)


def find_script(name: str) -> Path:
    """`name` 的 `prepare.py`：当前目录的 `data/` 在前，随包的在后。"""
    check_dataset_name(name)
    for root in (Path.cwd() / "data", shipped_dir("data")):
        if (root / name / "prepare.py").is_file():
            return root / name / "prepare.py"
    known = known_names()
    close = difflib.get_close_matches(name, known, n=1)
    guess = _("did you mean {name}? ").format(name=close[0]) if close else ""
    what = _("there is no dataset {name}").format(name=name)
    raise BadInput("unknown_dataset", what, "", guess + _("known datasets: {known}").format(known=", ".join(known)))


def main(arguments: list[str]) -> int:
    """`NAME [选项]`：选项原样交给那个脚本。"""
    parser = ArgumentParser(
        prog="python -m nanogpt.prepare",
        description=_("Prepare a dataset. The options after NAME are those of its script: NAME --help lists them."),
        epilog=_("known datasets: {known}").format(known=", ".join(known_names())),
    )
    parser.add_argument("name", metavar="NAME")
    own = parser.parse_args(arguments[:1] or ["--help"])
    script, options = find_script(own.name), arguments[1:]
    has_out = any(option == "--out" or option.startswith("--out=") for option in options)
    if not has_out and not script.resolve().is_relative_to(Path.cwd()):
        # 随包携带的脚本：数据属于当前的工作区，不往别处的仓库里写
        options += ["--out", str(Path("data", script.parent.name))]
    # 脚本像被直接运行那样执行：它自己解析参数，自己以退出码结束（`SystemExit` 从这里穿过去）。
    sys.argv = [str(script), *options]
    runpy.run_path(str(script), run_name="__main__")
    return 0


def _shown(script: Path) -> str:
    """脚本的路径，能相对当前目录时就写短的。"""
    relative = os.path.relpath(script)
    return visible(str(script) if relative.startswith("..") else relative, keep="")


if __name__ == "__main__":
    run_script(main)
