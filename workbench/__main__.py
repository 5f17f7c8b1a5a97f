"""`nanogpt-workbench` 的入口：解析参数，转给 `plot` 或快速上手；用到哪个才导入哪个。"""

import argparse
import os
import sys
from typing import NoReturn

from nanogpt.errors import BadInput, run_main
from nanogpt.i18n import LANGUAGES, _, use_language


class _HelpFormatter(argparse.HelpFormatter):
    """`usage:` 也按用户的语言写。"""

    def add_usage(self, usage, actions, groups, prefix=None):  # type: ignore[no-untyped-def]
        super().add_usage(usage, actions, groups, _("usage: ") if prefix is None else prefix)


class _Parser(argparse.ArgumentParser):
    """出错时抛出 `BadInput`，而不是打印整段用法。"""

    def error(self, message: str) -> NoReturn:
        raise BadInput("bad_argument", message, "", _("see {command} --help").format(command=self.prog))


def _new_parser(prog: str, description: str, epilog: str = "") -> _Parser:
    parser = _Parser(prog=prog, description=description, epilog=epilog, formatter_class=_HelpFormatter,
                     allow_abbrev=False, add_help=False)
    parser._optionals.title = _("options")
    parser._positionals.title = _("arguments")
    parser.add_argument("-h", "--help", action="help", help=_("show this help and exit"))
    return parser


def _main_parser() -> _Parser:
    parser = _new_parser(
        "nanogpt-workbench", _("Train, watch, compare and sample small GPTs."),
        _("`nanogpt-workbench plot RUN...` draws a run's chart in a plain terminal. Without a terminal the quick "
          "start runs headless; arguments after -- are passed on to its trainer."))
    parser.add_argument("--workspace", metavar="DIR",
                        help=_("the folder with runs/, presets/ and data/ (default: here)"))
    parser.add_argument("--lang", choices=LANGUAGES, help=_("language of the interface"))
    parser.add_argument("--read-only", action="store_true", help=_("start, stop, delete and write nothing"))
    parser.add_argument("--profile", choices=["auto", "local", "remote"], default="auto",
                        help=_("remote: fewer redraws, no animation, no mouse; auto: remote over SSH (default)"))
    parser.add_argument("--mouse", action=argparse.BooleanOptionalAction, default=None,
                        help=_("take the mouse, or leave it to the terminal's own selection; F2 switches"))
    parser.add_argument("--ascii", action=argparse.BooleanOptionalAction, default=None,
                        help=_("draw with plain ASCII characters only"))
    parser.add_argument("--print-keys", action="store_true",
                        help=_("print a keys.toml with every key, to change what you like, and exit"))
    parser.add_argument("--debug", action="store_true", help=_("show the traceback of an error"))
    parser.add_argument("command", nargs="?", choices=["plot"], help=_("draw runs instead of opening the workbench"))
    return parser


def _plot_parser() -> _Parser:
    parser = _new_parser("nanogpt-workbench plot", _("Draw the loss curve and the status of one or more runs."))
    parser.add_argument("runs", nargs="+", metavar="RUN", help=_("a run directory, or its events.jsonl"))
    parser.add_argument("--json", action="store_true", help=_("print one JSON object per run and exit"))
    parser.add_argument("--once", action="store_true",
                        help=_("print once and exit (always so where there is no terminal)"))
    parser.add_argument("--debug", action="store_true", help=_("show the traceback of an error"))
    return parser


def _chosen_language(arguments: list[str]) -> str | None:
    """在建解析器之前就要知道语言，因为 `--help` 的文字随它变。"""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if argument in ("plot", "--"):
            return None
        value = following if argument == "--lang" else argument.removeprefix("--lang=")
        if value != argument and value in LANGUAGES:
            return value
    return None


def _enter(workspace: str | None) -> None:
    if workspace is None:
        return
    try:
        os.chdir(workspace)
    except OSError as error:
        raise BadInput("bad_workspace", _("cannot use the workspace: {why}").format(why=error.strerror), workspace,
                       _("name an existing folder with --workspace")) from error


def _run(arguments: list[str]) -> int:
    if language := _chosen_language(arguments):
        use_language(language)
    # `plot` 之后的参数归它自己；`--` 之后的归训练器。
    cut = next((index for index, argument in enumerate(arguments)
                if argument in ("plot", "--") and arguments[index - 1:index] != ["--workspace"]), len(arguments))
    is_plot = arguments[cut:cut + 1] == ["plot"]
    options = _main_parser().parse_args(arguments[:cut])
    _set_terminal(options)
    if is_plot:
        from workbench.plot import run_plot

        plot_options = _plot_parser().parse_args(arguments[cut + 1:])
        _enter(options.workspace)
        return run_plot(plot_options.runs, plot_options.json, plot_options.once)
    _enter(options.workspace)
    if options.print_keys:
        from workbench.keymap import sample

        print(sample(), end="")
        return 0
    is_live = sys.stdin.isatty() and sys.stdout.isatty()
    # `--` 之后有训练器的参数，就是要直接跑快速上手
    if is_live and len(arguments) <= cut + 1:
        return _open_app(options.read_only)
    if options.read_only:
        raise BadInput("read_only", _("the quick start writes data/ and runs/, which --read-only forbids"), "",
                       _("leave out --read-only, or use `nanogpt-workbench plot RUN`"))
    from workbench.quickstart import quickstart, say

    if not is_live:
        say(_("No terminal here: running the quick start without the screen."))
    return quickstart(arguments[cut + 1:], period_seconds=2.0 if is_live else 10.0)


def _set_terminal(options: argparse.Namespace) -> None:
    """`workbench.terminal` 读这些环境变量：从哪里问都是一个答案。"""
    if options.profile != "auto":
        os.environ["NANOGPT_PROFILE"] = options.profile
    if options.mouse is not None:
        os.environ["NANOGPT_MOUSE"] = str(int(options.mouse))
    if options.ascii is not None:
        os.environ["NANOGPT_ASCII"] = str(int(options.ascii))


def _open_app(is_read_only: bool) -> int:
    from workbench.terminal import is_remote

    if is_remote():
        # Textual 在导入时读这两个
        os.environ.setdefault("TEXTUAL_FPS", "10")
        os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    from workbench.app import run_app

    return run_app(is_read_only)


def main(argv: list[str] | None = None) -> int:
    """命令行入口；返回退出码。"""
    arguments = sys.argv[1:] if argv is None else argv
    return run_main(lambda: _run(arguments), debug="--debug" in arguments)


if __name__ == "__main__":
    sys.exit(main())
