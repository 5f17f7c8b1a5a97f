"""外来文本的净化：日志、提示、生成的文本、文件名与参数在显示之前都经过这里。"""

import unicodedata

# 双向排版与隐形控制：不属于 Cc，却能改写整行的样子。
_BIDI_AND_INVISIBLE = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def visible(text: str, keep: str = "\n\t") -> str:
    """把控制字符、转义序列、双向标记与孤立代理显示成看得见的 `\\x1b` 一类写法。

    `keep` 里的字符原样保留。结果总能编码成 UTF-8，且不含任何能驱动终端的字节。
    """
    if text.isascii() and text.isprintable():
        return text
    out = []
    for char in text:
        if char in keep:
            out.append(char)
        elif char in _BIDI_AND_INVISIBLE or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp"):
            point = ord(char)
            out.append(f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}")
        else:
            out.append(char)
    return "".join(out)
