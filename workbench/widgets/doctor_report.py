"""检查的结果写成行：先说毛病与怎样修，再是事实、最常见的 token、随机几处的文字。`DoctorScreen` 使用。

`found` 是 `nanogpt.prepare --check --json` 的那个对象；里面的文字来自外面，在这里净化。
"""

from typing import Any

from textual.strip import Strip

from nanogpt.i18n import N_, _
from nanogpt.text import visible
from workbench.terminal import cells, is_ascii_only, pad, wrap
from workbench.widgets.lines import line_of

# 程度 → （写法, 样式）
LEVELS = {"error": (N_("error: {what}"), "bold red"), "warning": (N_("warning: {message}"), "bold yellow"),
          "note": (N_("for your information: {text}"), "bold")}
BAR_CELLS = 30


def report_lines(found: dict[str, Any], width: int, workspace: str) -> list[Strip]:
    """`workspace` 里的路径写成相对的。"""
    def clean(text: object, keep: str = "") -> str:
        return visible(str(text).replace(workspace.rstrip("/") + "/", ""), keep=keep)

    lines = []
    for finding in found["findings"]:
        form, style = LEVELS[finding["level"]]
        what = clean(finding["what"])
        lines += [line_of((part, style)) for part in wrap(_(form).format(what=what, message=what, text=what), width)]
        for text, key in ((_("  where: {where}"), "where"), (_("  fix: {hint}"), "hint")):
            if finding[key]:
                lines += [line_of(part) for part in wrap(text.format(**{key: clean(finding[key])}), width)]
    if not any(finding["level"] in ("error", "warning") for finding in found["findings"]):
        lines.append(line_of((_("nothing wrong found"), "bold green")))
    lines += [line_of(""), *_fact_lines(found, width, clean(found["folder"]))]
    if found["top_tokens"]:
        lines += [line_of(""), line_of((_("Most frequent tokens"), "bold")), *_bars(found["top_tokens"], width)]
    for text in found["samples"]:
        lines += [line_of(""), line_of((_("A random place"), "bold"))]
        lines += [line_of(part) for row in visible(text).expandtabs(4).split("\n") for part in wrap(row, width)]
    return lines


def _fact_lines(found: dict[str, Any], width: int, folder: str) -> list[Strip]:
    size = found["vocab_size"]
    rows = [(_("folder"), folder),
            (_("tokenizer"), (found["tokenizer"] or _("unknown")) + _(", ") + _("vocabulary {n}").format(
                n=f"{size:,}" if size else "?"))]
    for split, one in found["splits"].items():
        ratio = one["chars_per_token"]
        rows.append((split, _("{tokens} tokens, {used} different, {ratio} characters each").format(
            tokens=f"{one['tokens']:,}", used=f"{one['used_tokens']:,}", ratio=f"{ratio:.2f}" if ratio else "?")))
    if found["leaked_share"] is not None:
        rows.append((_("leakage"), _("{share} of random passages of val stand in train too").format(
            share=f"{found['leaked_share']:.0%}")))
    if found["block_size"]:
        rows.append(("block_size", f"{found['block_size']:,}"))
    left = max(cells(label) for label, _value in rows) + 2
    return [line_of((pad(label if number == 0 else "", left), "dim"), part, width=width)
            for label, value in rows for number, part in enumerate(wrap(value, max(8, width - left)))]


def _bars(tokens: list[dict[str, Any]], width: int) -> list[Strip]:
    """每个 token 一行：样子、占多少、同样比例的横条。"""
    names = [visible(repr(token["text"]) if token["text"] is not None else str(token["id"]), keep="")[:24]
             for token in tokens]
    left = max(map(cells, names))
    most = max(token["share"] for token in tokens) or 1.0
    room = max(1, min(BAR_CELLS, width - left - 10))
    block = "#" if is_ascii_only() else "█"
    return [line_of(pad(name, left), f" {token['share']:>6.1%} ", (block * max(1, round(
        room * token["share"] / most)), "color(39)"), width=width) for name, token in zip(names, tokens, strict=True)]
