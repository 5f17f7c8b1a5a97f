"""空的工作区里的首页：说清该按哪一个键。运行列表使用。"""

from textual.strip import Strip

from nanogpt.i18n import _
from workbench.terminal import wrap
from workbench.widgets.lines import line_of


def welcome_lines(width: int, is_loaded: bool, is_read_only: bool) -> list[Strip]:
    """`is_loaded`：已经看过一遍工作区，确实没有运行。"""
    if not is_loaded:
        return [line_of(_("Looking for runs..."))]
    texts: list[tuple[str, str]] = [(_("No runs here yet."), "bold"), ("", "")]
    if not is_read_only:
        texts += [(_("Press enter to train your first model."), "bold green"), ("", ""),
                  (_("A small GPT learns Python from the source of its standard library: no network, no GPU, a few "
                     "minutes. Its curve appears here; you can leave at any time (q) and the run goes on."), ""),
                  ("", ""), (_("n chooses a preset, a dataset and every option instead."), "")]
    return [line_of((line, style)) for text, style in texts for line in wrap(text, max(20, min(76, width - 6)))]
