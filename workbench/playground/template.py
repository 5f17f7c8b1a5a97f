"""聊天的模板：几轮对话怎样写成给模型的一段文字。用户以 TOML 的样子修改它。

`Conversation.prompt` 用它；`TemplateScreen` 编辑它，`Store` 存下用户自己的。
"""

import json
import tomllib
from dataclasses import dataclass

from nanogpt.errors import BadInput
from nanogpt.i18n import _

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
PLACE = "{text}"
_KEYS = ("system", "user", "assistant", "stop")


@dataclass(frozen=True)
class Template:
    """`user` 与 `assistant` 里的 `{text}` 是那一轮的文字；`system` 写在最前面，原样。"""

    user: str
    assistant: str
    system: str = ""
    stop: tuple[str, ...] = ()

    def around(self, role: str) -> tuple[str, str]:
        """这一角色的文字之前与之后。"""
        before, _place, after = (self.user if role == USER else self.assistant).partition(PLACE)
        return before, after

    def to_toml(self) -> str:
        """可以再读回来的写法；键总是四个。"""
        # JSON 的字符串也是 TOML 的字符串
        rows = {"system": self.system, "user": self.user, "assistant": self.assistant, "stop": list(self.stop)}
        return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in rows.items())


# 冒号后面不写空格：BPE 里它与下一个词是一个 token，留给模型自己写
TEMPLATES = {
    "dialogue": Template("User: {text}\n", "Assistant:{text}\n", stop=("\nUser:",)),
    "questions": Template("Q: {text}\n", "A:{text}\n\n", stop=("\nQ:", "\n\n")),
    "chatml": Template("<|im_start|>user\n{text}<|im_end|>\n", "<|im_start|>assistant\n{text}<|im_end|>\n",
                       stop=("<|im_end|>",)),
    "play": Template("{text}\n\n", "{text}\n\n", stop=("\n\n",)),
}
DEFAULT_TEMPLATE = "dialogue"


def read_template(text: str) -> Template:
    """`to_toml` 的反面；写错了抛出 `BadInput`，说清楚错在哪。"""
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInput("bad_template", _("this is not TOML: {why}").format(why=error), "",
                       _('write name = "text", with \\n for a line break')) from error
    if unknown := sorted(set(found) - set(_KEYS)):
        raise BadInput("bad_template", _("unknown key {key}").format(key=unknown[0]), "", ", ".join(_KEYS))
    stop = found.get("stop", [])
    texts = [found.get(name, "") for name in _KEYS[:3]]
    if not all(isinstance(value, str) for value in texts) or not isinstance(stop, list) \
            or not all(isinstance(item, str) and item for item in stop):
        raise BadInput("bad_template", _("system, user and assistant are texts, stop is a list of texts"))
    for name in ("user", "assistant"):
        if str(found.get(name, "")).count(PLACE) != 1:
            raise BadInput("bad_template", _("{name} needs {place} exactly once").format(name=name, place=PLACE), "",
                           'user = "User: {text}\\n"')
    return Template(texts[1], texts[2], texts[0], tuple(stop))
