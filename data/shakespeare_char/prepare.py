"""字符级的莎士比亚：`train.bin`、`val.bin`、`meta.json`、`meta.pkl`，与 nanoGPT 的逐字节相同。"""

import sys
from pathlib import Path

if (Path(__file__).resolve().parents[2] / "nanogpt").is_dir():
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nanogpt import prepare_script as prepare
from nanogpt.i18n import _

SCRIPT = Path(__file__)


def main(arguments: list[str]) -> int:
    """前 90% 的字符训练，其余验证；词表取自全文。"""
    description = _("Character-level tiny Shakespeare, or any text of yours with --input.")
    options = prepare.script_parser(SCRIPT, description, prepare.TINY_SHAKESPEARE).parse_args(arguments)
    folder = prepare.output_folder(SCRIPT, options.out)
    path = prepare.text_source(options, SCRIPT, folder, prepare.TINY_SHAKESPEARE)
    text = prepare.read_text(path)
    print(_("length of dataset in characters: {count:,}").format(count=len(text)))
    train, val = prepare.split_text(text, path)
    prepare.report(prepare.write_chars(folder, train, val, path.name), folder)
    return 0


if __name__ == "__main__":
    prepare.run_script(main)
