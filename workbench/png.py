"""把 `Picture` 画成 PNG。Pillow 在导出时才导入；汉字要系统里的字体，找不到时标签写英文，名字写成转义。

`workbench.export` 在线程里调用。
"""

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from nanogpt.i18n import N_, _
from workbench.chart import METRICS, X_AXES
from workbench.picture import HEIGHT, WIDTH, Label, Picture

# 图的像素是点的这么多倍；线先画得再大一倍，缩小之后边缘才平滑
SCALE, SMOOTH = 2, 2
# 拉丁字母与常见符号之外的，自带的字体没有
_LATIN_END = 0x250
FONT_FOLDERS = ("~/.local/share/fonts", "~/.fonts", "~/Library/Fonts", "/usr/local/share/fonts", "/usr/share/fonts",
                "/Library/Fonts", "/System/Library/Fonts")
CJK_FONTS = ("NotoSansCJK-Regular.*", "NotoSansCJKsc-Regular.*", "NotoSansSC-Regular.*", "SourceHanSans*-Regular.*",
             "PingFang.ttc", "Hiragino Sans GB.ttc", "STHeiti Light.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc",
             "DroidSansFallback*.ttf", "NotoSerifCJK-Regular.*", "uming.ttc", "ukai.ttc")
MAX_FACES = 16
# 线的名字里会出现的文字
_CURVES = (N_("train"), N_("smoothed"), N_("validation"), N_("validation, smoothed"))


def write_png(path: Path, picture: Picture) -> None:
    """写不了时抛出 `OSError`。"""
    from PIL import Image, ImageDraw

    factor = SCALE * SMOOTH
    canvas = Image.new("RGB", (WIDTH * factor, HEIGHT * factor), "white")
    draw = ImageDraw.Draw(canvas)
    for line in picture.lines:
        points = [(x * factor, y * factor) for x, y in line.points]
        width = max(1, round(line.width * factor))
        if len(points) > 1:
            draw.line(points, fill=line.color, width=width, joint="curve")
        else:
            x, y = points[0]
            draw.ellipse((x - width, y - width, x + width, y + width), fill=line.color)
    canvas = canvas.resize((WIDTH * SCALE, HEIGHT * SCALE), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(canvas)
    for label in picture.labels:
        _write(draw, label)
    with open(path, "wb") as file:
        canvas.save(file, "PNG", optimize=True)


def _write(draw: Any, label: Label) -> None:
    """字体坏了就不写这一行，图还在。"""
    text, font_file = label.text, ("", 0)
    if any(ord(char) >= _LATIN_END for char in text):
        font_file = cjk_font()
        text = text if font_file[0] else plain(text)
    across = {"start": "l", "middle": "m", "end": "r"}[label.anchor]
    anchor = across + ("m" if label.is_centered else "s")
    try:
        font = _font(font_file, label.size * SCALE)
        draw.text((label.x * SCALE, label.y * SCALE), text, fill=label.color, font=font, anchor=anchor)
    except (OSError, ValueError, ImportError):
        return


def _font(found: tuple[str, int], size: int) -> Any:
    from PIL import ImageFont

    if found[0]:
        return ImageFont.truetype(found[0], size, index=found[1])
    return ImageFont.load_default(size)


@lru_cache(maxsize=1)
def cjk_font() -> tuple[str, int]:
    """系统里有汉字的字体（文件, 第几个字面），优先简体；没有则 `("", 0)`。"""
    from PIL import ImageFont

    for path in _candidates():
        faces = []
        for index in range(MAX_FACES):
            try:
                faces.append(str(ImageFont.truetype(str(path), 12, index=index).getname()[0]))
            except (OSError, ValueError):
                break
        if faces:
            return str(path), next((index for index, name in enumerate(faces) if name.endswith((" SC", " CN"))), 0)
    return "", 0


def _candidates() -> Iterator[Path]:
    """按 `CJK_FONTS` 的次序。"""
    files: dict[str, Path] = {}
    for folder in FONT_FOLDERS:
        for root, _folders, names in os.walk(os.path.expanduser(folder)):
            files |= {name: Path(root, name) for name in names if name not in files}
    for pattern in CJK_FONTS:
        yield from (path for name, path in sorted(files.items()) if path.match(pattern))


def plain(text: str) -> str:
    """没有汉字的字体时：认得的译文换回英文，其余写成 `\\uXXXX`。"""
    known = [*_CURVES, *X_AXES.values(), *(title for title, _iters, _evals in METRICS.values())]
    pairs = {_(message): message for message in known}
    val = _("{name} val").replace("{name}", "")
    pairs[val.strip()] = "val"
    for translated in sorted(pairs, key=len, reverse=True):
        text = text.replace(translated, pairs[translated])
    return "".join(char if ord(char) < _LATIN_END else f"\\u{ord(char):04x}" for char in text)
