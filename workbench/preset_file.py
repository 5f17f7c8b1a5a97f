"""把改好的键存成工作区的预设：只写与默认值不同的，已有文件里的注释留着。

启动界面调用 `save_preset`；写出的文件用 `python -m nanogpt.train 名字` 就能训练。
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from nanogpt.atomic import write_atomic
from nanogpt.config import TrainConfig
from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.options import options_of

OPTIONS = options_of(TrainConfig)


def is_preset_name(name: str) -> bool:
    return re.fullmatch(r"\w[\w-]{0,60}", name) is not None


def preset_path(name: str, workspace: Path) -> Path:
    """名为 `name` 的预设的文件；名字不能当文件名或会被当成选项时抛出 `BadInput`。"""
    if not is_preset_name(name):
        raise BadInput("bad_name", _("{name} is not a name for a preset").format(name=repr(name)[:80]), "",
                       _("use letters, digits, - and _"))
    return workspace / "presets" / f"{name}.toml"


def save_preset(name: str, values: Mapping[str, Any], workspace: Path) -> Path:
    """写 `presets/<name>.toml`。已有的文件就地改：相同的行不动，回到默认值的键删去，没给的键不管；返回文件。"""
    path = preset_path(name, workspace)
    kept = {key: value for key, value in values.items()
            if not OPTIONS[key].transient and value != OPTIONS[key].default}
    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
    except (OSError, UnicodeDecodeError, TOMLKitError) as error:
        raise BadInput("bad_preset", _("the preset of that name cannot be read: {why}").format(why=error), str(path),
                       _("choose another name")) from error
    is_new, before = not document, document.unwrap()
    for key in [key for key in document if key in values and key not in kept]:
        del document[key]
    for key, value in kept.items():
        if key in document:
            if before[key] != value or type(before[key]) is not type(value):
                document[key] = value
        elif "about" in document:
            # 表之后的键会算进那张表，所以新的键要插在它前面
            about = document.pop("about")
            document.add(key, value)
            document.add("about", about)
        else:
            document.add(key, value)
    if is_new:
        about = tomlkit.table()
        about.add("title", name)
        document.add(tomlkit.nl())
        document.add("about", about)
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, tomlkit.dumps(document))
        path.chmod(0o644)
    except OSError as error:
        raise BadInput("cannot_save", _("cannot write the preset: {why}").format(why=error.strerror), str(path),
                       _("free some space, or make the folder writable")) from error
    return path
