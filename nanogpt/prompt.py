"""采样的文字一侧：读提示、认停止串、把 token 流变成可以立刻显示的文本。

`nanogpt.sample` 使用；不需要 `torch`，所以坏提示在载入模型之前就有答复。
"""

import json
from pathlib import Path

from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.tokenizer import StreamDecoder, Tokenizer

_MAX_PROMPT_BYTES = 64 << 20


def read_prompt(start: str) -> str:
    """`start` 本身，或 `FILE:路径` 里的文本；读不出、不是 UTF-8、为空则 `BadInput`。"""
    where = "--start"
    if start.startswith("FILE:"):
        path = Path(start[5:])
        where = str(path)
        try:
            with open(path, "rb") as file:
                raw = file.read(_MAX_PROMPT_BYTES + 1)
            if len(raw) > _MAX_PROMPT_BYTES:
                raise BadInput("bad_prompt", _("the prompt is larger than {n} MiB").format(n=_MAX_PROMPT_BYTES >> 20),
                               where, _("only the last block_size tokens count anyway"))
            # 与文本方式的 open 一样统一换行，nanoGPT 就是这样读的
            start = raw.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
        except (OSError, ValueError) as error:
            if isinstance(error, UnicodeDecodeError):
                raise BadInput("bad_prompt", _("the prompt is not UTF-8: byte {n}").format(n=error.start), where,
                               _("save the file as UTF-8")) from error
            why = error.strerror if isinstance(error, OSError) else error
            raise BadInput("bad_prompt", _("cannot read the prompt: {why}").format(why=why), where,
                           _("write --start=FILE:path, or the text itself")) from error
    return check_prompt(start, where)


def check_prompt(text: str, where: str) -> str:
    """`text` 本身；含孤立代理、或为空则 `BadInput`。"""
    broken = next((i for i, char in enumerate(text) if "\ud800" <= char <= "\udfff"), None)
    if broken is not None:
        raise BadInput("bad_prompt", _("the prompt is not UTF-8: character {n}").format(n=broken), where,
                       _("use a UTF-8 terminal, or --start=FILE:path"))
    if not text:
        raise BadInput("bad_prompt", _("the prompt is empty"), where,
                       _("begin with a line break (the default), or <|endoftext|> for GPT-2"))
    return text


def read_stops(stop: str, key: str = "stop") -> list[str]:
    """停止串：一段文字，或一张 JSON 表。`key` 是它的名字，别的同样写法的键也用这里。"""
    if not stop.startswith("["):
        return [stop] if stop else []
    try:
        stops = json.loads(stop)
    except (ValueError, RecursionError):
        return [stop]
    if not isinstance(stops, list) or not all(isinstance(item, str) and item for item in stops):
        raise BadInput("bad_value", _("{key} must be a text or a JSON list of texts").format(key=key), f"--{key}",
                       f'--{key}=\'["a", "b"]\'')
    return stops


class TextStream:
    """逐个收 token，给出可以显示的文本：不含半个 UTF-8 字符，也不含停止串及其开头。"""

    def __init__(self, tokenizer: Tokenizer, stops: list[str]):
        self.stops, self.is_stopped = stops, False
        self.chars = 0  # 已收的 token 里有几个完整的字符，停止串也算
        self._decoder, self._pending = StreamDecoder(tokenizer), ""

    def push(self, token: int) -> str:
        """收下一个 token，返回新增的可显示文本；遇到停止串后 `is_stopped` 为真。"""
        new = self._decoder.push(token)
        self.chars += len(new)
        return self._shown(new)

    def finish(self) -> str:
        """不再有 token：交出还留着的文本。"""
        if self.is_stopped:
            return ""
        shown = self._shown(self._decoder.finish())
        rest, self._pending = self._pending, ""
        return shown + ("" if self.is_stopped else rest)

    def _shown(self, new: str) -> str:
        text = self._pending + new
        ends = [text.find(stop) for stop in self.stops if stop in text]
        if ends:
            self.is_stopped, self._pending = True, ""
            return text[:min(ends)]
        # 停止串可能刚出现一半：只留住这一半
        held = max((n for stop in self.stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        cut = len(text) - held
        self._pending = text[cut:]
        return text[:cut]
