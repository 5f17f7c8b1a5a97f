"""用户自己的键：`~/.config/nanogpt-workbench/keys.toml` 里一行一个，键的编号 = 新的键。

应用在第一帧之后读它，交给 Textual 的 `set_keymap`；写错的一条不算数，说清错在哪，别的照用。
`nanogpt-workbench --print-keys` 印出写满默认值的样本。
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from textual.binding import Binding
from textual.keys import KEY_NAME_REPLACEMENTS, Keys, _character_to_key, key_to_character

from nanogpt.i18n import _
from nanogpt.options import did_you_mean
from nanogpt.text import visible

MAX_BYTES = 1 << 20
MODIFIERS = ("ctrl", "alt", "shift", "meta", "super", "hyper")
# 帮助与文档里的写法也认
SPELLINGS = {"esc": "escape", "←": "left", "→": "right", "↑": "up", "↓": "down", "page up": "pageup",
             "page down": "pagedown", "return": "enter"}
_NAMES = {str(key.value) for key in Keys} | set(KEY_NAME_REPLACEMENTS.values())


def keys_file() -> Path:
    root = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(root, "nanogpt-workbench", "keys.toml")


def contexts() -> list[tuple[type, ...]]:
    """同时管键的各组：应用与一屏（连同屏里的部件）；盖在上面的小窗各自一组。导入全部的屏。"""
    from workbench.app import WorkbenchApp
    from workbench.screens.ask import AskScreen
    from workbench.screens.compare import CompareScreen
    from workbench.screens.confirm import ConfirmScreen
    from workbench.screens.doctor import DoctorScreen
    from workbench.screens.help import HelpScreen
    from workbench.screens.inspect import InspectScreen
    from workbench.screens.launch import LaunchScreen
    from workbench.screens.monitor import MonitorScreen
    from workbench.screens.nodes import NodesScreen
    from workbench.screens.note import NoteScreen
    from workbench.screens.own_text import OwnTextScreen
    from workbench.screens.perplexity import PerplexityScreen
    from workbench.screens.picker import PickerScreen
    from workbench.screens.preparing import PreparingScreen
    from workbench.screens.runs import RunsScreen
    from workbench.screens.sample import SampleScreen
    from workbench.screens.save_preset import SavePresetScreen
    from workbench.screens.template import TemplateScreen
    from workbench.widgets.field_form import Choice
    from workbench.widgets.key_list import KeyList
    from workbench.widgets.launch_panes import DatasetPane, MachinePane
    from workbench.widgets.option_form import OptionForm
    from workbench.widgets.path_input import PathInput
    from workbench.widgets.playground_panes import ControlPane, TranscriptPane
    from workbench.widgets.prompt_editor import PromptEditor

    modals = (NoteScreen, ConfirmScreen, PreparingScreen, SavePresetScreen, NodesScreen, HelpScreen, PickerScreen,
              AskScreen, TemplateScreen, PerplexityScreen)
    return [(WorkbenchApp, RunsScreen), (WorkbenchApp, MonitorScreen),
            # 焦点只在其中一块里，所以三块各算各的
            (WorkbenchApp, SampleScreen, ControlPane, KeyList), (WorkbenchApp, SampleScreen, TranscriptPane),
            (WorkbenchApp, SampleScreen, PromptEditor), (WorkbenchApp, CompareScreen), (WorkbenchApp, InspectScreen),
            (WorkbenchApp, LaunchScreen, KeyList, DatasetPane, MachinePane, OptionForm),
            (WorkbenchApp, OwnTextScreen, PathInput), (WorkbenchApp, OwnTextScreen, Choice),
            (WorkbenchApp, DoctorScreen), *[(modal,) for modal in modals]]


def own_bindings(owner: type) -> Iterator[Binding]:
    """`owner` 与它在工作台里的基类的绑定；Textual 自带的不算。"""
    for kind in owner.__mro__:
        if kind.__module__.startswith("workbench."):
            for binding in kind.__dict__.get("BINDINGS", ()):
                yield binding if isinstance(binding, Binding) else Binding(*binding)


def known_bindings() -> list[dict[str, Binding]]:
    """每一组的（编号, 绑定）。"""
    return [{binding.id: binding for owner in group for binding in own_bindings(owner) if binding.id}
            for group in contexts()]


def read_keys(path: Path) -> tuple[dict[str, str], list[str]]:
    """（给 `set_keymap` 的映射, 每处写错的一句话）；没有文件时都空。"""
    try:
        with open(path, "rb") as file:
            document = tomllib.loads(file.read(MAX_BYTES).decode("utf-8"))
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        return {}, [_("cannot read it: {why}").format(why=error.strerror)]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        return {}, [_("this is not TOML: {why}").format(why=visible(str(error), keep=""))]
    return check_keys(dict(_flat(document, "")))


def _flat(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """`run.stop = "S"` 与 `[run]` 下的 `stop = "S"` 是一回事。"""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def check_keys(wanted: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """同 `read_keys`，已拆成（编号, 值）。"""
    groups = known_bindings()
    known = {name: binding for group in groups for name, binding in group.items()}
    keymap: dict[str, str] = {}
    problems = []
    for name, value in wanted.items():
        shown = visible(name, keep="")[:60]
        if name not in known:
            hint = did_you_mean(name, tuple(known))
            problems.append(_("{id}: there is no such key binding").format(id=shown) + (_("; ") + hint if hint else ""))
            continue
        try:
            keymap[name] = ",".join(_keys_of(value))
        except ValueError as error:
            problems.append(f"{shown}: {error}")
    for name in list(keymap):
        if problem := _clash(name, keymap, groups):
            problems.append(problem)
            del keymap[name]
    return _with_neighbours(keymap, groups), problems


def _keys_of(value: Any) -> list[str]:
    """`"s"`、`"ctrl+s, f5"` 或 `["s", "f5"]`，换成 Textual 的名字；不认识的抛出 `ValueError`。"""
    items = value if isinstance(value, list) else [value] if value == "," else str(value).split(",") \
        if isinstance(value, str) else []
    items = [item if item == " " else item.strip() for item in items if isinstance(item, str) and item]
    if not items:
        raise ValueError(_("write a key in quotes, or several in a list"))
    return [_key_of(item) for item in items]


def _key_of(text: str) -> str:
    *modifiers, last = text.split("+") if len(text) > 1 and not text.endswith("++") else [text]
    # 单个字母大小写是两个键，名字则不分
    last = last if len(last) == 1 and last not in SPELLINGS else SPELLINGS.get(last.casefold(), last.casefold())
    last = last if len(last) != 1 else last if last.isalnum() else _character_to_key(last)
    key = "+".join([*map(str.casefold, modifiers), last])
    is_known = key in _NAMES or last in _NAMES or key_to_character(last) is not None
    if not is_known or any(modifier.casefold() not in MODIFIERS for modifier in modifiers):
        raise ValueError(_("{key} is not a key; write one such as s, S, ctrl+s, f5, escape").format(
            key=repr(text)[:40]))
    return key


def _clash(name: str, keymap: Mapping[str, str], groups: list[dict[str, Binding]]) -> str:
    """新的键在同一组里已是别的键；原来就共用的不算。"""
    for group in groups:
        if name not in group:
            continue
        before = set(group[name].key.split(","))
        for other, binding in group.items():
            theirs = set(keymap.get(other, binding.key).split(","))
            shared = set(keymap[name].split(",")) & theirs
            if other != name and shared and not before & set(binding.key.split(",")) & shared:
                return _("{id}: {key} is already {other} ({what}); give that another key too").format(
                    id=name, key=sorted(shared)[0], other=other, what=_(binding.description))
    return ""


def _with_neighbours(keymap: dict[str, str], groups: list[dict[str, Binding]]) -> dict[str, str]:
    """与改了的键共用一个键的，照原样也写上：Textual 换键时会把旧键上的全部绑定拿掉。"""
    found = dict(keymap)
    for group in groups:
        for name in keymap.keys() & group.keys():
            before = set(group[name].key.split(","))
            for other, binding in group.items():
                if before & set(binding.key.split(",")):
                    found.setdefault(other, binding.key)
    return found


def sample() -> str:
    """全部编号与默认的键，都注释掉了；存成 `keys_file()` 再改。"""
    lines = [f"# {keys_file()}"]
    seen: set[str] = set()
    for group in contexts():
        for owner in group:
            rows = [binding for binding in own_bindings(owner) if binding.id and binding.id not in seen]
            lines += ["", f"# {owner.__name__}"] if rows else []
            for binding in rows:
                seen.add(binding.id or "")
                keys = ", ".join(f'"{key.strip()}"' for key in binding.key.split(","))
                lines.append(f"# {binding.id} = [{keys}]  # {_(binding.description)}")
    return "\n".join(lines) + "\n"
