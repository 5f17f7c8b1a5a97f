"""自己的文本怎样变成数据集：填了哪些项，由此得到 `nanogpt.prepare` 的参数与命令。

`OwnTextScreen` 持有一个 `OwnText`，只改它、只显示它；本模块不导入 `textual`，所以不用界面就能测。
"""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from nanogpt.dataset import SPLITS, check_dataset_name
from nanogpt.errors import BadInput
from nanogpt.i18n import N_, _
from nanogpt.prepare_recipe import Recipe
from nanogpt.prepare_sources import FORMATS, SUFFIXES, suffix_of
from nanogpt.shipped import shipped_dir
from nanogpt.tokenizer import KINDS

HUB = "hf:"
AUTO, NO, YES = "auto", "no", "yes"
# 没有说的，命令用这些
_UNSAID = Recipe(())


@dataclass(frozen=True)
class Field:
    """一项：`key` 也是它在命令行上的名字；`title`、`help` 是 msgid；有 `choices` 的从中选一个。"""

    key: str
    title: str
    help: str
    default: str = ""
    choices: tuple[str, ...] = ()


FIELDS = (
    Field("input", N_("text"), N_("files, folders or globs; several with spaces between; tab completes")),
    Field("name", N_("name"), N_("the dataset's name: a folder below data/")),
    Field("tokenizer", N_("tokenizer"), N_("a token is a character, a byte, of GPT-2's BPE, or of a BPE trained on "
                                           "this text"), _UNSAID.tokenizer, KINDS),
    Field("vocab-size", N_("vocabulary"), N_("how many tokens the trained BPE has: 257 to 65,536"),
          str(_UNSAID.vocab_size)),
    Field("format", N_("format"), N_("what the files are; auto goes by their suffix"), AUTO, (AUTO, *FORMATS)),
    Field("encoding", N_("encoding"), N_("of the files, such as gb18030 or cp1252; empty: detected")),
    Field("column", N_("column"), N_("the column or key that holds the text; empty: text")),
    Field("separator", N_("separator"), N_("stands between the documents of a text file, such as <|endoftext|> or "
                                           "\\n\\n; empty: a file is one document")),
    Field("val-fraction", N_("validation"), N_("the share that is kept for validation, between 0 and 1"),
          str(_UNSAID.val_fraction)),
    Field("seed", N_("seed"), N_("of the split by document"), str(_UNSAID.seed)),
    Field("drop-duplicates", N_("duplicates"), N_("yes: keep only the first of identical documents"), NO, (NO, YES)),
)
BY_KEY = {field.key: field for field in FIELDS}
NUMBERS = {"vocab-size": int, "val-fraction": float, "seed": int}


class OwnText:
    """`values` 是各项此刻的文字。`formats` 是预览认出的格式，还没有预览时为 None。"""

    def __init__(self) -> None:
        self.values = {field.key: field.default for field in FIELDS}
        self.formats: frozenset[str] | None = None

    # ---- 读什么 ----

    def inputs(self) -> list[str]:
        """各个路径，`~` 已展开；引号没有闭合时抛出 `BadInput`。"""
        text = self.values["input"]
        whole = os.path.expanduser(text.strip())
        # 粘贴来的一个路径可以带空格而不加引号
        words = [whole] if whole and os.path.exists(whole) else [os.path.expanduser(word) for word in split_words(text)]
        # 减号开头的会被当成选项
        return [f"./{word}" if word.startswith("-") else word for word in words]

    def likely_formats(self) -> frozenset[str]:
        """会是哪些格式：说了的、预览认出的，否则看后缀；看不出的写作空。"""
        if self.values["format"] != AUTO:
            return frozenset({self.values["format"]})
        if self.formats is not None:
            return self.formats
        try:
            return frozenset(_format_of(word) for word in self.inputs())
        except BadInput:
            return frozenset({""})

    def is_shown(self, key: str) -> bool:
        """用不上的项不出现，也不进命令。"""
        formats = self.likely_formats()
        if key == "vocab-size":
            return self.values["tokenizer"] == "bpe"
        if key == "column":
            return bool(formats - {"text"})
        if key == "separator":
            return not formats or bool(formats & {"text", ""})
        if key == "encoding":
            return not formats or bool(formats - {"parquet", "arrow"})
        return True

    # ---- 叫什么 ----

    def proposed_name(self, workspace: Path) -> str:
        """由第一个路径想的名字，避开已有的；还没有路径时为空。"""
        try:
            first = next(iter(self.inputs()), "")
        except BadInput:
            return ""
        if not first:
            return ""
        path = Path(first.removeprefix(HUB).replace(":", "-"))
        # 通配的名字取它的目录
        while re.search(r"[*?\[]", path.name) and not path.exists():
            path = path.parent
        stem = (path.resolve() if path.name in ("", "..") else path).name
        stem = Path(stem.removesuffix(".gz")).stem if suffix_of(path) and not path.is_dir() else stem
        stem = re.sub(r"[^\w.-]+", "-", stem).strip("-.")[:40] or "text"
        taken = (f"{stem}-{number}" for number in range(2, 1000))
        return next(name for name in (stem, *taken) if not _is_taken(name, workspace))

    def name(self, workspace: Path) -> str:
        return self.values["name"].strip() or self.proposed_name(workspace)

    # ---- 命令 ----

    def options(self) -> list[str]:
        """除名字以外的参数，只含与默认不同的。不合法时抛出 `BadInput`。"""
        words = self.inputs()
        if not words:
            raise BadInput("no_input", _("no text yet"), "", _("type a path, or paste one; tab completes it"))
        if any("\0" in word for word in words):
            raise BadInput("bad_text", _("a path cannot hold a NUL character"), "", _("type it anew"))
        found = ["--input", *words]
        for field in FIELDS[2:]:
            value = self.values[field.key] if field.choices or field.key == "separator" else \
                self.values[field.key].strip()
            if value == field.default or not self.is_shown(field.key):
                continue
            if field.key in NUMBERS:
                _check_number(field, value)
            found.append(f"--{field.key}" if field.choices == (NO, YES) else f"--{field.key}={value}")
        return found

    def check_name(self, workspace: Path) -> str:
        """将用的名字；不能用时抛出 `BadInput`。"""
        name = check_dataset_name(self.name(workspace))
        if _has_script(name, workspace):
            raise BadInput("name_taken", _("{name} is a dataset with a prepare.py of its own").format(name=name), "",
                           _("give another name"))
        return name


def split_words(text: str) -> list[str]:
    """像 shell 那样拆开：引号与反斜杠保护空格。"""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise BadInput("bad_text", _("a quote or a backslash is not finished"), text,
                       _("close the quote, or write \\' for an apostrophe")) from error


def has_dataset(name: str, workspace: Path) -> bool:
    """工作区里已有备好的 `name`。"""
    return any((workspace / "data" / name / f"{split}.bin").exists() for split in SPLITS)


def _format_of(word: str) -> str:
    if word.startswith(HUB) or os.path.isdir(word):
        return ""
    suffix = suffix_of(Path(word))
    return SUFFIXES.get(suffix, "text" if not re.search(r"[*?\[]", suffix) else "")


def _has_script(name: str, workspace: Path) -> bool:
    return any((root / name / "prepare.py").is_file() for root in (workspace / "data", shipped_dir("data")))


def _is_taken(name: str, workspace: Path) -> bool:
    return has_dataset(name, workspace) or _has_script(name, workspace)


def _check_number(field: Field, value: str) -> None:
    try:
        NUMBERS[field.key](value)
    except ValueError as error:
        raise BadInput("bad_value", _("{key} cannot be {value}").format(key=_(field.title), value=repr(value)[:40]), "",
                       _(field.help)) from error
