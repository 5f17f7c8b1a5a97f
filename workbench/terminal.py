"""终端会什么：颜色、盲文与框线字形、是不是远程、要不要鼠标；以及把文字放进若干格。

应用与 `plot` 都从这里问；命令行的 `--ascii`、`--profile`、`--no-mouse` 就是设好这里读的环境变量。
只用标准库与 `rich` 的宽度表，第一帧之前就要用到。
"""

import os
import sys
import unicodedata
from pathlib import Path

# 一个字上至多留这么多叠加符：再多的会糊住邻行
KEPT_MARKS = 2


def is_ascii_only() -> bool:
    """Linux 的文字控制台没有盲文字形；编码不是 UTF-8 的终端也画不出。`NANOGPT_ASCII` 为 0 或 1 时听它的。"""
    wanted = os.environ.get("NANOGPT_ASCII", "")
    if wanted in ("0", "1"):
        return wanted == "1"
    # Textual 运行时换掉了 `sys.stdout`
    found = getattr(sys.stdout, "encoding", None) or getattr(sys.__stdout__, "encoding", None)
    encoding = (found or "ascii").lower().replace("-", "")
    return not encoding.startswith("utf") or os.environ.get("TERM") == "linux" or _is_c_locale()


def _is_c_locale() -> bool:
    """明说了 `LANG=C` 或 `LC_ALL=C`；Python 自己补上的 `LC_CTYPE=C.UTF-8` 不算数。"""
    names = ("LC_ALL", "LC_CTYPE", "LANG") if os.environ.get("LC_CTYPE", "") not in ("C.UTF-8", "C.utf8", "UTF-8") \
        else ("LC_ALL", "LANG")
    return next((os.environ[name] for name in names if os.environ.get(name)), "") in ("C", "POSIX")


def has_color() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def is_remote() -> bool:
    """经 SSH 连来的：带宽要省着用。`NANOGPT_PROFILE` 为 `remote` 或 `local` 时听它的。"""
    wanted = os.environ.get("NANOGPT_PROFILE", "")
    if wanted in ("remote", "local"):
        return wanted == "remote"
    return any(os.environ.get(name) for name in ("SSH_CONNECTION", "SSH_TTY", "SSH_CLIENT"))


def wants_mouse() -> bool:
    """远程时鼠标的每一动都要过网，所以先关着；`NANOGPT_MOUSE` 为 0 或 1 时听它的。"""
    wanted = os.environ.get("NANOGPT_MOUSE", "")
    return wanted == "1" if wanted in ("0", "1") else not is_remote()


def short_path(path: Path) -> str:
    """绝对的路径；在家目录里的写成 `~/…`。"""
    found, home = path.resolve(), Path(os.path.expanduser("~")).resolve()
    return str(Path("~", found.relative_to(home))) if found != home and found.is_relative_to(home) else str(found)


def char_cells(char: str) -> int:
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cells(text: str) -> int:
    """占几格，与 `fit` 的算法一致。"""
    return len(text) if text.isascii() else sum(
        0 if unicodedata.category(char) in ("Mn", "Me", "Cf") else char_cells(char) for char in text)


def fit(text: str, width: int) -> str:
    """截到 `width` 格：宽字符算两格，叠加符不占格，但一个字上至多两个。"""
    if text.isascii():
        return text[:width]
    out, used, marks = [], 0, 0
    for char in text:
        if unicodedata.category(char) in ("Mn", "Me", "Cf"):
            marks += 1
            if marks <= KEPT_MARKS:
                out.append(char)
            continue
        width_of_char = char_cells(char)
        if used + width_of_char > width:
            break
        out.append(char)
        used, marks = used + width_of_char, 0
    return "".join(out)


def pad(text: str, width: int, *, right: bool = False) -> str:
    """正好占 `width` 格：长了截断，短了补空格；`right` 时靠右。"""
    text = fit(text, width)
    blank = " " * (width - cells(text))
    return blank + text if right else text + blank


def wrap(text: str, width: int) -> list[str]:
    """按格折行，尽量在空格处断；外来的长词硬断。"""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        start = 0
        while (end := _reach(paragraph, start, width)) < len(paragraph):
            cut = paragraph.rfind(" ", start, end)
            # 一个字也放不下时也要往前走
            end = cut if cut > start + (end - start) // 2 else max(end, start + 1)
            lines.append(paragraph[start:end].rstrip())
            start = end
            while start < len(paragraph) and paragraph[start] == " ":
                start += 1
        lines.append(paragraph[start:])
    return lines


def _reach(text: str, start: int, width: int) -> int:
    """从 `start` 起 `width` 格里放得下的最后一个字之后的位置；叠加符跟着它的字。"""
    if text.isascii():
        return min(len(text), start + width)
    used = 0
    for index in range(start, len(text)):
        if unicodedata.category(text[index]) not in ("Mn", "Me", "Cf"):
            used += char_cells(text[index])
            if used > width:
                return index
    return len(text)
