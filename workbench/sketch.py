"""一个很长的日志的草图：不等读完，先由开头、均匀的几百处与末尾画出整条曲线。

`WatchedRun` 读着的时候拿它当状态，读完换成完整的。
"""

from collections.abc import Iterable
from typing import TypeVar

from workbench.follow import Follower
from workbench.iter_event import Event, IterEvent, parse_events
from workbench.run_state import RunState

PLACES, WINDOW_BYTES, HEAD_BYTES, TAIL_BYTES = 1000, 2048, 64 << 10, 64 << 10
AnyEvent = TypeVar("AnyEvent", bound=Event)


def sketch(follower: Follower) -> RunState:
    """由一处处的完整的行折叠成的状态；不动 `follower` 读到哪里。"""
    size = follower.size
    middle = max(0, size - HEAD_BYTES - TAIL_BYTES)
    windows = [(0, HEAD_BYTES), *((HEAD_BYTES + middle * place // PLACES, WINDOW_BYTES) for place in range(PLACES)),
               (max(0, size - TAIL_BYTES), TAIL_BYTES)]
    lines = [line for start, length in windows
             for line in follower.peek(start, length).split(b"\n")[1 if start else 0:-1]]
    events = parse_events(lines)
    iters = [event for event in events if isinstance(event, IterEvent)]
    others = [event for event in events if isinstance(event, dict)]
    starts, evals = ([event for event in others if event["event"] == kind] for kind in ("start", "eval"))
    # 后面又续训了的 `end` 不是结局
    ends = [event for event in others if event["event"] in ("start", "end")][-1:]
    rest = [event for event in others if event["event"] not in ("start", "eval", "iter", "end")]
    state = RunState()
    # 续训的 `start` 会丢掉它之后要重算的点，而它自己多半没有看到：所以先都应用，再由迭代号认出重算
    state.apply_events(starts)
    state.apply_events(_increasing(iters, [event.iter for event in iters]))
    state.apply_events(_increasing(evals, [event.get("iter") for event in evals]))
    state.apply_events([*rest, *(event for event in ends if event["event"] == "end")])
    return state


def _increasing(events: Iterable[AnyEvent], iters: Iterable[object]) -> list[AnyEvent]:
    """后来的为准：迭代号退回去，就丢掉不小于它的那些。"""
    kept: list[tuple[int, AnyEvent]] = []
    for event, number in zip(events, iters, strict=True):
        if type(number) is int:
            while kept and kept[-1][0] >= number:
                kept.pop()
            kept.append((number, event))
    return [event for _number, event in kept]
