"""`make locale`：从源代码提取 msgid，更新 `nanogpt.po`，编译 `nanogpt.mo`，列出还没有译的。

`tests/test_locale.py` 用同一套提取与编译检查提交了的目录。
"""

import ast
import io
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_file
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parents[1]
PO = ROOT / "nanogpt" / "locale" / "zh_CN" / "LC_MESSAGES" / "nanogpt.po"
MO = PO.with_suffix(".mo")
SOURCES = ("nanogpt/**/*.py", "workbench/**/*.py", "data/*/prepare.py")
KEYWORDS = {"_": None, "N_": None}
Found = tuple[int, str, str, list[str]]
HEADER = """\
# nanogpt-workbench 的中文译文。由 `make locale` 更新：只改 msgstr，不改 msgid。"""


def from_python(fileobj: Any, keywords: Any, comment_tags: Any, options: Any) -> Iterator[Found]:  # noqa: ARG001
    """babel 的提取方法：`_("...")` 与 `N_("...")`。babel 自带的按词法找，在 Python 3.11 上看不进 f 字符串。"""
    for node in ast.walk(ast.parse(fileobj.read())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in keywords and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.JoinedStr):
                raise ValueError(f"line {node.lineno}: an f-string cannot be translated; use .format()")
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield node.lineno, node.func.id, argument.value, []


def extract() -> Catalog:
    """源代码里的全部 msgid，连同所在的文件（不记行号：行号一动，译文的文件就跟着变）。"""
    catalog = Catalog(locale="zh_CN", domain="nanogpt", header_comment=HEADER, project="nanogpt-workbench",
                      version="0.1", msgid_bugs_address="nanogpt-workbench", last_translator="nanogpt-workbench",
                      language_team="zh_CN", fuzzy=False)
    for pattern in SOURCES:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            for _line, message, _comments, _context in extract_from_file(from_python, path, keywords=KEYWORDS):
                catalog.add(message, locations=[(name, 0)])
    return catalog


def committed() -> Catalog:
    """仓库里的译文；还没有时是空的。"""
    if not PO.exists():
        return Catalog(locale="zh_CN", domain="nanogpt", fuzzy=False)
    with open(PO, "rb") as file:
        return read_po(file, locale="zh_CN", domain="nanogpt")


def merged() -> Catalog:
    """源代码里的 msgid 配上仓库里的译文；不再用到的译文丢掉，不猜相近的。"""
    catalog, known = extract(), committed()
    for message in catalog:
        old = known.get(message.id) if message.id else None
        if old is not None and not old.fuzzy:
            message.string = old.string
    # 抬头里的时间每次都不同，译文没有变时文件也不该变
    catalog.creation_date = catalog.revision_date = datetime(2026, 1, 1, tzinfo=UTC)
    return catalog


def untranslated(catalog: Catalog) -> list[str]:
    return [message.id for message in catalog if message.id and (not message.string or message.fuzzy)]


def po_bytes(catalog: Catalog) -> bytes:
    buffer = io.BytesIO()
    write_po(buffer, catalog, width=120, sort_by_file=True, ignore_obsolete=True, include_lineno=False)
    return buffer.getvalue()


def mo_bytes(catalog: Catalog) -> bytes:
    buffer = io.BytesIO()
    write_mo(buffer, catalog)
    return buffer.getvalue()


def main() -> int:
    """更新两个文件；还有没译的就列出来并返回 1。"""
    catalog = merged()
    PO.parent.mkdir(parents=True, exist_ok=True)
    PO.write_bytes(po_bytes(catalog))
    MO.write_bytes(mo_bytes(catalog))
    missing = untranslated(catalog)
    for message in missing:
        print(f"untranslated: {message!r}")
    print(f"{len(catalog)} messages, {len(missing)} untranslated: {PO.relative_to(ROOT)}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
