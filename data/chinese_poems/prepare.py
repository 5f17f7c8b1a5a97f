"""一百多首古诗词，字符级：中文的例子，不用网络。`poems.txt` 一首一篇，走的是自己的文本那条路。"""

import sys
from pathlib import Path

if (Path(__file__).resolve().parents[2] / "nanogpt").is_dir():
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nanogpt import prepare_script as prepare
from nanogpt.i18n import _
from nanogpt.prepare_build import build
from nanogpt.prepare_recipe import Recipe
from nanogpt.prepare_report import Report

SCRIPT = Path(__file__)


def main(arguments: list[str]) -> int:
    """空行隔开的一首就是一篇，整首归训练或验证。"""
    description = _("Classical Chinese poems, one token a character; needs no network.")
    options = prepare.script_parser(SCRIPT, description).parse_args(arguments)
    folder = prepare.output_folder(SCRIPT, options.out)
    source = options.input or SCRIPT.resolve().parent / "poems.txt"
    build(Recipe((str(source),), tokenizer="char", separator="\n\n"), folder, 1, Report(), overwrite=True)
    return 0


if __name__ == "__main__":
    prepare.run_script(main)
