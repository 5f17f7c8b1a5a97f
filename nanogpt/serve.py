"""采样服务：stdin 进一行行 JSON 请求，stdout 出一行行 JSON 事件，一个进程装一个模型。协议见 `docs/serve.md`。

`python -m nanogpt.sample --serve` 进到这里；工作台的采样界面启动它。读请求的线程立刻回答 `list`、`cancel`、
`shutdown`，其余的排队，由主线程逐个执行。到载入第一个模型时才导入 `torch`。
"""

import contextlib
import gc
import os
import sys
import threading
import time
import traceback
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nanogpt import __version__
from nanogpt.config import SampleConfig
from nanogpt.deltas import Deltas, cropping
from nanogpt.errors import BadInput, UserError
from nanogpt.events import encode_event
from nanogpt.i18n import _
from nanogpt.listing import check_source, checkpoint_losses, list_models
from nanogpt.requests import (
    MAX_LINE_BYTES,
    BadRequest,
    Id,
    Request,
    bad_request,
    load_keys,
    parse_request,
    prompt_text,
)
from nanogpt.text import visible

if TYPE_CHECKING:
    from nanogpt.loading import Loaded

PROTOCOL = 1
PROGRESS_S = 0.5
PARENT_CHECK_S = 1.0
_MOST_INDICES = 100


def serve(config: SampleConfig, explicit: set[str]) -> int:
    """一直回答到 stdin 结束、`shutdown` 或父进程死去；返回退出码。`explicit` 是命令行明说过的键。"""
    # 对话里一次只要一个样本
    defaults = replace(config, serve=False, num_samples=config.num_samples if "num_samples" in explicit else 1)
    parent = os.getppid()
    # 别的库也可能往 stdout 打印：真正的 stdout 只留给本协议，1 号文件改指 stderr
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    server = Server(out, defaults, parent)
    server.send(None, "hello", protocol=PROTOCOL, version=__version__, pid=os.getpid())
    for target in (server.read_requests, server.watch_parent):
        threading.Thread(target=target, daemon=True).start()
    server.run()
    return 0


class Server:
    """队列、模型与输出。`_lock` 护着队列与输出；模型只有主线程碰。"""

    def __init__(self, out: BinaryIO, defaults: SampleConfig, parent: int):
        self.out, self.defaults, self.parent = out, defaults, parent
        self.loaded: Loaded | None = None
        self.queue: deque[Request] = deque()
        self.running: Request | None = None
        self._lock = threading.RLock()
        self._has_work = threading.Condition(self._lock)

    # ---- 输出

    def send(self, id: Id, event: str, **fields: Any) -> None:
        """写出一行。读者已经不在时，服务也没有用处了。"""
        line = encode_event(({} if event == "hello" else {"id": id}) | {"event": event, **fields})
        with self._lock:
            # 客户一见到结尾就可以再用这个编号；读请求的线程退回一个同编号的请求，不了结正在跑的那个
            is_end = event in ("done", "error") and threading.current_thread() is threading.main_thread()
            if is_end and self.running is not None and self.running.id == id:
                self.running = None
            try:
                while line:
                    line = line[self.out.write(line) or 0:]
            except OSError:
                os._exit(0)

    def fail(self, id: Id, error: UserError, **more: Any) -> None:
        what, where, hint = (visible(text, keep="\t") for text in (error.what, error.where, error.hint))
        self.send(id, "error", code=error.code, message=what, where=where, hint=hint, **more)

    # ---- 读请求的线程

    def read_requests(self) -> None:
        """读到 stdin 结束为止；结束即离开，手头的活放弃。"""
        stream = sys.stdin.buffer
        while line := stream.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = stream.readline(MAX_LINE_BYTES)
                line = b" " * (MAX_LINE_BYTES + 1)
            elif not line.strip():
                continue
            try:
                self.accept(line)
            except Exception as error:  # 一个坏请求不该让服务失聪
                traceback.print_exc()
                self.fail(None, UserError("internal", f"{type(error).__name__}: {error}"[:300]))
        os._exit(0)

    def accept(self, line: bytes) -> None:
        try:
            request = parse_request(line, self.defaults)
        except BadRequest as bad:
            self.fail(bad.id, bad.error)
            return
        if request.op == "list":
            # 可能要读许多文件，不占着锁
            self.send(request.id, "done", **list_models(Path(request.own.get("workspace", "."))))
            return
        with self._lock:
            if request.id in [other.id for other in (*self.queue, self.running) if other is not None]:
                self.fail(request.id, bad_request(_("the id {id} is in use").format(id=repr(request.id)[:60])))
            elif request.op == "cancel":
                self.send(request.id, "done", is_found=self.cancel(request.own["target"]))
            elif request.op == "shutdown":
                self.send(request.id, "done")
                os._exit(0)
            else:
                self.queue.append(request)
                self._has_work.notify()

    def cancel(self, target: Id) -> bool:
        """正在跑的记下旗子；还在排队的当场了结。"""
        if self.running is not None and self.running.id == target:
            self.running.is_cancelled = self.running.op in ("generate", "score")
            return self.running.is_cancelled
        for request in self.queue:
            if request.id == target and request.op in ("generate", "score"):
                self.queue.remove(request)
                if request.op == "generate":
                    self.send(target, "done", samples=[], prompt_tokens=0, new_tokens=0, first_token_ms=None,
                              generate_ms=0.0, tokens_per_second=None)
                else:
                    self.send(target, "done", tokens=0, loss=None, perplexity=None, bits_per_byte=None, bytes=None,
                              score_ms=0.0, is_cancelled=True)
                return True
        return False

    def watch_parent(self) -> None:
        """父进程死去就离开：它的那一端管道可能还被别的进程握着，读不到结尾。"""
        while os.getppid() == self.parent:
            time.sleep(PARENT_CHECK_S)
        os._exit(0)

    # ---- 主线程

    def run(self) -> None:
        while True:
            with self._lock:
                self.running = None
                while not self.queue:
                    self._has_work.wait()
                self.running = request = self.queue.popleft()
            try:
                getattr(self, f"do_{request.op}")(request)
            except UserError as error:
                self.fail(request.id, error, **self._positions(request, error))
            except Exception as error:  # 任何一件活出错，下一件照常
                traceback.print_exc()
                self.fail(request.id, UserError("internal", f"{type(error).__name__}: {error}"[:300]))

    def need_model(self) -> "Loaded":
        if self.loaded is None:
            raise BadInput("no_model", _("no model is loaded"), "", _("load one first"))
        return self.loaded

    def do_load(self, request: Request) -> None:
        began = time.perf_counter()
        self.do_unload(None)

        def say(stage: str) -> None:
            self.send(request.id, "progress", stage=stage)

        check_source(request.config)
        if "torch" not in sys.modules:
            say("starting")
        from nanogpt.loading import load

        self.loaded = load(request.config, say)
        self.send(request.id, "ready", model=self.about(request))
        self.send(request.id, "done", load_ms=(time.perf_counter() - began) * 1e3)

    def about(self, request: Request) -> dict[str, Any]:
        """`ready` 里的 `model`。"""
        from nanogpt import device as devices

        loaded = self.need_model()
        source, config, tokenizer = loaded.source, loaded.model.config, loaded.tokenizer
        is_run = request.config.init_from == "resume"
        losses = checkpoint_losses(Path(request.config.out_dir)) if is_run else {}
        eot_id = tokenizer.eot_id
        return {
            **load_keys(request.config), "iter": source.iter_num, "val_loss": losses.get(source.iter_num),
            "best_val_loss": source.best_val_loss, "params": loaded.model.get_num_params(),
            **{key: getattr(config, key) for key in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")},
            "tokenizer": tokenizer.kind, "tokenizer_vocab_size": tokenizer.vocab_size,
            "end_of_text": None if eot_id is None else tokenizer.decode([eot_id]),
            "device": loaded.device, "device_name": devices.device_name(loaded.device), "dtype": loaded.dtype,
            "compile": loaded.is_compiled, "memory_mib": devices.memory_mib(loaded.device)}

    def do_unload(self, request: Request | None) -> None:
        self.loaded = None
        gc.collect()
        if "torch" in sys.modules:
            with contextlib.suppress(RuntimeError):
                sys.modules["torch"].cuda.empty_cache()
        if request is not None:
            self.send(request.id, "done")

    def do_generate(self, request: Request) -> None:
        began = time.perf_counter()
        loaded = self.need_model()
        from nanogpt.completion import complete
        from nanogpt.loading import memory_explained

        prompt = prompt_text(request)
        ids = loaded.encode(prompt)
        self.send(request.id, "begin", seed=request.config.seed, prompt_tokens=len(ids), **cropping(loaded, ids))
        deltas = Deltas(request, lambda **fields: self.send(request.id, "delta", **fields))
        with memory_explained(loaded.source.where):
            for step in complete(loaded, ids, request.config, lambda: request.is_cancelled):
                deltas.add(step)
        seconds = time.perf_counter() - began
        self.send(request.id, "done", samples=deltas.samples(), prompt_tokens=len(ids), new_tokens=deltas.tokens,
                  first_token_ms=None if deltas.first is None else (deltas.first - began) * 1e3,
                  generate_ms=seconds * 1e3, tokens_per_second=deltas.tokens / seconds)

    def do_score(self, request: Request) -> None:
        began = time.perf_counter()
        loaded, config, literal = self.need_model(), request.config, request.own.get("text")
        from nanogpt.loading import memory_explained
        from nanogpt.scoring import Text, Total, figures, read_text, score

        text = (read_text(loaded, config.score) if literal is None
                else Text(loaded.encode(literal), len(literal.encode("utf-8", "replace"))))
        length = min(config.max_tokens or len(text.ids), len(text.ids))
        total, said = Total(), 0.0
        with memory_explained(loaded.source.where):
            for total, scores in score(loaded, text.ids, config.stride, config.logprobs, config.max_tokens,
                                       lambda: request.is_cancelled):
                if time.monotonic() - said > PROGRESS_S:
                    said = time.monotonic()
                    self.send(request.id, "progress", tokens=total.tokens, total_tokens=max(length - 1, 0),
                              loss=total.loss)
                if scores:
                    self.send(request.id, "delta", tokens=scores)
        size = text.bytes if length == len(text.ids) and not request.is_cancelled else None
        self.send(request.id, "done", **figures(total, size, began),
                  **({"is_cancelled": True} if request.is_cancelled else {}))

    def do_tokenize(self, request: Request) -> None:
        loaded = self.need_model()
        ids = loaded.encode(request.own["text"])
        cut = cropping(loaded, ids)
        self.send(request.id, "done", tokens=len(ids), cropped_tokens=cut["cropped_tokens"],
                  cropped_chars=cut["cropped_chars"])

    def _positions(self, request: Request, error: UserError) -> dict[str, Any]:
        """词表外的字符在请求的文本里的位置，给编辑器标出来。"""
        text = request.own.get("prompt", request.own.get("text"))
        if error.code != "out_of_vocabulary" or text is None or self.loaded is None:
            return {}
        known = set(getattr(self.loaded.tokenizer, "tokens", ()))
        found = [i for i, char in enumerate(text) if char not in known][:_MOST_INDICES]
        return {"index": found[0], "indices": found} if found else {}
