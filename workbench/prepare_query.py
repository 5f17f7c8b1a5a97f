"""问 `nanogpt.prepare` 一件不写文件的事（预览、检查）：另一个进程，拿回它的 JSON。

`OwnTextScreen` 与 `DoctorScreen` 使用；不再要的时候取消这个协程，进程就被杀掉。
"""

import asyncio
import contextlib
import json
import os
import signal
from typing import Any

from nanogpt.errors import BadInput
from nanogpt.i18n import _, language
from workbench.launch import command_line, python

MODULE = "nanogpt.prepare"


async def query(arguments: list[str]) -> dict[str, Any]:
    """`python -m nanogpt.prepare 参数 --json` 给出的那一个对象；它说不行，就抛出它说的 `BadInput`。"""
    command = python("-m", MODULE, *arguments, "--json")
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, start_new_session=True, env={**os.environ, "NANOGPT_LANG": language()})
    except (OSError, ValueError) as error:
        raise BadInput("cannot_start", _("cannot start the command: {why}").format(why=error), command_line(command),
                       _("check this Python installation")) from error
    try:
        out, said = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    found = _last_object(out)
    if found is None:
        lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
        what = lines[-1] if lines else _("it ended with exit code {n}").format(n=process.returncode)
        raise BadInput("query_failed", what, command_line(command), _("try it in a shell"))
    if found.get("event") == "error":
        raise BadInput(*(str(found.get(key, "")) for key in ("code", "message", "where", "hint")))
    return found


def _last_object(out: bytes) -> dict[str, Any] | None:
    lines = [line for line in out.splitlines() if line.startswith(b"{")]
    try:
        found = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
