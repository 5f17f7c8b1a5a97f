"""复制：OSC 52 交给终端，隔着 tmux 与 SSH 也到得了；另存一份文件，终端不支持时还在。"""

import base64
import os
from pathlib import Path


def osc52(text: str) -> str:
    """让终端收下 `text` 的序列。在 tmux 里既发原样的（`set-clipboard on`）也发包起来的（`allow-passthrough`）。"""
    plain = f"\x1b]52;c;{base64.b64encode(text.encode('utf-8', 'replace')).decode()}\x07"
    if not os.environ.get("TMUX"):
        return plain
    return plain + "\x1bPtmux;" + plain.replace("\x1b", "\x1b\x1b") + "\x1b\\"


def copied_file() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root, "nanogpt-workbench", "copied.txt")


def save_copy(text: str) -> Path:
    """把最近一次复制的内容写进 `copied_file()`，只有自己可读；写不了则抛出 `OSError`。"""
    path = copied_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "w", encoding="utf-8", errors="replace") as file:
        file.write(text + "\n")
    return path
