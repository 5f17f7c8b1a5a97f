"""应用里传递的消息：事实用过去式。属性往下传，消息往上走。"""

from pathlib import Path

from textual.message import Message


class RunsUpdated(Message, bubble=False):
    """轮询有了新东西。`is_list_changed`：目录增减；`changed`：内容有变化的运行目录。一次轮询一条。"""

    def __init__(self, is_list_changed: bool, changed: set[Path]):
        super().__init__()
        self.is_list_changed, self.changed = is_list_changed, changed


class LanguageChanged(Message, bubble=False):
    """界面语言换了：各屏重新取文字。"""
