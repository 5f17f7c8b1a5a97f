"""找到并读入预设：我们的 TOML，或 nanoGPT 的 `config/*.py`。

`nanogpt.config` 由此取得「键 → （值，出处）」；工作台用 `list_presets` 列出可选的预设。
`.py` 只用 `ast` 读，从不执行：只认字面量与算术的赋值，其余按行号拒绝。
"""

import ast
import operator
import time
import tomllib
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.options import did_you_mean
from nanogpt.shipped import shipped_dir

_MAX_BYTES = 1 << 20
Values = dict[str, tuple[Any, str]]


def list_presets(workspace: Path | None = None) -> dict[str, Path]:
    """预设的名字与文件；工作区自己的 `presets/` 盖过随包携带的。"""
    folders = (shipped_dir("presets"), (workspace or Path.cwd()) / "presets")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def find_preset(arg: str, workspace: Path | None = None) -> Path:
    """`arg` 是预设名、`.toml` 或 `.py` 文件。

    nanoGPT 的 `config/<name>.py` 即使不在这里，也认得出随包携带的同名预设。
    """
    path = Path(arg) if "\0" not in arg else Path("?")
    if path.suffix in (".toml", ".py") and path.is_file():
        return path
    known = list_presets(workspace)
    if arg in known:
        # 名字里有点的，如 gpt-1.5b
        return known[arg]
    is_name = path.suffix == "" and path.name == arg
    if (is_name or path.suffix in (".toml", ".py")) and path.stem in known:
        return known[path.stem]
    raise BadInput("no_preset", _("there is no preset {name}").format(name=repr(arg)[:80]), _("command line"),
                   did_you_mean(path.stem, known) or _("known: {names}").format(names=", ".join(sorted(known))))


def read_preset(path: Path, known: Container[str]) -> Values:
    """预设里的键与值，连同各自的出处（文件与行），供报错。"""
    text = _read_text(path)
    return _read_python(text, path, known) if path.suffix == ".py" else _read_toml(text, path)


def read_about(path: Path) -> dict[str, str]:
    """TOML 预设的标题与说明：`title`、`title_zh`、`description`、`description_zh`；没有则为空。"""
    try:
        about = tomllib.loads(_read_text(path)).get("about", {})
    except (ValueError, RecursionError, BadInput):
        return {}
    return {key: value for key, value in about.items() if isinstance(value, str)} if isinstance(about, dict) else {}


def _read_text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise BadInput("bad_preset", _("the preset is larger than 1 MiB"), str(path), _("is it a preset?"))
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        what = _("cannot read the preset: {why}").format(why=error.strerror)
        raise BadInput("bad_preset", what, str(path)) from error
    except UnicodeDecodeError as error:
        raise BadInput("bad_preset", _("the preset is not UTF-8 (byte {n})").format(n=error.start), str(path),
                       _("save it as UTF-8")) from error


def _read_toml(text: str, path: Path) -> Values:
    try:
        document = tomllib.loads(text)
    # 语法错误是 `ValueError` 的一种；几千位的整数则直接抛它
    except (ValueError, RecursionError) as error:
        raise BadInput("bad_preset", _("not valid TOML: {why}").format(why=error), str(path),
                       _('write key = value; text in "quotes", true and false in lower case')) from error
    document.pop("about", None)
    lines = text.splitlines()
    return {key: (value, f"{path}:{_line_of(key, lines)}") for key, value in document.items()}


def _line_of(key: str, lines: list[str]) -> int:
    starts = (i for i, line in enumerate(lines, 1) if line.split("=")[0].strip(" \t\"'[]") == key)
    return next(starts, 1)


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow}


def _read_python(text: str, path: Path, known: Container[str]) -> Values:
    """逐句读 nanoGPT 的配置文件。不是键的中间变量可以有，但必须被后面的式子用到。"""
    try:
        tree = ast.parse(text, str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        raise BadInput("bad_preset", _("not valid Python: {why}").format(why=getattr(error, "msg", error)),
                       f"{path}:{line}", _("write key = value")) from error
    names: dict[str, Any] = {}
    found: Values = {}
    used: set[str] = set()
    for node in tree.body:
        where = f"{path}:{node.lineno}"
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Import) and [(alias.name, alias.asname) for alias in node.names] == [("time", None)]:
            continue
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
            raise _refused_line(where)
        name = node.targets[0].id
        try:
            names[name] = _value(node.value, names, used, where)
        except (ArithmeticError, TypeError, ValueError, RecursionError) as error:
            raise BadInput("bad_preset", _("cannot work this out: {why}").format(why=error), where) from error
        found[name] = (names[name], where)
    return {name: item for name, item in found.items() if name in known or name not in used}


def _refused_line(where: str) -> BadInput:
    return BadInput("bad_preset", _("only assignments of literals and arithmetic are read; nothing is executed"),
                    where, _("write key = value; for more, use a script that calls nanogpt.train"))


def _value(node: ast.expr, names: dict[str, Any], used: set[str], where: str) -> Any:
    """一个式子的值：字面量、前面的变量、算术，以及 nanoGPT 自己用到的 `str(time.time())`。"""
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float, str)):
        return node.value
    if isinstance(node, ast.Name) and node.id in names:
        used.add(node.id)
        return names[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        operand = _value(node.operand, names, used, where)
        return -operand if isinstance(node.op, ast.USub) else +operand
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _value(node.left, names, used, where), _value(node.right, names, used, where)
        both_text = isinstance(left, str) and isinstance(right, str) and isinstance(node.op, ast.Add)
        if not both_text and (isinstance(left, str) or isinstance(right, str)):
            raise _refused_line(where)
        # 大数的乘方能耗尽内存：一行配置用不到那么大的数。
        if isinstance(node.op, ast.Pow) and (abs(left) > 1e6 or abs(right) > 64):
            raise _refused_line(where)
        result = _BINARY[type(node.op)](left, right)
        # 逐行自乘、自加每行翻一倍，几十行就能吃光内存
        if (isinstance(result, int) and result.bit_length() > 128) or (isinstance(result, str) and len(result) > 4096):
            raise _refused_line(where)
        return result
    if isinstance(node, ast.Call) and not node.keywords and isinstance(node.func, (ast.Name, ast.Attribute)):
        called = ast.unparse(node.func)
        if called == "time.time" and not node.args:
            return time.time()
        if called == "str" and len(node.args) == 1:
            return str(_value(node.args[0], names, used, where))
    raise _refused_line(where)
