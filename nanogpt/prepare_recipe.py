"""一次准备的全部选择，与它们所指的文件；查彼此合不合得来。

`nanogpt.prepare` 由命令行得到 `Recipe`，`nanogpt.prepare_build` 与 `nanogpt.prepare_preview` 照着做。
"""

import hashlib
import json
from dataclasses import asdict, dataclass

from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.prepare_hub import hub_sources
from nanogpt.prepare_sources import SourceFile, find_sources

# 份的格式或做法变了就加一：旧的份不再作数。
VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """一次准备的全部选择；`inputs` 是路径、文件夹、通配或 `hf:名字`。"""

    inputs: tuple[str, ...]
    tokenizer: str = "char"
    vocab_size: int = 4096
    format: str | None = None
    encoding: str | None = None
    column: str | None = None  # None 就是 `text`
    separator: str = ""
    val_fraction: float = 0.1
    seed: int = 1337
    drop_duplicates: bool = False

    @property
    def text_column(self) -> str:
        return self.column or "text"


def resolve_inputs(recipe: Recipe) -> list[SourceFile]:
    """`recipe.inputs` 的文件表；`hf:名字` 先由 `datasets` 下载（或从它的缓存取）。"""
    found: list[SourceFile] = []
    for given in recipe.inputs:
        found += (hub_sources(given.removeprefix("hf:")) if given.startswith("hf:")
                  else find_sources([given], recipe.format, recipe.encoding))
    return list({source.path: source for source in found}.values())


def check_fits(recipe: Recipe, sources: list[SourceFile]) -> None:
    """用不上的选项是错误，不悄悄略过。"""
    formats = {source.format for source in sources}
    if recipe.column is not None and formats == {"text"}:
        raise BadInput("bad_argument", _("--column does not apply to text files"), "",
                       _("leave it out, or say what the files are with --format"))
    if recipe.separator and "text" not in formats:
        raise BadInput("bad_argument", _("--separator applies to text files only"), "", _("leave it out"))
    if recipe.encoding is not None and formats <= {"parquet", "arrow"}:
        raise BadInput("bad_argument", _("--encoding does not apply to Parquet and Arrow files"), "",
                       _("leave it out"))


def fingerprint(recipe: Recipe, sources: list[SourceFile]) -> str:
    """文件与做法的指纹：换了任何一样，上次留下的份就不再作数。"""
    # 种子与去重只在最后的划分里用到
    chosen = {key: value for key, value in asdict(recipe).items() if key not in ("inputs", "seed", "drop_duplicates")}
    if recipe.tokenizer != "bpe":
        del chosen["vocab_size"]
    described = json.dumps([VERSION, chosen, [asdict(source) for source in sources]], sort_keys=True)
    return hashlib.sha256(described.encode("utf-8")).hexdigest()[:16]
