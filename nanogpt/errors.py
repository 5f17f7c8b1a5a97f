"""用户看得懂的错误与退出码。

各模块抛出 `UserError` 的子类；`run_main` 是所有命令共用的出口，把它们变成
至多三行的答复（什么、在哪、怎么修）与约定的退出码。
"""

import io
import os
import sys
import traceback
from collections.abc import Callable

from nanogpt.i18n import _
from nanogpt.text import visible


class UserError(Exception):
    """可以向用户解释的错误。

    `code`：稳定的、给程序读的名字；`what`、`where`、`hint`：各占一行，后两者可为空。
    """

    exit_code = 1

    def __init__(self, code: str, what: str, where: str = "", hint: str = ""):
        super().__init__(what)
        self.code, self.what, self.where, self.hint = code, what, where, hint

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str, str, str]]:
        # 能在进程之间传递：默认的做法只带 `args`，重建时缺参数
        return type(self), (self.code, self.what, self.where, self.hint)

    def __str__(self) -> str:
        lines = [_("error: {what}").format(what=self.what)]
        if self.where:
            lines.append(_("  where: {where}").format(where=self.where))
        if self.hint:
            lines.append(_("  fix: {hint}").format(hint=self.hint))
        return "\n".join(visible(line, keep="\t") for line in lines)


class BadInput(UserError):
    """配置、预设、数据集、检查点或提示文本不合法。"""

    exit_code = 2


class Diverged(UserError):
    """损失不再是有限数。"""

    exit_code = 3


class OutOfResources(UserError):
    """磁盘或内存不够。"""

    exit_code = 4


def run_main(main: Callable[[], int], debug: bool = False) -> int:
    """执行 `main` 并返回退出码；除 `debug` 外不打印调用栈。

    分布式时每个进程都会遇到同样的坏输入，只由 rank 0 说一次。
    """
    for stream in (sys.stdout, sys.stderr):
        # 终端的编码写不出某个字时，换成转义而不是出错
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return main()
    except UserError as error:
        if debug:
            traceback.print_exc()
        if os.environ.get("RANK", "0") == "0":
            print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(_("interrupted"), file=sys.stderr)
        return 1
    except BrokenPipeError:
        # 读者（例如 `| head`）先走了：不是错误。把 stdout 换掉，免得解释器退出时再报一次。
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        print(UserError("internal", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", "",
                        _("this is a bug or a broken machine; --debug shows the traceback")), file=sys.stderr)
        return 1
