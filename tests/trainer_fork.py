"""先载入 torch，再为每次训练分叉一个真的训练器进程：一次约 0.2 s，而不是 3 s。

`conftest.py` 的 `fork_train` 与 `fault_campaign.py` 使用。分叉出的进程走与
`python -m nanogpt.train` 同样的 `preflight_or_exit`、`run_main(main)`，有自己的进程号、
会话、工作目录、环境与输出文件，可以用真的信号杀。省掉的只有解释器启动与导入。
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# 任何一次都不该等这么久；到了就杀掉并算作卡死
LIMIT_S = 60.0


def clean_env(**extra: str) -> dict[str, str]:
    """不受外面影响的环境：英文、单线程、没有分布式的变量。"""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH") if key in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8", "NANOGPT_LANG": "en", **extra}


@dataclass
class Run:
    """一个在跑的（或跑完的）训练器。"""

    server: "TrainerServer"
    pid: int
    cwd: Path
    log: Path
    returncode: int | None = None

    def poll(self) -> int | None:
        """退出码，被信号杀死则为其负值；还在跑则 None。"""
        if self.returncode is None:
            self.returncode = self.server.ask(poll=self.pid)["rc"]
        return self.returncode

    def wait(self, limit_s: float = LIMIT_S) -> int:
        end = time.monotonic() + limit_s
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill(signal.SIGKILL)
                raise AssertionError(f"still running after {limit_s} s:\n{self.output}")
            time.sleep(0.003)
        assert self.returncode is not None
        return self.returncode

    def kill(self, number: int) -> None:
        # 收尸只在 `poll` 里，所以这个号码不会已经换了主人
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


class TrainerServer:
    """载入过 torch 的进程，等着分叉。"""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, str(Path(__file__).resolve())], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, env=clean_env(), start_new_session=True)
        self.count = 0

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        reply: dict[str, Any] = json.loads(self.process.stdout.readline())
        return reply

    def start(self, cwd: Path, *args: str, env: dict[str, str] | None = None, inject: dict[str, Any] | None = None,
              address_space: int | None = None) -> Run:
        """在 `cwd` 里开始训练。`inject` 见 `fault_campaign.install`；`address_space`：`RLIMIT_AS`，字节。"""
        self.count += 1
        log = cwd / f"fork-{os.getpid()}-{self.count}.log"
        reply = self.ask(start=list(args), cwd=str(cwd), env=clean_env(**(env or {})), log=str(log), inject=inject,
                         address_space=address_space)
        return Run(self, reply["pid"], cwd, log)

    def train(self, cwd: Path, *args: str, **options: Any) -> Run:
        """开始并等到结束。"""
        run = self.start(cwd, *args, **options)
        run.wait()
        return run

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)


def _child(request: dict[str, Any]) -> None:
    """分叉出的一侧：成为训练器，直到退出。"""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["nanogpt/train.py", *request["start"]]
    code: Any = 1
    try:
        if request["address_space"]:
            import resource
            resource.setrlimit(resource.RLIMIT_AS, (request["address_space"], request["address_space"]))
        if request["inject"]:
            import fault_campaign
            fault_campaign.install(request["inject"])
        from nanogpt.errors import run_main
        from nanogpt.preflight import preflight_or_exit
        from nanogpt.train import main
        job = preflight_or_exit(sys.argv[1:])
        code = run_main(lambda: main(job), job.debug)
    except SystemExit as error:
        code = error.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _serve() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import torch

    import nanogpt.train  # noqa: F401

    torch.set_num_threads(1)
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    ended: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            pid = os.fork()
            if pid == 0:
                _child(request)
            out.write(json.dumps({"pid": pid}).encode() + b"\n")
        else:
            pid = request["poll"]
            if pid not in ended:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    ended[pid] = os.waitstatus_to_exitcode(status)
            out.write(json.dumps({"rc": ended.get(pid)}).encode() + b"\n")


if __name__ == "__main__":
    _serve()
