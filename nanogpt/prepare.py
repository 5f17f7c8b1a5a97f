"""准备数据集的命令：自己的文本、随包的数据集、检查、预览。

    python -m nanogpt.prepare mine --input book.txt --tokenizer bpe --vocab-size 2000
    python -m nanogpt.prepare --preview --input book.txt --tokenizer bpe
    python -m nanogpt.prepare --check mine
    python -m nanogpt.prepare shakespeare_char

有 `prepare.py` 的名字运行那个脚本，别的名字由 `nanogpt.prepare_build` 从 `--input` 做成 `data/NAME/`。
"""

import argparse
import difflib
import json
import runpy
import sys
from pathlib import Path

from nanogpt.bpe import MIN_VOCAB_SIZE
from nanogpt.dataset import check_dataset_name, known_names, open_dataset
from nanogpt.dataset_doctor import examine, print_findings
from nanogpt.errors import BadInput, UserError, run_main
from nanogpt.i18n import LANGUAGES, _, preferred_language, use_language
from nanogpt.prepare_build import build
from nanogpt.prepare_pool import core_count
from nanogpt.prepare_preview import preview, print_preview
from nanogpt.prepare_recipe import Recipe
from nanogpt.prepare_report import Report
from nanogpt.prepare_script import ArgumentParser
from nanogpt.prepare_sources import FORMATS
from nanogpt.shipped import shipped_dir
from nanogpt.tokenizer import KINDS, MAX_VOCAB_SIZE

PROG = "python -m nanogpt.prepare"


def main(arguments: list[str]) -> int:
    """看是哪一种用法，交给它；返回退出码。"""
    arguments = _take_language(arguments)
    if "--check" in arguments:
        return check([argument for argument in arguments if argument != "--check"])
    if "--preview" in arguments:
        return show_preview([argument for argument in arguments if argument != "--preview"])
    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if name is not None:
        check_dataset_name(name)
        script = find_script(name)
        if script is not None:
            return run_dataset_script(script, arguments[1:])
        if not any(argument.split("=")[0] in ("--input", "--help", "-h") for argument in arguments):
            raise unknown_dataset(name)
    return prepare_own(arguments or ["--help"])


def _take_language(arguments: list[str]) -> list[str]:
    """取走 `--lang en`，与别的命令相同；没有则按环境。"""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--lang", choices=LANGUAGES)
    try:
        options, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        return arguments
    use_language(options.lang or preferred_language())
    return rest


def prepare_own(arguments: list[str]) -> int:
    """从自己的文本做成 `data/NAME/`。"""
    parser = recipe_parser(PROG, _(
        "Make the dataset data/NAME from text of yours, or prepare one that is known by NAME. "
        "A single text is split by position, several documents by document."))
    parser.add_argument("name", metavar="NAME", help=_("name of the dataset: a folder below data/"))
    parser.add_argument("--out", type=Path, metavar="DIR", help=_("write here instead of data/NAME"))
    parser.add_argument("--overwrite", action="store_true", help=_("replace a dataset that is there already"))
    parser.add_argument("--num-proc", type=int, default=core_count(), metavar="N",
                        help=_("processes that tokenize (default: %(default)s)"))
    parser.epilog = "\n".join((
        _("known datasets: {known}").format(known=", ".join(known_names())),
        _("{command} --preview --input PATH shows the text and its tokens before the work begins").format(
            command=PROG),
        _("{command} --check NAME examines a dataset").format(command=PROG)))
    options = parser.parse_args(arguments)
    if not 1 <= options.num_proc <= 1024:
        raise BadInput("bad_argument", _("--num-proc must be from 1 to 1024"))
    folder = options.out or Path("data", check_dataset_name(options.name))
    report = Report(options.json)
    try:
        build(recipe_of(options), folder, options.num_proc, report, options.overwrite)
    except UserError as error:
        report.error(error)
        raise
    return 0


def recipe_parser(prog: str, description: str) -> ArgumentParser:
    """准备与预览共有的参数：读什么、怎样分词、怎样划分。"""
    parser = ArgumentParser(prog=prog, description=description, allow_abbrev=False,
                            formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input", nargs="+", action="extend", required=True, metavar="PATH",
        help=_("files, folders, globs, or hf:NAME for a Hugging Face dataset"))
    add("--tokenizer", choices=KINDS, default="char",
        help=_("what a token is: a character, a byte, GPT-2's BPE, or a BPE trained on the text "
               "(default: %(default)s)"))
    add("--vocab-size", type=int, metavar="N", help=_("size of the trained BPE, end-of-text included (default: 4096)"))
    add("--format", choices=FORMATS, help=_("what the files are (default: by their suffix, else text)"))
    add("--encoding", metavar="NAME", help=_("of text, JSON and CSV files (default: detected)"))
    add("--column", metavar="NAME", help=_("column or key that holds the text (default: text)"))
    add("--separator", default="", metavar="TEXT",
        help=_("a text file is several documents with this between them, such as '<|endoftext|>' or '\\n\\n'"))
    add("--val-fraction", type=float, default=0.1, metavar="X",
        help=_("share of the documents (of a single text: of its end) for validation (default: %(default)s)"))
    add("--seed", type=int, default=1337, metavar="N", help=_("of the split by document (default: %(default)s)"))
    add("--drop-duplicates", action="store_true", help=_("keep only the first of identical documents"))
    add("--json", action="store_true", help=_("write JSON lines to stdout instead of text"))
    add("--lang", choices=LANGUAGES, help=_("language of messages; also NANOGPT_LANG"))
    add("--debug", action="store_true", help=_("show the traceback of an error"))
    return parser


def recipe_of(options: argparse.Namespace) -> Recipe:
    """查过范围的做法；与别的选择合不来的选项是错误，不悄悄略过。"""
    if options.vocab_size is not None:
        if options.tokenizer != "bpe":
            raise BadInput("bad_argument", _("--vocab-size goes with --tokenizer bpe only"))
        if not MIN_VOCAB_SIZE <= options.vocab_size <= MAX_VOCAB_SIZE:
            raise BadInput("bad_argument", _("--vocab-size must be from {least} to {most}: a token id takes two bytes")
                           .format(least=MIN_VOCAB_SIZE, most=MAX_VOCAB_SIZE))
    if not 0 < options.val_fraction < 1:
        raise BadInput("bad_argument", _("--val-fraction must lie between 0 and 1"), "", _("for example 0.1"))
    if not 0 <= options.seed < 1 << 63:
        raise BadInput("bad_argument", _("--seed must be from 0 to 2**63 - 1"))
    return Recipe(
        inputs=tuple(options.input), tokenizer=options.tokenizer, vocab_size=options.vocab_size or 4096,
        format=options.format, encoding=options.encoding, column=options.column,
        # shell 里不好写换行
        separator=options.separator.replace("\\n", "\n").replace("\\t", "\t"),
        val_fraction=options.val_fraction, seed=options.seed, drop_duplicates=options.drop_duplicates)


def show_preview(arguments: list[str]) -> int:
    """开工之前看一眼：第一篇的开头与它的 token、编码、估计的数量。"""
    parser = recipe_parser(f"{PROG} --preview", _("Show the beginning of the text and its tokens, write nothing."))
    parser.add_argument("name", metavar="NAME", nargs="?", help=_("ignored; so that the same command can be previewed"))
    options = parser.parse_args(arguments)
    try:
        shown = preview(recipe_of(options))
    except UserError as error:
        Report(options.json).error(error)
        raise
    print(json.dumps(shown, ensure_ascii=True)) if options.json else print_preview(shown)
    return 0


def check(arguments: list[str]) -> int:
    """数据医生。没有问题返回 0，有错误返回 2；只有提醒也是 0。"""
    parser = ArgumentParser(prog=f"{PROG} --check", allow_abbrev=False, description=_(
        "Examine a dataset: sizes, ids, splits, tokens. Says what is wrong and how to mend it."))
    parser.add_argument("name", metavar="NAME", help=_("name of the dataset: a folder below data/"))
    parser.add_argument("--block-size", type=int, default=0, metavar="N", help=_("context length to be trained with"))
    parser.add_argument("--json", action="store_true", help=_("write one JSON object to stdout instead of text"))
    parser.add_argument("--lang", choices=LANGUAGES, help=_("language of messages; also NANOGPT_LANG"))
    parser.add_argument("--debug", action="store_true", help=_("show the traceback of an error"))
    options = parser.parse_args(arguments)
    try:
        findings = examine(open_dataset(options.name), options.block_size)
    except UserError as error:
        Report(options.json).error(error)
        raise
    print(json.dumps(findings, ensure_ascii=True)) if options.json else print_findings(findings)
    return 2 if any(finding["level"] == "error" for finding in findings["findings"]) else 0


def find_script(name: str) -> Path | None:
    """`name` 的 `prepare.py`：当前目录的 `data/` 在前，随包的在后；没有则 None。"""
    for root in (Path.cwd() / "data", shipped_dir("data")):
        if (root / name / "prepare.py").is_file():
            return root / name / "prepare.py"
    return None


def unknown_dataset(name: str) -> BadInput:
    """既没有脚本，也没有说从什么做起。"""
    known = [known for known in known_names() if find_script(known)]
    close = difflib.get_close_matches(name, known, n=1)
    guess = _("did you mean {name}? ").format(name=close[0]) if close else ""
    return BadInput("unknown_dataset", _("there is no dataset {name}").format(name=name), "", guess + _(
        "known datasets: {known}; for text of your own add --input PATH").format(known=", ".join(known)))


def run_dataset_script(script: Path, options: list[str]) -> int:
    """脚本像被直接运行那样执行：它自己解析参数，自己以退出码结束（`SystemExit` 从这里穿过去）。"""
    has_out = any(option == "--out" or option.startswith("--out=") for option in options)
    if not has_out and not script.resolve().is_relative_to(Path.cwd()):
        # 随包携带的脚本：数据属于当前的工作区，不往别处的仓库里写
        options = [*options, "--out", str(Path("data", script.parent.name))]
    sys.argv = [str(script), *options]
    runpy.run_path(str(script), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(lambda: main(sys.argv[1:]), "--debug" in sys.argv))
