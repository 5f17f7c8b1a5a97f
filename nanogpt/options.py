"""把一个 dataclass 变成命令行：键、默认值、说明与合法范围只写一次，预设、命令行、
`--help` 与工作台的表单都从这里取。

`nanogpt.config` 用 `option` 声明键，用 `parse` 读命令行；本模块不认识任何具体的键。
"""

import ast
import dataclasses
import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_type_hints

from nanogpt.errors import BadInput
from nanogpt.i18n import LANGUAGES, N_, _
from nanogpt.text import visible

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_TYPE_NAMES = {bool: N_("true or false"), int: N_("whole number"), float: N_("number"), str: N_("text")}


@dataclass(frozen=True)
class Option:
    """一个键的全部元数据。`low`/`high` 是闭区间的两端，`below` 是取不到的上界。"""

    name: str
    type: type
    default: Any
    help: str
    group: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    allows_auto: bool = False  # 除本身的类型外还接受 "auto"
    transient: bool = False    # 只对这一次调用有意义，不写进 config.toml

    @property
    def legal(self) -> str:
        """合法取值的一句话，给 `--help` 与报错。"""
        if self.choices:
            return _(", ").join(self.choices)
        text = _(_TYPE_NAMES[self.type])
        if self.low is not None and (self.high is not None or self.below is not None):
            text += _(", ") + f"{self.low:g} <= {self.name} " + (f"<= {self.high:g}" if self.high is not None
                                                         else f"< {self.below:g}")
        elif self.low is not None:
            text += f" >= {self.low:g}"
        return text + (_(" or auto") if self.allows_auto else "")


def option(default: Any, help: str, group: str, **meta: Any) -> Any:
    """声明一个键；`meta` 为 `Option` 的其余字段。"""
    return dataclasses.field(default=default, metadata={"help": help, "group": group, **meta})


def options_of(cls: type) -> dict[str, Option]:
    """`cls` 的全部键，按声明的次序。"""
    types = get_type_hints(cls)
    return {f.name: Option(name=f.name, default=f.default, **{"type": types[f.name], **f.metadata})
            for f in dataclasses.fields(cls)}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """最接近的名字，作为建议的一句话；没有接近的则为空。"""
    close = difflib.get_close_matches(name, list(known), n=2, cutoff=0.6)
    return _("did you mean {names}?").format(names=_(" or ").join(close)) if close else ""


def unknown_key(name: str, known: Iterable[str], where: str) -> BadInput:
    return BadInput("unknown_key", _("unknown key {key}").format(key=visible(name[:80], keep="")), where,
                    did_you_mean(name, known) or _("--help lists every key"))


def coerce(opt: Option, value: Any, where: str) -> Any:
    """把命令行的文字或预设里的值变成键的类型，并检查范围；不合法则 `BadInput`。"""
    if opt.allows_auto and value == "auto":
        return "auto"
    result = _converted(opt.type, value)
    legal = result is not None
    if legal and opt.choices:
        legal = result in opt.choices
    elif legal and opt.type in (int, float):
        legal = not ((opt.low is not None and result < opt.low) or (opt.high is not None and result > opt.high)
                     or (opt.below is not None and result >= opt.below))
    if not legal:
        close = did_you_mean(value, opt.choices) if isinstance(value, str) else ""
        raise BadInput("bad_value", _("{key} cannot be {value}").format(key=opt.name, value=_shown(value)), where,
                       _("legal: {legal}").format(legal=opt.legal) + (_("; ") + close if close else ""))
    return result


def _shown(value: Any) -> str:
    """报错里的值。Python 拒绝把几千位的整数写成十进制，那时只说它太大。"""
    try:
        return repr(value)[:80]
    except ValueError:
        return _("a number that large")


def _converted(kind: type, value: Any) -> Any:
    """换成 `kind` 的值；换不成则 None。"""
    if kind is bool:
        if isinstance(value, bool):
            return value
        text = str(value).strip().lower()
        return True if text in _TRUE else False if text in _FALSE else None
    if kind is str:
        if not isinstance(value, str):
            return None
        return _unquoted(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        if kind is int:
            whole = _whole(value)
            # torch 与文件格式里的整数是 64 位
            return whole if whole is not None and abs(whole) < 1 << 63 else None
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: int | float | str) -> int | None:
    """整数，接受 `1e3`、`1_000`、`64.0`。"""
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"[+-]?\d[\d_]{0,30}", text):
            return int(text)
        value = float(text)
    return int(value) if value == int(value) else None


def _unquoted(text: str) -> str:
    """去掉整段包着的引号：nanoGPT 对值做 `literal_eval`，它的用户会写 `--x="'y'"`。"""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        try:
            literal = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
        return literal if isinstance(literal, str) else text
    return text


@dataclass
class CommandLine:
    """读过的命令行。`values` 只含明说的键。"""

    preset: str | None
    values: dict[str, Any]
    help: bool = False
    debug: bool = False
    lang: str | None = None


def parse(options: dict[str, Option], argv: list[str]) -> CommandLine:
    """`[PRESET] [--key=value | --key value | --flag | --no-flag] ...`。"""
    line = CommandLine(None, {})
    general = {"debug": Option("debug", bool, False, "", ""),
               "lang": Option("lang", str, "", "", "", choices=LANGUAGES)}
    rest = list(argv)
    while rest:
        arg = rest.pop(0)
        if arg in ("-h", "--help"):
            line.help = True
            continue
        if not arg.startswith("--"):
            if line.preset is not None or arg.startswith("-"):
                raise BadInput("bad_argument", _("cannot use the argument {arg}").format(arg=repr(arg)[:80]),
                               _("command line"), _("write --key=value; at most one preset"))
            line.preset = arg
            continue
        name, has_value, text = arg[2:].partition("=")
        name = name.replace("-", "_")
        known = options | general
        if name not in known and not has_value and name.removeprefix("no_") in known \
                and known[name.removeprefix("no_")].type is bool:
            name, has_value, text = name.removeprefix("no_"), "=", "false"
        if name not in known:
            raise unknown_key(f"--{name}", [f"--{key}" for key in known], _("command line"))
        if not has_value:
            text = _following_value(known[name], rest)
        value = coerce(known[name], text, _("command line: {arg}").format(arg=arg))
        if name in general and name not in options:
            setattr(line, name, value)
        else:
            line.values[name] = value
    return line


def _following_value(opt: Option, rest: list[str]) -> str:
    """`--key value` 里的那个值；布尔键可以不带值。"""
    if opt.type is bool:
        follows = bool(rest) and (rest[0].lower() in _TRUE + _FALSE or (opt.allows_auto and rest[0] == "auto"))
        return rest.pop(0) if follows else "true"
    if not rest or rest[0].startswith("--"):
        raise BadInput("missing_value", _("--{key} needs a value").format(key=opt.name), _("command line"),
                       _("legal: {legal}").format(legal=opt.legal))
    return rest.pop(0)


def format_help(usage: str, about: str, options: dict[str, Option]) -> str:
    """`--help` 的全文：每个键的默认值、含义、单位与合法范围。"""
    lines = [_("usage: {usage}").format(usage=usage), "", about]
    group = None
    for opt in options.values():
        if opt.group != group:
            group = opt.group
            lines += ["", _(group)]
        unit = f" [{_(opt.unit)}]" if opt.unit else ""
        lines.append(f"  --{opt.name}={opt.default!r}".replace("'", "") + f"{unit}  ({opt.legal})")
        lines.append(f"      {_(opt.help)}")
    lines += ["", _("every command"),
              f"  --debug  {_('show the traceback of an error')}",
              f"  --lang={'|'.join(LANGUAGES)}  {_('language of messages; also NANOGPT_LANG')}"]
    return "\n".join(lines)
