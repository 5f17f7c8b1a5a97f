"""离线的默认数据集：正在运行的解释器自带的标准库源码，字符级，几秒备好，不用网络。

同一个解释器总得到同样的字节；不同版本的标准库不同，结果也不同。
"""

import os
import random
import re
import sys
import sysconfig
from pathlib import Path

if (Path(__file__).resolve().parents[2] / "nanogpt").is_dir():
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nanogpt import prepare_script as prepare
from nanogpt.errors import BadInput
from nanogpt.i18n import _

SCRIPT = Path(__file__)
# 不是标准库的正文：第三方包、测试、自带的小应用、别人代码的副本、旧语法的语料。
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip"}
LEFT_OUT |= {"_vendor", "__pycache__", "idle_test", "lib-dynload"}
# 构建时生成的文件写着本机的路径与编译参数。
GENERATED = "_sysconfigdata"
PRINTABLE = re.compile(rb"[\x20-\x7e\n\t]+")
MAX_BYTES = 8 << 20
VAL_SHARE = 0.1
SEED = 1337


def main(arguments: list[str]) -> int:
    """按文件划分，约九成训练；整个文件只在一边，验证才不是在背书。"""
    description = _("Character-level source code of this Python's standard library; needs no network.")
    parser = prepare.script_parser(SCRIPT, description)
    options = parser.parse_args(arguments)
    root = options.input or Path(sysconfig.get_paths()["stdlib"])
    folder = prepare.output_folder(SCRIPT, options.out)
    train, val = choose(read_sources(root), root)
    print(_("{train} files to train on, {val} to validate on").format(train=len(train), val=len(val)))
    source = f"Python {sys.version.split()[0]} standard library" if options.input is None else root.name
    prepare.report(prepare.write_chars(folder, "\n".join(train), "\n".join(val), source), folder)
    return 0


def read_sources(root: Path) -> dict[str, str]:
    """`root` 之下合用的 `.py`：相对路径到内容，按路径排序；只收可打印 ASCII，词表因此约 97。"""
    if not root.is_dir():
        raise BadInput("bad_text", _("{path} is not a folder").format(path=root), "", _("give one with --input PATH"))
    sources = {}
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in LEFT_OUT]
        for name in files:
            if not name.endswith(".py") or name.startswith(GENERATED):
                continue
            path = Path(folder, name)
            try:
                data = path.read_bytes()
            except OSError as error:
                what = _("{file} cannot be read: {why}").format(file=name, why=error.strerror)
                raise BadInput("bad_text", what, str(path), _("check its permissions")) from error
            if PRINTABLE.fullmatch(data):
                sources[path.relative_to(root).as_posix()] = data.decode("ascii")
    return dict(sorted(sources.items()))


def choose(sources: dict[str, str], root: Path) -> tuple[list[str], list[str]]:
    """洗牌（种子固定）后取到 `MAX_BYTES` 为止，先满一成的归验证；两边内部仍按路径排序。"""
    names = list(sources)
    random.Random(SEED).shuffle(names)
    total, kept = 0, []
    for name in names:
        if total + len(sources[name]) <= MAX_BYTES:
            total += len(sources[name])
            kept.append(name)
    val_bytes, val = 0, set()
    for name in kept:
        if val_bytes < VAL_SHARE * total:
            val_bytes += len(sources[name])
            val.add(name)
    train = [sources[name] for name in sorted(kept) if name not in val]
    if not train or not val:
        what = _("{path} holds fewer than two usable .py files").format(path=root)
        raise BadInput("text_too_short", what, "", _("give a folder of Python sources with --input PATH"))
    return train, [sources[name] for name in sorted(val)]


if __name__ == "__main__":
    prepare.run_script(main)
