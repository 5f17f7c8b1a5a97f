"""一次采样的进程：`python -m nanogpt.sample`，输出由线程边产生边读来。

采样界面用它。与训练不同，它是前台的活：界面关了就结束；应用被杀时，写断了的管道让它自己退出。
"""

import codecs
import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from nanogpt.errors import BadInput
from nanogpt.i18n import _, language
from nanogpt.prompt import read_prompt
from nanogpt.text import visible
from workbench.launch import command_line, python

# 单个参数的上限是 128 KiB；更长的提示走文件
LONG_PROMPT_BYTES = 100_000
# 失败时 stderr 只看末尾
ERROR_BYTES = 4096


def sampling_command(out_dir: Path, prompt: str, values: Mapping[str, str]) -> list[str]:
    """`prompt` 是文字本身或 `FILE:路径`。"""
    # 整段包着引号的值会被去掉引号，所以再包一层
    quoted = repr(prompt) if len(prompt) >= 2 and prompt[0] == prompt[-1] and prompt[0] in "'\"" else prompt
    return python("-m", "nanogpt.sample", f"--out_dir={out_dir}", f"--start={quoted}",
                  *(f"--{name}={text}" for name, text in values.items()))


class Sampling:
    """一开始就启动进程；提示不合法、启动不了时抛出 `BadInput`。"""

    def __init__(self, out_dir: Path, prompt: str, values: Mapping[str, str]):
        checked = read_prompt(prompt)
        self._folder = tempfile.TemporaryDirectory(prefix="nanogpt-sample-")
        if "\0" in prompt or len(prompt.encode("utf-8")) > LONG_PROMPT_BYTES:
            file = Path(self._folder.name, "prompt.txt")
            file.write_text(checked, encoding="utf-8", newline="")
            prompt = f"FILE:{file}"
        self._errors = Path(self._folder.name, "stderr")
        command = sampling_command(out_dir, prompt, values)
        try:
            with open(self._errors, "wb") as errors:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
                    env={**os.environ, "NANOGPT_LANG": language(), "PYTHONIOENCODING": "utf-8"})
        except (OSError, ValueError) as error:
            self._folder.cleanup()
            raise BadInput("cannot_start", _("cannot start the command: {why}").format(why=error),
                           command_line(command)[:200], _("check this Python installation")) from error
        self.is_cancelled = False
        self._text: list[str] = []
        self._lock = threading.Lock()
        # 守护线程：进程被杀后管道关闭，它随即结束，不拖住应用的退出
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """一直读到管道关闭；半个 UTF-8 字符留到下一块。"""
        assert self._process.stdout is not None
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with self._process.stdout as stream:
            while chunk := os.read(stream.fileno(), 65536):
                with self._lock:
                    self._text.append(decoder.decode(chunk))

    def take(self) -> str:
        """上次以来的新文字，未净化。"""
        with self._lock:
            text, self._text = "".join(self._text), []
        return text

    def is_done(self) -> bool:
        """进程结束而且输出已经读完。"""
        return self._process.poll() is not None and not self._reader.is_alive()

    def cancel(self) -> None:
        self.is_cancelled = True
        with contextlib.suppress(ProcessLookupError):
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def outcome(self) -> tuple[str, bool]:
        """结束后的一句话，与它是不是坏消息；失败时是 stderr 的末尾，已净化。"""
        code = self._process.wait()
        try:
            errors = self._errors.read_bytes()[-ERROR_BYTES:].decode("utf-8", "replace").strip()
        except OSError:
            errors = ""
        self._folder.cleanup()
        if self.is_cancelled:
            return _("cancelled"), False
        if code == 0:
            return _("done"), False
        lines = [visible(line, keep="\t") for line in errors.splitlines()[-4:]]
        return "\n".join([_("sampling ended with exit code {code}").format(code=code), *lines]), True
