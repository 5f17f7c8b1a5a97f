"""`make keys`：由各屏的 `BINDINGS` 写出 `docs/keys.md` 与 `docs/keys.zh-CN.md`。

`tests/test_keys.py` 守着：页面与绑定一致。键的说明经过 gettext，所以改了译文之后也要再写一遍。
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from nanogpt.i18n import LANGUAGES, _, language, use_language  # noqa: E402
from workbench.app import WorkbenchApp  # noqa: E402
from workbench.keymap import own_bindings  # noqa: E402
from workbench.screens.ask import AskScreen  # noqa: E402
from workbench.screens.compare import CompareScreen  # noqa: E402
from workbench.screens.confirm import ConfirmScreen  # noqa: E402
from workbench.screens.doctor import DoctorScreen  # noqa: E402
from workbench.screens.help import HelpScreen  # noqa: E402
from workbench.screens.inspect import InspectScreen  # noqa: E402
from workbench.screens.launch import LaunchScreen  # noqa: E402
from workbench.screens.monitor import MonitorScreen  # noqa: E402
from workbench.screens.nodes import NodesScreen  # noqa: E402
from workbench.screens.note import NoteScreen  # noqa: E402
from workbench.screens.own_text import OwnTextScreen  # noqa: E402
from workbench.screens.perplexity import PerplexityScreen  # noqa: E402
from workbench.screens.picker import PickerScreen  # noqa: E402
from workbench.screens.preparing import PreparingScreen  # noqa: E402
from workbench.screens.runs import RunsScreen  # noqa: E402
from workbench.screens.sample import SampleScreen  # noqa: E402
from workbench.screens.save_preset import SavePresetScreen  # noqa: E402
from workbench.screens.template import TemplateScreen  # noqa: E402
from workbench.widgets.field_form import Choice  # noqa: E402
from workbench.widgets.hint_bar import key_name  # noqa: E402
from workbench.widgets.key_list import KeyList  # noqa: E402
from workbench.widgets.launch_panes import DatasetPane, MachinePane  # noqa: E402
from workbench.widgets.option_form import OptionForm  # noqa: E402
from workbench.widgets.path_input import PathInput  # noqa: E402
from workbench.widgets.playground_panes import ControlPane, TranscriptPane  # noqa: E402
from workbench.widgets.prompt_editor import PromptEditor  # noqa: E402

PAGES = {"en": ROOT / "docs" / "keys.md", "zh": ROOT / "docs" / "keys.zh-CN.md"}
ARROWS = {"left": "←", "right": "→", "up": "↑", "down": "↓"}
# （英文标题，中文标题，键的主人，绑定之外要说的话：英文，中文）
SECTIONS: tuple[tuple[str, str, type, str, str], ...] = (
    ("Everywhere", "处处可用", WorkbenchApp,
     "Where one types into a field, letters and `?` are text; F1 and Ctrl+Q (quit) work there too.",
     "正在往框里打字时，字母与 `?` 就是文字；F1 与 Ctrl+Q（退出）照样有效。"),
    ("Runs", "运行列表", RunsScreen, "In an empty workspace Enter starts the quick start. In the filter, Enter keeps "
     "it and Esc drops it.", "空的工作区里回车就是快速开始。在过滤框里，回车保留条件，Esc 丢掉。"),
    ("Monitor", "监视", MonitorScreen, "In the search field, Enter searches and Esc gives up.",
     "在搜索框里，回车去找，Esc 放弃。"),
    ("Launch", "启动", LaunchScreen, "", ""),
    ("Launch: every list", "启动：各个列表", KeyList,
     "Arrows, Page Up, Page Down, Home and End work too. Enter chooses the preset, the dataset or the device; on a "
     "config key it opens the editor, or turns true into false.",
     "方向键、Page Up、Page Down、Home、End 也行。回车选中预设、数据集或设备；在配置键上则打开编辑，或把真换成假。"),
    ("Launch: 2 Data", "启动：2 数据", DatasetPane, "", ""),
    ("Data: your own text", "数据：自己的文本", OwnTextScreen,
     "In a field letters are text; the arrows move between the fields.",
     "在框里，字母就是文字；在各项之间移动用方向键。"),
    ("Data: the path", "数据：路径", PathInput, "", ""),
    ("Data: a choice", "数据：选一个", Choice, "", ""),
    ("Data: the check", "数据：检查", DoctorScreen, "", ""),
    ("Launch: 3 Machine", "启动：3 机器", MachinePane, "Its second half takes the keys of the form below.",
     "下半部分用的是下面表单的键。"),
    ("Launch: 4 All keys", "启动：4 全部键", OptionForm, "", ""),
    ("Launch: each machine's command", "启动：各台机器的命令", NodesScreen, "", ""),
    ("Launch: save as a preset", "启动：存为预设", SavePresetScreen,
     "Enter saves; a second Enter changes a preset that is there already.",
     "回车保存；同名的已在时，再按一次回车才改它。"),
    ("Sample", "采样", SampleScreen, "Tab and Shift+Tab move between the editor, the page and the settings. Letters "
     "act on the page and the settings; in the editor they are text.",
     "Tab 与 Shift+Tab 在编辑框、写出来的文字与参数之间移动。字母键管文字与参数；在编辑框里它们就是文字。"),
    ("Sample: the editor", "采样：编辑框", PromptEditor, "`FILE:path` alone in the editor sends the file's text.",
     "编辑框里只写 `FILE:路径`，发出的就是那个文件里的文字。"),
    ("Sample: the page", "采样：写出来的文字", TranscriptPane, "", ""),
    ("Sample: the settings", "采样：参数", ControlPane, "", ""),
    ("Sample: side by side", "采样：并排比较", CompareScreen, "", ""),
    ("Sample: tokens", "采样：逐 token", InspectScreen, "", ""),
    ("Sample: perplexity", "采样：困惑度", PerplexityScreen, "", ""),
    ("Sample: the chat template", "采样：聊天的模板", TemplateScreen, "", ""),
    ("A list to choose from", "选单", PickerScreen, "Letters search.", "打字就是搜索。"),
    ("A name to type", "问一行字", AskScreen, "Enter answers.", "回车就是回答。"),
    ("A note", "备注", NoteScreen, "Enter saves; an empty note is removed.", "回车保存；空的就删掉。"),
    ("A question", "询问", ConfirmScreen, "", ""),
    ("Preparing a dataset", "准备数据集", PreparingScreen, "", ""),
    ("Help", "帮助", HelpScreen, "", ""),
)
OWN_KEYS = """
```toml
[run]
stop = "S"
[monitor]
zoom_in = ["plus", "z"]
```
"""
HEADS = {
    "en": ("# Keys", "[中文](keys.zh-CN.md)", "Every key of every screen, written by `make keys` from the key bindings "
           "themselves. In the app, `?` shows those of the screen in view, and Ctrl+P finds each action by its name."
           "\n\nKeys of your own: `~/.config/nanogpt-workbench/keys.toml` (under `$XDG_CONFIG_HOME` where that is "
           "set): a key's id, and the key or keys that it gets instead.\n" + OWN_KEYS + "\n"
           "`nanogpt-workbench --print-keys` prints a file with every id and its default. A wrong entry (an unknown id "
           "or key, or a key that another action has) is named when the app opens and in its help, and left out; the "
           "others hold.",
           "| keys | name | what it does | id |"),
    "zh": ("# 键", "[English](keys.md)", "各屏的全部键，由 `make keys` 从键的绑定生成。在应用里，`?` 列出当前屏的键，"
           "Ctrl+P 按名字找到每个动作。\n\n"
           "自己的键写在 `~/.config/nanogpt-workbench/keys.toml`（设了 `$XDG_CONFIG_HOME` 就在它下面）："
           "键的编号，以及换成的一个或几个键。\n" + OWN_KEYS + "\n"
           "`nanogpt-workbench --print-keys` 印出列有全部编号与默认键的一份。写错的一条（不认识的编号或键，"
           "或别的动作已占的键）在打开应用时与帮助里指出，不算数；别的照用。",
           "| 键 | 名字 | 作用 | 编号 |")}


def key_text(key: str) -> str:
    """键的写法，不随终端变：箭头总写成箭头。"""
    *modifiers, last = key_name(key).split("+") if key != "plus" else ["+"]
    return "`" + "+".join([*modifiers, ARROWS.get(last, last)]) + "`"


def cell(text: str) -> str:
    """译文里的 `<`、`|` 在 Markdown 的表里另有含义。"""
    return text.replace("<", "&lt;").replace("|", "\\|")


def table(owner: type) -> list[str]:
    rows = []
    for binding in own_bindings(owner):
        keys = " ".join(map(key_text, binding.key.split(",")))
        about = cell(_(binding.tooltip or binding.description))
        rows.append(f"| {keys} | {cell(_(binding.description))} | {about} | `{binding.id}` |")
    return rows


def page(lang: str) -> str:
    """一种语言的整页；用完把语言换回去。"""
    before = language()
    use_language(lang)
    try:
        title, other, intro, head = HEADS[lang]
        parts = [title, other, intro]
        for english, chinese, owner, note, note_zh in SECTIONS:
            parts.append(f"## {english if lang == 'en' else chinese}")
            if note:
                parts.append(note if lang == "en" else note_zh)
            parts.append("\n".join([head, "|---|---|---|---|", *table(owner)]))
        return "\n\n".join(parts) + "\n"
    finally:
        use_language(before)


def main() -> int:
    for lang in LANGUAGES:
        PAGES[lang].write_text(page(lang), encoding="utf-8")
        print(PAGES[lang].relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
