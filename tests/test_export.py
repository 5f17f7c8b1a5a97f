"""导出的图：SVG 与 PNG 画的是同样的线；汉字、外来的名字、没有字体、没有点。约 4 s。"""

import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pilot import write_run
from trainer_fork import ROOT, clean_env

from nanogpt.i18n import use_language
from workbench import png
from workbench.chart import View, curves_of
from workbench.export import export, svg
from workbench.picture import BOTTOM, COLORS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Picture, picture_of
from workbench.watched_run import WatchedRun


@pytest.fixture
def run(tmp_path: Path) -> WatchedRun:
    found = WatchedRun(write_run(tmp_path / "runs" / "alpha", 60))
    found.refresh()
    return found


@pytest.fixture
def _chinese() -> Iterator[None]:
    use_language("zh")
    png.cjk_font.cache_clear()
    yield
    use_language("en")
    png.cjk_font.cache_clear()


def pixels(path: Path) -> np.ndarray:
    """(高, 宽, 3)"""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def has_color(picture: np.ndarray, color: str) -> bool:
    wanted = np.array([int(color[start:start + 2], 16) for start in (1, 3, 5)])
    return bool((np.abs(picture - wanted).sum(axis=2) < 30).any())


def test_png_shows_the_same_lines_as_svg(run: WatchedRun, tmp_path: Path) -> None:
    """SVG 里每条折线的每个顶点，在 PNG 的同一处也有墨；框外的空白处没有。"""
    files = export(tmp_path, [run], View())
    kinds = [path.suffix for path in files]
    assert kinds == [".csv", ".svg", ".png"] and all(path.parent == tmp_path / "exports" for path in files)
    image = pixels(files[2])
    assert image.shape == (HEIGHT * png.SCALE, WIDTH * png.SCALE, 3)
    assert struct.unpack(">II", files[2].read_bytes()[16:24]) == (WIDTH * png.SCALE, HEIGHT * png.SCALE)
    tree = ElementTree.fromstring(files[1].read_text(encoding="utf-8"))
    lines = [node for node in tree.iter() if node.tag.endswith("polyline")]
    # 原始、平滑、评估，外加框与格线
    assert {COLORS[245], COLORS[33], COLORS[208]} <= {node.get("stroke") for node in lines}
    for node in lines:
        for pair in (node.get("points") or "").split():
            x, y = (round(float(number) * png.SCALE) for number in pair.split(","))
            near = image[max(0, y - 3):y + 4, max(0, x - 3):x + 4]
            assert near.min() < 240, (node.get("stroke"), pair)
    assert image[:8].min() > 250 and all(has_color(image, COLORS[color]) for color in (245, 33, 208))
    inside = image[TOP * 2 + 4:(HEIGHT - BOTTOM) * 2 - 4, LEFT * 2 + 4:(WIDTH - RIGHT) * 2 - 4]
    assert (inside.min(axis=2) > 250).mean() > 0.9


@pytest.mark.usefixtures("_chinese")
def test_chinese_is_written_where_a_font_has_it(run: WatchedRun, tmp_path: Path) -> None:
    if not png.cjk_font()[0]:
        pytest.skip("no CJK font on this machine")
    picture = picture_of(curves_of([run], View()), View(), "甲乙丙")
    assert "甲乙丙" in svg(picture) and "训练" in svg(picture)
    png.write_png(tmp_path / "zh.png", picture)
    title = pixels(tmp_path / "zh.png")[20:56, LEFT * 2:LEFT * 2 + 92]
    # 三个字各不相同：不是三个一样的方框
    glyphs = [title[:, start:start + 30] for start in (0, 30, 60)]
    assert all((glyph < 128).any() for glyph in glyphs)
    assert not np.array_equal(glyphs[0], glyphs[1]) and not np.array_equal(glyphs[1], glyphs[2])


@pytest.mark.usefixtures("_chinese")
def test_without_a_font_it_falls_back_to_english(run: WatchedRun, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """没有字体的机器：文件夹都空。标签变回英文，名字写成转义；坏字体也不倒。"""
    assert png.plain("训练") == "train" and png.plain("alpha 验证") == "alpha val" and png.plain("损失 / 步数") == \
        "loss / iterations" and png.plain("甲") == "\\u7532"
    broken = tmp_path / "fonts"
    broken.mkdir()
    for folder in (tmp_path / "none", broken):
        monkeypatch.setattr(png, "FONT_FOLDERS", (str(folder),))
        png.cjk_font.cache_clear()
        (broken / "wqy-zenhei.ttc").write_bytes(b"not a font")
        assert png.cjk_font() == ("", 0)
        png.write_png(tmp_path / "out.png", picture_of(curves_of([run], View()), View(), "甲"))
        assert has_color(pixels(tmp_path / "out.png"), COLORS[33])


def test_hostile_names_and_empty_charts(tmp_path: Path) -> None:
    found = WatchedRun(write_run(tmp_path / "runs" / "<script>&\x1b]52;c;aGk=\x07\u202e", 1))
    found.refresh()
    files = export(tmp_path, [found], View(metric="mfu", is_log=True))
    text = files[1].read_text(encoding="utf-8")
    assert "\x1b" not in text and "<script>" not in text and ElementTree.fromstring(text) is not None
    assert pixels(files[2]).shape[2] == 3
    png.write_png(tmp_path / "empty.png", Picture())
    assert pixels(tmp_path / "empty.png").min() == 255


def test_pillow_waits_for_the_first_export(tmp_path: Path) -> None:
    """打开监视界面不导入 Pillow，导出时才导入。"""
    script = ("import sys, workbench.app, workbench.screens.monitor, workbench.export, workbench.png\n"
              "assert 'PIL' not in sys.modules\n")
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=clean_env(PYTHONPATH=str(ROOT)),
                   timeout=60)
