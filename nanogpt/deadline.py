"""给不肯超时的网络操作一个期限：域名解析与某些库的下载没有自己的超时，能让人等上几分钟。

`nanogpt.pretrained` 与 `nanogpt.tokenizer` 使用。
"""

import threading
from collections.abc import Callable
from typing import TypeVar

from nanogpt.i18n import _

ResultT = TypeVar("ResultT")


def within(seconds: float, work: Callable[[], ResultT]) -> ResultT:
    """`work()` 的结果或它抛出的异常；`seconds` 秒之内没有就抛 `TimeoutError`，那件事留在守护线程里自生自灭。"""
    results: list[ResultT] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # 原样交给等着的人
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(_("no answer within {n:g} s").format(n=seconds))
    return results[0]
