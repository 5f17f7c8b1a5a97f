"""给不肯超时的网络操作一个期限：域名解析与某些库的下载没有自己的超时，或一再重试，能让人等上几分钟。

`nanogpt.pretrained` 与 `nanogpt.tokenizer` 使用。
"""

import threading
import time
from collections.abc import Callable, Hashable
from typing import TypeVar

from nanogpt.i18n import _

ResultT = TypeVar("ResultT")
LOOK_S = 0.2


def within(seconds: float, work: Callable[[], ResultT]) -> ResultT:
    """`work()` 的结果或它抛出的异常；`seconds` 秒之内没有就抛 `TimeoutError`，那件事留在守护线程里自生自灭。"""
    return while_moving(seconds, lambda: None, work)


def while_moving(seconds: float, look: Callable[[], Hashable], work: Callable[[], ResultT]) -> ResultT:
    """同 `within`，但期限从 `look()` 最近一次变化算起：只要还在动，多久都等。"""
    results: list[ResultT] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # 原样交给等着的人
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    seen, since = look(), time.monotonic()
    while thread.is_alive() and (left := since + seconds - time.monotonic()) > 0:
        thread.join(min(left, LOOK_S))
        if (now := look()) != seen:
            seen, since = now, time.monotonic()
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(_("no answer within {n:g} s").format(n=seconds))
    return results[0]
