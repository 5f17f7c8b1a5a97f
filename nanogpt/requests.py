"""采样服务的请求：一行 JSON 变成查过的请求，出错的变成 `BadInput`。不需要 `torch`。

`nanogpt.serve` 使用；协议见 `docs/serve.md`。
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from nanogpt.config import SampleConfig, check_config
from nanogpt.errors import BadInput
from nanogpt.i18n import LANGUAGES, _, use_language
from nanogpt.options import coerce, did_you_mean, options_of, unknown_key
from nanogpt.prompt import check_prompt, read_prompt

MAX_LINE_BYTES = 64 << 20
INTERVAL_MS = 30
_CHOICE = ("max_new_tokens", "num_samples", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop",
           "end_of_text", "seed", "window", "logprobs")
# 每种操作认识的键；是 `SampleConfig` 的键的，类型与范围也按它查
KEYS: dict[str, tuple[str, ...]] = {
    "load": ("init_from", "out_dir", "checkpoint", "device", "dtype", "compile", "cuda_graph"),
    "generate": ("prompt", "start", *_CHOICE, "interval_ms"),
    "score": ("text", "score", "stride", "logprobs", "max_tokens"),
    "tokenize": ("text",), "list": ("workspace",), "cancel": ("target",), "unload": (), "shutdown": (),
}
_OPTIONS = options_of(SampleConfig)
_COMMON = ("id", "op", "lang")
Id = str | int | None


@dataclass
class Request:
    """查过的请求。`config` 是服务的默认值加上这个请求的键；`own` 是不属于 `SampleConfig` 的键。"""

    id: Id
    op: str
    config: SampleConfig
    own: dict[str, Any]
    is_cancelled: bool = False


class BadRequest(Exception):
    """读出了 `id`（或没有读出）而不合法的请求；原因是 `__cause__`。"""

    def __init__(self, id: Id, error: BadInput):
        super().__init__(str(error))
        self.id, self.error = id, error


def parse_request(line: bytes, defaults: SampleConfig) -> Request:
    """一行请求；不合法则 `BadRequest`。文本不在这里读：那可能要看文件。"""
    id: Id = None
    try:
        fields = _object(line)
        id = _id(fields.get("id"), "id")
        return _checked(id, fields, defaults)
    except BadInput as error:
        raise BadRequest(id, error) from error


def _object(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise bad_request(_("the line is longer than {n} MiB").format(n=MAX_LINE_BYTES >> 20))
    try:
        fields = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise bad_request(_("broken JSON: {why}").format(why=str(error)[:100])) from error
    if type(fields) is not dict:
        raise bad_request(_("the outermost value is not an object"))
    return {key: value for key, value in fields.items() if value is not None}


def _checked(id: Id, fields: dict[str, Any], defaults: SampleConfig) -> Request:
    op, lang = fields.get("op"), fields.get("lang")
    if type(op) is not str:
        raise bad_request(_("the request has no op"))
    if op not in KEYS:
        raise BadInput("unknown_op", _("unknown operation {op}").format(op=repr(op)[:60]), "op",
                       did_you_mean(op, KEYS) or ", ".join(KEYS))
    if lang is not None and lang not in LANGUAGES:
        raise BadInput("bad_value", _("{key} cannot be {value}").format(key="lang", value=repr(lang)[:60]), "lang",
                       ", ".join(LANGUAGES))
    if lang is not None:
        use_language(lang)  # 这个请求自己的错误也用它
    values: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key, value in fields.items():
        if key in _COMMON:
            continue
        if key not in KEYS[op]:
            raise unknown_key(key, KEYS[op], op)
        if key in _OPTIONS:
            values[key] = _stop(value) if key == "stop" else _value(key, value)
        elif key == "target":
            own[key] = _id(value, key)
        elif key == "interval_ms":
            own[key] = _interval(value)
        else:
            own[key] = _text(key, value)
    config = replace(defaults, **values)
    check_config(config)
    request = Request(id, op, config, own)
    _check_texts(request, values)
    return request


def _check_texts(request: Request, given: dict[str, Any]) -> None:
    """`generate` 与 `score` 的文本有两种给法，恰取其一；`tokenize` 与 `cancel` 必须有。"""
    ways = {"generate": ("prompt", "start"), "score": ("text", "score"), "tokenize": ("text",), "cancel": ("target",)}
    if request.op not in ways:
        return
    names = [name for name in ways[request.op] if name in request.own or name in given]
    if len(names) != 1:
        raise BadInput("missing_value", _("{op} needs one of: {names}").format(
            op=request.op, names=", ".join(ways[request.op])), request.op, "docs/serve.md")


def prompt_text(request: Request) -> str:
    """`generate` 的提示；空的、读不出的 `BadInput`。"""
    if "prompt" in request.own:
        return check_prompt(request.own["prompt"], "prompt")
    return read_prompt(request.config.start)


def _value(key: str, value: Any) -> Any:
    if _OPTIONS[key].type is str:
        value = _text(key, value)
        # 命令行会去掉整段包着的引号；JSON 里的引号就是引号
        return coerce(_OPTIONS[key], value, key) if _OPTIONS[key].choices else value
    return coerce(_OPTIONS[key], value, key)


def _stop(value: Any) -> str:
    """一段文字或一张表，写成 `SampleConfig.stop` 的样子。"""
    texts = [value] if type(value) is str and value else value
    if texts == "" or texts == []:
        return ""
    if type(texts) is not list or not all(type(text) is str and text for text in texts):
        what = _("{key} must be a text or a JSON list of texts").format(key="stop")
        raise BadInput("bad_value", what, "stop", '["a", "b"]')
    return json.dumps(texts)


def _text(key: str, value: Any) -> str:
    if type(value) is not str:
        raise BadInput("bad_value", _("{key} must be a text").format(key=key), key, "")
    return value


def _id(value: Any, key: str) -> Id:
    if type(value) not in (str, int) or len(str(value)) > 200:
        raise bad_request(_("{key} must be a short text or a whole number").format(key=key))
    return value  # type: ignore[no-any-return]


def _interval(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 60_000:
        raise BadInput("bad_value", _("{key} cannot be {value}").format(key="interval_ms", value=repr(value)[:60]),
                       "interval_ms", "0 <= interval_ms <= 60000")
    return float(value)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def bad_request(why: str) -> BadInput:
    return BadInput("bad_request", why, "", _("see docs/serve.md"))


def load_keys(config: SampleConfig) -> dict[str, Any]:
    """与载入有关的键，写进 `ready`。"""
    return {key: asdict(config)[key] for key in ("init_from", "out_dir", "checkpoint")}
