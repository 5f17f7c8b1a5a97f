"""外来文本的净化：日志、提示、生成的文本、文件名与参数在显示之前都经过这里。"""

import re

# 控制字符、孤立代理、换行与换段，以及双向排版与隐形的标记：不属于 Cc，却能改写整行的样子。
# 逐字查类别要慢几十倍：一屏日志有二十万字。
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029"
                     "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def visible(text: str, keep: str = "\n\t") -> str:
    """把控制字符、转义序列、双向标记与孤立代理显示成看得见的 `\\x1b` 一类写法。

    `keep` 里的字符原样保留。结果总能编码成 UTF-8，且不含任何能驱动终端的字节。
    """
    def shown(found: re.Match[str]) -> str:
        point = ord(found[0])
        return found[0] if found[0] in keep else f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"

    # 能显示的字符里没有一个要换
    return text if text.isprintable() else _UNSAFE.sub(shown, text)
