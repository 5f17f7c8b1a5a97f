"""把许多单元交给所有核：一个小的进程池，父进程死了它也死，子进程死了说得清楚。

`nanogpt.prepare_survey` 与 `nanogpt.prepare_tokens` 使用。用 `spawn`，所以与线程、`torch`、macOS 都相安无事。
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from nanogpt.errors import OutOfResources
from nanogpt.i18n import _, language, use_language


def core_count() -> int:
    """本进程可用的核数。"""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], processes: int,
              setup: Callable[..., None], arguments: tuple[Any, ...], always_apart: bool = False) -> Iterator[Any]:
    """对每个任务调用 `function(*task)`，结果先好先给；每个进程先调用一次 `setup(*arguments)`。

    只有一个任务或一个进程时就在本进程里做，除非 `always_apart`：另起一个进程，做完内存就还给系统。
    """
    tasks = list(tasks)
    processes = min(processes, len(tasks))
    if processes <= 1 and not (always_apart and tasks):
        setup(*arguments)
        for task in tasks:
            yield function(*task)
        return
    # 一个进程一个核就够：numpy 的线程池只会多占内存
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if processes == 1 else "false"
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), start_worker,
                               (language(), setup, arguments))
    try:
        for future in as_completed([pool.submit(function, *task) for task in tasks]):
            yield future.result()
    except BrokenProcessPool as error:
        what = _("a tokenizing process was killed, perhaps for want of memory")
        hint = _("run it again to go on, with a smaller --num-proc")
        raise OutOfResources("worker_killed", what, "", hint) from error
    finally:
        pool.shutdown(cancel_futures=True)


def start_worker(lang: str, setup: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """工作进程的开头：Ctrl-C 时安静地结束，父进程被杀死时自己也结束。"""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    use_language(lang)
    setup(*arguments)
