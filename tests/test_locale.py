"""中文目录：每条都译了，占位符对得上，`.mo` 与 `.po` 一致，真的进程按环境说话。约 5 秒。"""

import gettext
import io
import os
import re
import subprocess
import sys

import pytest
from babel.messages.catalog import Message
from babel.messages.mofile import read_mo
from locale_tool import MO, ROOT, committed, extract, mo_bytes

PLACEHOLDER = re.compile(r"\{[^}]*\}|%\(\w+\)s|%%")
HAN = "\u4e00-\u9fff"
LANGUAGE_VARIABLES = ("NANOGPT_LANG", "LC_ALL", "LC_MESSAGES", "LANG")


def messages() -> list[Message]:
    return [message for message in committed() if message.id]


def run(module: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in LANGUAGE_VARIABLES}
    return subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, encoding="utf-8", timeout=60,
                          env={**clean, "PYTHONIOENCODING": "utf-8", **environ}, capture_output=True, check=False)


def test_every_message_is_in_the_catalog() -> None:
    """源代码与仓库里的目录，msgid 恰好相同；不同时运行 `make locale`。"""
    wanted = {message.id for message in extract() if message.id}
    found = {message.id for message in messages()}
    assert len(wanted) > 300
    assert wanted - found == set(), "run `make locale`, translate, and run it again"
    assert found - wanted == set(), "run `make locale`"


def test_nothing_is_untranslated_or_fuzzy() -> None:
    assert [message.id for message in messages() if not message.string or message.fuzzy] == []


def test_mo_is_the_compiled_po() -> None:
    """比内容而不比字节：抬头里有 babel 的版本号。"""
    with open(MO, "rb") as file:
        found = gettext.GNUTranslations(file)
    wanted = gettext.GNUTranslations(io.BytesIO(mo_bytes(committed())))
    assert {message.id: found.gettext(message.id) for message in messages()} \
        == {message.id: wanted.gettext(message.id) for message in messages()}, "run `make locale`"
    with open(MO, "rb") as file:
        assert {message.id for message in read_mo(file) if message.id} == {message.id for message in messages()}


def test_placeholders_agree() -> None:
    """少一个占位符会丢信息，多一个会在报错时再出错。"""
    wrong = [message.id for message in messages()
             if sorted(PLACEHOLDER.findall(message.id)) != sorted(PLACEHOLDER.findall(message.string))]
    assert wrong == []


def test_flags_survive_translation() -> None:
    """`--key` 是要照抄的：译文里的必须与原文里的相同。"""
    flags = re.compile(r"--[a-z_]+(?:-[a-z]+)*")
    wrong = [message.id for message in messages()
             if set(flags.findall(message.id)) != set(flags.findall(message.string))]
    assert wrong == []


def test_chinese_is_set_properly() -> None:
    """全角标点；汉字与西文之间一个空格。"""
    bad = re.compile(f"[{HAN}][,;:!?(]|[,;!?)][{HAN}]|[{HAN}][A-Za-z0-9`]|[A-Za-z0-9`][{HAN}]")
    assert [message.string for message in messages() if bad.search(message.string)] == []


@pytest.mark.parametrize("module", ["nanogpt.train", "nanogpt.sample", "nanogpt.bench", "workbench"])
def test_help_in_chinese(module: str) -> None:
    """`--help` 里每一行说明都是中文。"""
    done = run(module, "--help", NANOGPT_LANG="zh")
    assert done.returncode == 0, done.stderr
    assert re.search(f"用法：.*[{HAN}]", done.stdout, re.S)
    explained = [line for line in done.stdout.splitlines() if line.startswith("      ") and line.strip()]
    plain = [line.strip() for line in explained if not re.search(f"[{HAN}]", line)]
    assert set(plain) <= {"torch.compile"} or module == "workbench", plain


def test_errors_in_chinese() -> None:
    done = run("nanogpt.train", "--max_iters=x", NANOGPT_LANG="zh")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["错误：max_iters 不能是 'x'", "  位置：命令行：--max_iters=x",
                                        "  办法：取值应为 整数 >= 0"]


@pytest.mark.parametrize(("environ", "is_chinese"), [
    ({"LANG": "zh_CN.UTF-8"}, True),
    ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_TW.UTF-8"}, True),
    ({"LANG": "zh_CN.UTF-8", "NANOGPT_LANG": "en"}, False),
    ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, False),
    ({}, False),
])
def test_language_follows_the_environment(environ: dict[str, str], is_chinese: bool) -> None:
    """`NANOGPT_LANG` 在前，随后是 locale；都没有则英文。"""
    done = run("nanogpt.sample", "--nonsense=1", **environ)
    assert done.returncode == 2
    assert done.stderr.startswith("错误：" if is_chinese else "error: "), done.stderr


def test_the_flag_goes_before_the_environment() -> None:
    done = run("nanogpt.train", "--help", "--lang=en", NANOGPT_LANG="zh")
    assert done.stdout.startswith("usage: "), done.stdout[:200]


def test_a_missing_translation_falls_back_to_english() -> None:
    with open(MO, "rb") as file:
        catalog = gettext.GNUTranslations(file)
    assert catalog.gettext("no such message") == "no such message"
    assert catalog.gettext("disk full") == "磁盘已满"
