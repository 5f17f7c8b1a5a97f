"""随包携带的预设与 `prepare.py` 在哪：仓库里就在根目录，装成 wheel 之后在包内的 `shipped/`。"""

from pathlib import Path


def shipped_dir(kind: str) -> Path:
    """`kind` 为 `presets` 或 `data`；返回随包携带的那个目录（只读，不要往里写）。"""
    inside = Path(__file__).parent / "shipped" / kind
    return inside if inside.is_dir() else Path(__file__).parents[1] / kind


def is_installed_copy(path: Path) -> bool:
    """`path` 是否在安装好的包里面（那里不该写东西）。"""
    return path.resolve().is_relative_to(Path(__file__).parent / "shipped")
