"""预览的样子：认出了什么、大约有多少，文本的开头，它的 token 一个个隔开。`OwnTextScreen` 使用。

`shown` 是 `nanogpt.prepare --preview --json` 的那个对象；里面的文字来自外面，在这里净化。
"""

from typing import Any

from textual.strip import Strip

from nanogpt.i18n import _
from nanogpt.text import visible
from workbench.terminal import cells, fit, has_color, is_ascii_only, pad, wrap
from workbench.widgets.lines import Piece, line_of

# 相邻的两个 token 底色不同，空格也看得见；没有颜色时用竖线隔开
SHADES = ("black on color(151)", "black on color(223)")
LEAST_TEXT_ROWS = 4


def preview_lines(shown: dict[str, Any], width: int, height: int) -> list[Strip]:
    """事实总在最前；`height` 行里放不下的文本少写几行，好让 token 露出来。"""
    facts = fact_lines(shown, width)
    tokens = token_lines(shown["tokens"], width)
    room = height - len(facts) - len(tokens) - 2
    text = text_lines(shown["text"], width)
    file = visible(shown["first_file"], keep="")
    head = _("Beginning of {file}").format(file=file)
    about = _("Its tokens")
    return [*facts, line_of((head, "bold"), width=width), *text[:max(LEAST_TEXT_ROWS, room)],
            line_of((about, "bold"), width=width), *tokens]


def fact_lines(shown: dict[str, Any], width: int) -> list[Strip]:
    """标签与值，一样一行；标签一样宽。"""
    about = _("about ") if shown["is_estimate"] else ""
    encodings = ", ".join(shown["encodings"]) + (_(" (detected)") if shown["is_encoding_detected"] else "")
    train = shown["estimated_tokens"] - shown["estimated_val_tokens"]
    splits = _("split by position") if shown["split"] == "position" else _("split by document")
    documents = shown["estimated_documents"]
    rows = [
        (_("files"), f"{shown['files']:,}" + _(", ") + _(", ").join(
            [size_text(shown["bytes"]), "+".join(shown["formats"]), encodings])),
        (_("documents"), ("" if documents == 1 else about) + f"{documents:,}" + _(", ") + splits),
        (_("tokens"), f"{about}{shown['estimated_tokens']:,}" + _(", ") + _("{n} characters each").format(
            n=f"{shown['chars_per_token']:.2f}")),
        # 按字符划分，token 数只能估计
        (_("splits"), _("train ~{train}, validation ~{val}").format(
            train=f"{train:,}", val=f"{shown['estimated_val_tokens']:,}")),
        (_("vocabulary"), f"{shown['vocab_size']:,}" + _(", ") + _("needs {size} of disk").format(
            size=size_text(shown["disk_bytes"]))),
    ]
    left = max(cells(label) for label, _value in rows) + 1
    lines = []
    for label, value in rows:
        parts = wrap(visible(value, keep=""), max(8, width - left))
        lines += [line_of((pad(label if number == 0 else "", left), "dim"), part, width=width)
                  for number, part in enumerate(parts[:2])]
    return lines


def size_text(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def text_lines(text: str, width: int) -> list[Strip]:
    rows = [part for line in visible(text).expandtabs(4).split("\n") for part in wrap(line, width)]
    return [line_of(row, width=width) for row in rows]


def token_lines(tokens: list[dict[str, Any]], width: int) -> list[Strip]:
    """一个 token 一块，折行也看得出接着；换行的 token 写成记号，并不换行。"""
    sign = "\\n" if is_ascii_only() else "↵"
    lines: list[list[Piece]] = [[]]
    used = 0
    with_color = has_color()
    for number, token in enumerate(tokens):
        text = str(token["text"]).replace("\\x0a", sign).replace("\n", sign).replace("\t", " ")
        rest = visible(text, keep="") + ("" if with_color else "|")
        while rest:
            part = fit(rest, width - used)
            if not part or (len(part) < len(rest) and used and cells(rest) <= width):
                lines.append([])
                used = 0
                continue
            lines[-1].append((part, SHADES[number % 2] if with_color else ""))
            used += cells(part)
            rest = rest[len(part):] if len(part) <= len(rest) else ""
            if used >= width:
                lines.append([])
                used = 0
    return [line_of(*pieces, width=width) for pieces in lines if pieces]
