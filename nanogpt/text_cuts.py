"""长文本可以在哪里切开：切成的各段分别编码，接起来与整篇编码逐 token 相同。

GPT-2 的正则先把文本分成词再做 BPE，词的边界就是安全的切点。`nanogpt.bpe` 切内存里的文本，
`nanogpt.prepare_documents` 切装不进内存的文件。
"""

import re
from collections.abc import Iterator

# 非空白之后的空白：正则里没有一种词能跨过这里。`\s+(?!\S)` 看的是后面，所以不能切在空白之后。
_BEFORE_SPACE = re.compile(r"\S(?=[ \n\r])")
# 没有空白的文字（中文）：字母之后的标点。反过来不行，`'s` 一类的缩写以标点开头、字母结尾。
_AFTER_LETTER = re.compile(r"[A-Za-z\u4e00-\u9fff](?=[，。！？；：、,.;:!?])")


def last_cut(text: str, start: int, end: int) -> int:
    """`(start, end]` 里最靠后的切点。一个安全的也没有时切在 `end`，只是不切开 `\\r\\n`。"""
    for pattern in (_BEFORE_SPACE, _AFTER_LETTER):
        # 从后往前、窗口逐次加倍地找，多半几十个字符之内就有
        width, low = 64, end
        while low > start:
            low = max(start, end - width)
            # 看得到 `end` 处的那个字符，先行断言才有依据
            cuts = [match.end() for match in pattern.finditer(text, low, end + 1) if match.end() <= end]
            if cuts:
                return cuts[-1]
            width *= 8
    return end - (end - start > 1 and text[end - 1 : end + 1] == "\r\n")


def first_cut(text: str) -> int | None:
    """`text` 里最靠前的安全切点；没有则 None。"""
    for pattern in (_BEFORE_SPACE, _AFTER_LETTER):
        if match := pattern.search(text):
            return match.end()
    return None


def pieces(text: str, size: int) -> Iterator[str]:
    """把 `text` 切成至多 `size` 个字符的段，接起来就是原文。"""
    start = 0
    while len(text) - start > size:
        cut = last_cut(text, start, start + size)
        yield text[start:cut]
        start = cut
    if start < len(text):
        yield text[start:]
