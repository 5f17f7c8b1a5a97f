"""路径的补全：正在打的最后一个词，目录里以它开头的各项。`PathInput` 使用。

名字来自外面，只在显示时净化；写回框里的是真的名字，空格与引号前加反斜杠。
"""

import os
import re
import shlex

# 目录再大也只看这么多项
MOST_ENTRIES = 5000


def last_word(text: str) -> tuple[int, str]:
    """光标前最后一个词的（开头的位置, 去掉引号与反斜杠之后的样子）。"""
    start, quote, is_escaped = 0, "", False
    for place, char in enumerate(text):
        if is_escaped:
            is_escaped = False
        elif char == "\\" and quote != "'":
            is_escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in " \t\r\n":
            start = place + 1
    word = text[start:]
    try:
        # 没有闭合的引号在补全时不算错
        parts = shlex.split((word[:-1] if is_escaped else word) + quote)
    except ValueError:
        parts = [word]
    return start, parts[0] if parts else ""


def escaped(path: str) -> str:
    """写回框里的样子：shell 会另作解释的字符前加反斜杠。"""
    home = "~" if path.startswith("~") else ""
    return home + re.sub(r"([\s\\'\"|&;<>()$`!#{}])", r"\\\1", path[len(home):])


def candidates(word: str) -> list[str]:
    """以 `word` 开头的路径，目录以 `/` 结尾；隐藏的要打了点才列。读不了的目录没有。"""
    folder, _slash, prefix = word.rpartition("/")
    shown = folder + "/" if _slash else ""
    try:
        with os.scandir(os.path.expanduser(shown) or ".") as entries:
            found = []
            for number, entry in enumerate(entries):
                if number >= MOST_ENTRIES:
                    break
                if entry.name.startswith(prefix) and (prefix.startswith(".") or not entry.name.startswith(".")):
                    found.append((not _is_dir(entry), entry.name))
    except (OSError, ValueError):
        return []
    return [f"{shown}{name}{'' if is_file else '/'}" for is_file, name in sorted(found)]


def common(paths: list[str]) -> str:
    """逐字的公共开头。"""
    first, last = min(paths, default=""), max(paths, default="")
    size = next((place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other),
                min(len(first), len(last)))
    return first[:size]


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
