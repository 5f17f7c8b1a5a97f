"""界面语言：英文是 msgid,`zh_CN` 是译文目录。

语言依次取自 `--lang`、环境变量 `NANOGPT_LANG`、系统 locale。换语言即时生效，
所以 `_` 要在显示时调用，模块级的文字用 `N_` 标记、显示时再译。
"""

import gettext
import os
from pathlib import Path

LANGUAGES = ("en", "zh")
_CATALOG = {"zh": "zh_CN"}
_LOCALE_DIR = Path(__file__).parent / "locale"
_translation: gettext.NullTranslations = gettext.NullTranslations()
_language = "en"


def N_(message: str) -> str:
    """标记待译的文字而不翻译。"""
    return message


def _(message: str) -> str:
    """`message` 在当前语言里的说法；没有译文时原样返回。"""
    return _translation.gettext(message) if message else ""


def language() -> str:
    """当前语言，`en` 或 `zh`。"""
    return _language


def preferred_language(environ: dict[str, str] | None = None) -> str:
    """环境所要的语言：`NANOGPT_LANG` 在前，随后按 POSIX 的次序看 locale。"""
    environ = dict(os.environ) if environ is None else environ
    for name in ("NANOGPT_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = environ.get(name, "").lower()
        if value:
            return "zh" if value.startswith("zh") else "en"
    return "en"


def use_language(lang: str) -> None:
    """切换界面语言；不认识的语言当作英文。"""
    global _translation, _language
    _language = lang if lang in LANGUAGES else "en"
    catalogs = [_CATALOG[_language]] if _language in _CATALOG else []
    _translation = gettext.translation("nanogpt", _LOCALE_DIR, catalogs, fallback=True)


use_language(preferred_language())
