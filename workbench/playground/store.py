"""采样界面的文件：提示的历史、自己的参数组与模板、存下的对话。只读时什么也不写。

历史与参数在工作区的 `.nanogpt/playground/`，对话在 `transcripts/`，都只有自己可读。格式见 `docs/playground.md`。
"""

import contextlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from nanogpt.atomic import write_atomic
from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.text import visible
from workbench.playground.conversation import Conversation
from workbench.playground.template import Template, read_template

KEPT_PROMPTS = 200
# 一条历史至多这么多字符：整本书不进历史
PROMPT_CHARACTERS = 20_000
MAX_BYTES = 64 << 20


class Store:
    """`workspace` 里的文件。写不了时抛出 `BadInput`。"""

    def __init__(self, workspace: Path, is_read_only: bool = False):
        self.folder = workspace / ".nanogpt" / "playground"
        self.transcripts = workspace / "transcripts"
        self.is_read_only = is_read_only
        self.prompts = self._read_prompts()

    # ---- 历史 ----

    def _read_prompts(self) -> list[str]:
        found = []
        for line in _lines(self.folder / "history.jsonl"):
            with contextlib.suppress(ValueError, RecursionError):
                text = json.loads(line)
                if isinstance(text, str) and text:
                    found.append(text)
        return found[-KEPT_PROMPTS:]

    def remember(self, prompt: str) -> None:
        """记下一条提示；重复的挪到最后。写不下也无妨：历史不要紧。"""
        if not prompt.strip() or len(prompt) > PROMPT_CHARACTERS:
            return
        self.prompts = [*(text for text in self.prompts if text != prompt), prompt][-KEPT_PROMPTS:]
        with contextlib.suppress(BadInput):
            self._write(self.folder / "history.jsonl",
                        "".join(json.dumps(text) + "\n" for text in self.prompts))

    # ---- 参数组与模板 ----

    def read_presets(self) -> dict[str, dict[str, str]]:
        """自己的参数组：名字 → 改动的键与文字。读不懂的跳过。"""
        found = self._read_object("presets.json")
        return {name: {key: text for key, text in values.items() if isinstance(text, str)}
                for name, values in found.items() if isinstance(values, dict)}

    def save_preset(self, name: str, values: dict[str, str]) -> None:
        self._save_in("presets.json", name, values)

    def read_templates(self) -> dict[str, Template]:
        found = {}
        for name, text in self._read_object("templates.json").items():
            with contextlib.suppress(BadInput):
                found[name] = read_template(text if isinstance(text, str) else "")
        return found

    def save_template(self, name: str, template: Template) -> None:
        self._save_in("templates.json", name, template.to_toml())

    def _read_object(self, file: str) -> dict[str, Any]:
        try:
            found = json.loads(_read(self.folder / file))
        except (OSError, ValueError, RecursionError):
            return {}
        return {str(name): value for name, value in found.items()} if isinstance(found, dict) else {}

    def _save_in(self, file: str, name: str, value: Any) -> None:
        name = name.strip()
        if not name or len(name) > 60:
            raise BadInput("bad_name", _("{name} is not a name").format(name=repr(name)[:80]), "",
                           _("use 1 to 60 characters"))
        found = {**self._read_object(file), name: value}
        self._write(self.folder / file, json.dumps(found, ensure_ascii=False, indent=1) + "\n")

    # ---- 对话 ----

    def save_transcript(self, conversation: Conversation, name: str, **more: Any) -> Path:
        """存成 `transcripts/NAME.json`；`more` 是对话之外的键（模型、参数、模板）。名字空着就用时间。"""
        name = name.strip() or time.strftime("%Y%m%d-%H%M%S")
        if re.fullmatch(r"\w[\w.-]{0,80}", name) is None:
            raise BadInput("bad_name", _("{name} is not a name for a file").format(name=repr(name)[:80]), "",
                           _("use letters, digits, - and _"))
        path = self.transcripts / (name if name.endswith(".json") else f"{name}.json")
        text = json.dumps({**conversation.to_json(), **more}, ensure_ascii=False, indent=1)
        self._write(path, text + "\n")
        return path

    def list_transcripts(self) -> list[Path]:
        """存下的对话，新的在前。"""
        found = []
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.transcripts):
                if entry.name.endswith(".json") and entry.is_file():
                    found.append((entry.stat().st_mtime, Path(entry.path)))
        return [path for _time, path in sorted(found, reverse=True)]

    def read_transcript(self, path: Path) -> tuple[Conversation, dict[str, Any]]:
        """（对话, 整个 JSON）；读不了则 `BadInput`。"""
        try:
            found = json.loads(_read(path))
        except OSError as error:
            why = _("cannot read it: {why}").format(why=error.strerror)
            raise BadInput("bad_transcript", why, str(path)) from error
        except (ValueError, RecursionError) as error:
            raise BadInput("bad_transcript", _("this is not a transcript of the playground"), str(path),
                           _("see docs/playground.md for the format")) from error
        return Conversation.from_json(found), found

    def _write(self, path: Path, text: str) -> None:
        if self.is_read_only:
            raise BadInput("read_only",
                           _("This is a read-only view: nothing is started, stopped, deleted or written."))
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(path, text)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise BadInput("cannot_save", _("cannot write the file: {why}").format(why=why), visible(str(path)),
                           _("free some space, or make the folder writable")) from error


def _read(path: Path) -> str:
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError
    return data.decode("utf-8")


def _lines(path: Path) -> list[str]:
    try:
        return _read(path).split("\n")
    except (OSError, ValueError):
        return []
