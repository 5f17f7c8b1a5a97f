"""GPT-2 BPE 的莎士比亚：`train.bin`、`val.bin`、`meta.json`，与 nanoGPT 的逐字节相同。"""

import sys
from pathlib import Path

if (Path(__file__).resolve().parents[2] / "nanogpt").is_dir():
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from nanogpt import prepare_script as prepare
from nanogpt.dataset import write_dataset
from nanogpt.i18n import _
from nanogpt.tokenizer import GPT2Tokenizer, load_gpt2_encoding

SCRIPT = Path(__file__)


def main(arguments: list[str]) -> int:
    """前 90% 的字符训练，其余验证，再各自编码。"""
    description = _("Tiny Shakespeare in GPT-2 BPE tokens, or any text of yours with --input.")
    options = prepare.script_parser(SCRIPT, description, prepare.TINY_SHAKESPEARE).parse_args(arguments)
    # 缺了分词器，下载也是白费，所以先载入它。
    load_gpt2_encoding()
    folder = prepare.output_folder(SCRIPT, options.out)
    path = prepare.text_source(options, SCRIPT, folder, prepare.TINY_SHAKESPEARE)
    train, val = prepare.split_text(prepare.read_text(path), path)
    tokenizer = GPT2Tokenizer()
    splits = {
        "train": np.array(tokenizer.encode_ordinary(train), dtype=np.uint16),
        "val": np.array(tokenizer.encode_ordinary(val), dtype=np.uint16),
    }
    prepare.report(write_dataset(folder, tokenizer, splits, source=path.name), folder)
    return 0


if __name__ == "__main__":
    prepare.run_script(main)
