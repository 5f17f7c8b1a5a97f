"""一个服务进程，一次一个模型：换模型就重新载入，进程没了就另起一个。

各屏用它发请求，每 0.2 秒 `poll` 一次取回结果。几个模型并排比较时也是这一个进程，一个接一个载入：
内存里从来只有一个模型，torch 也只导入一次。
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nanogpt.config import GPT2_NAMES
from nanogpt.errors import BadInput
from nanogpt.i18n import _, language
from workbench.playground.models import ModelChoice
from workbench.playground.requests import (
    FAILED,
    Generation,
    Load,
    Model,
    Problem,
    Request,
    Score,
    TokenCount,
    problem_of,
)
from workbench.playground.server import Server

# 请它停下之后等这么久；载入停不下来，只能杀
CANCEL_SECONDS = 2.0


class Engine:
    """只在一个线程里用。`version` 每有变化加一。`more_load_keys()` 是模型之外的 `load` 的键，变了就重新载入。"""

    def __init__(self, more_load_keys: Callable[[], dict[str, Any]] = dict) -> None:
        self.version = 0
        self._more_load_keys = more_load_keys
        self.model: Model | None = None
        self.is_closed = False
        self._server: Server | None = None
        self._asked: tuple[Any, ...] | None = None
        self._load: Load | None = None
        self._load_of: dict[int, Load] = {}
        self._open: dict[int, Request] = {}
        self._next_id = 1
        self._deadline: float | None = None
        # 没有请求在做时出的事：进程没了，或起不来
        self.problem_when_idle: Problem | None = None

    @property
    def pid(self) -> int | None:
        return self._server.pid if self._server is not None else None

    @property
    def is_busy(self) -> bool:
        return bool(self._open)

    @property
    def load(self) -> Load | None:
        """最近一次载入。"""
        return self._load

    def model_of(self, choice: ModelChoice | None) -> Model | None:
        """`choice` 载入好了的样子；此刻装着的是别的模型则 None。"""
        is_it = choice is not None and self._asked is not None and self._asked[0] == choice.key
        return self.model if is_it else None

    # ---- 请求 ----

    def prepare(self, choice: ModelChoice) -> Load | None:
        """要用 `choice` 了：没有进程就启动，没载入（或文件换了新的）就载入。启动不了则 `BadInput`。"""
        if self.is_closed:
            return None
        if self._server is None:
            self._server = Server()
            self._asked = self.model = self.problem_when_idle = None
        more = self._more_load_keys()
        wanted = (choice.key, choice.stamp(), more)
        if wanted != self._asked:
            self._asked = wanted
            self.model = None
            self._load = Load({**choice.load_keys(), **more})
            self._send(self._load)
        return self._load

    def submit(self, choice: ModelChoice, request: Request) -> None:
        """先载入再发；载入出错时，请求带着载入的错结束。"""
        try:
            load = self.prepare(choice)
        except BadInput as error:
            request.apply_event({"event": "error", "code": error.code, "message": error.what, "where": error.where,
                                 "hint": error.hint})
            self.version += 1
            return
        if load is None:
            return
        self._send(request)
        self._load_of[request.id] = load

    def generate(self, choice: ModelChoice, keys: dict[str, Any]) -> Generation:
        request = Generation(keys)
        self.submit(choice, request)
        return request

    def score(self, choice: ModelChoice, keys: dict[str, Any]) -> Score:
        request = Score(keys)
        self.submit(choice, request)
        return request

    def tokenize(self, choice: ModelChoice, text: str) -> TokenCount:
        request = TokenCount({"text": text})
        self.submit(choice, request)
        return request

    def _send(self, request: Request) -> None:
        assert self._server is not None
        request.id, self._next_id = self._next_id, self._next_id + 1
        self._open[request.id] = request
        self._server.send({"id": request.id, "op": request.op, "lang": language(), **request.keys})
        self.version += 1

    def cancel(self, *requests: Request) -> None:
        """马上停；还在载入的、两秒里停不下来的，杀掉进程。"""
        live = [request for request in requests if request.id in self._open]
        for request in live:
            request.is_cancelled = True
        if not live or self._server is None:
            return
        if any(request.id in self._open for request in (self._load_of.get(item.id) for item in live) if request):
            self._lose("cancelled", _("cancelled"))
            return
        for request in live:
            self._server.send({"id": self._next_id, "op": "cancel", "target": request.id})
            self._next_id += 1
        self._deadline = time.monotonic() + CANCEL_SECONDS

    # ---- 结果 ----

    def poll(self) -> bool:
        """取走新的事件；返回是否有变化。"""
        server, before = self._server, self.version
        if server is None:
            return False
        for event in server.take():
            self._apply(event)
        if self._server is server and server.is_gone:
            why = server.why_gone()
            self._lose("server_gone", _("the sampling process is gone: {why}").format(why=why),
                       _("the next prompt starts a new one"))
        elif self._deadline is not None and time.monotonic() > self._deadline:
            self._deadline = None
            if any(request.is_cancelled for request in self._open.values()):
                self._lose("cancelled", _("cancelled"))
        return self.version != before

    def _apply(self, event: dict[str, Any]) -> None:
        request = self._open.get(event["id"]) if type(event.get("id")) is int else None
        if request is None:
            return
        self.version += 1
        request.apply_event(event)
        if isinstance(request, Load) and request is self._load and request.model is not None:
            self.model = request.model
        if not request.has_ended:
            if isinstance(request, Generation) and request.is_full and not request.is_cancelled:
                self.cancel(request)
            return
        del self._open[request.id]
        load = self._load_of.pop(request.id, None)
        if request.status != FAILED:
            return
        if isinstance(request, Load):
            request.problem = _for_the_screen(request)
        if request is self._load or (request.problem and request.problem.code == "no_model"):
            # 下一个请求会再载入一次
            self._asked = self.model = None
        if load is not None and load.problem is not None and request.problem and request.problem.code == "no_model":
            request.problem = load.problem

    def _lose(self, code: str, what: str, hint: str = "") -> None:
        """进程没了：没做完的都以此结束。"""
        if self._server is not None:
            self._server.kill()
        self._server = self._asked = self.model = self._deadline = None
        event = {"event": "error", "code": code, "message": what, "hint": hint}
        self.problem_when_idle = None if self._open or code == "cancelled" else problem_of(event)
        for request in self._open.values():
            request.apply_event(event)
        self._open.clear()
        self._load_of.clear()
        self.version += 1

    def close(self) -> None:
        """杀掉进程，不再启动。"""
        self.is_closed = True
        if self._server is not None:
            self._lose("cancelled", _("cancelled"))


def _for_the_screen(load: Load) -> Problem | None:
    """命令行的办法换成界面上的：下载不到的 GPT-2，放进工作区就在选单里。"""
    name, problem = load.keys.get("init_from"), load.problem
    if problem is None or problem.code != "gpt2_unavailable" or name not in GPT2_NAMES:
        return problem
    hint = _("where there is a network: hf download {name} --local-dir ./{name}; in this workspace F4 then lists it")
    return replace(problem, hint=hint.format(name=name))
