"""敌意的文字：一份语料，放进每一个会显示外来文字的地方。

`test_hostile_terminal.py`（真的终端，看字节）与 `test_hostile_clicks.py`（点击，看动作）使用。
"""

import json
import os
import re
from pathlib import Path

from nanogpt.events import EventWriter

# 名字只用字母，好在屏幕上认出来；文件名里不能有的 `/` 与 NUL 由 `as_name` 换掉
CORPUS = {
    "csi": "\x1b[41;97;5mPWN\x1b[3J\x1b[?1337h",
    "osc": "\x1b]52;c;UFdO\x07\x1b]2;PWN\x1b\\",
    "dcs": "\x1bP$qm\x1b\\\x1b[6n\x1bc\x1b%@",
    "cone": "\x9b31m\x9d52;c;UFdO\x9c\x90\x85",
    "bidi": "\u202egnp.exe\u2066x\u2069\u200f\u061c",
    "click": "[@click=app.fire()]XX[/][@click='app.fire']Y[/]",
    "close": "[/bold][/][bold red on blue]Z[link=file:///etc]",
    "lone": "\udcff\udc80lone\udcfe",
    "marks": "e" + "\u0301" * 60 + "n" + "\u20dd" * 9 + "d",
    "wide": "\U0001f469\u200d\U0001f469\u200d\U0001f467\U0001f1e8\U0001f1f3\u2764\ufe0f\u6c49\u5b57\u200b",
    "lines": "a\nb\rc\x0bd\u2028e\x00f\x7fg\tz\x08\x08",
}
# 这些字符无论如何不该出现在送往终端的字节里
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029"
                       "\u202a-\u202e\u2066-\u2069\ufeff]")
# 应用自己会用的控制序列：颜色、光标、清屏、模式的开关、查询终端会什么
OWN = re.compile("\x1b\\[[0-9;:]*[mHGABCDJKd]|\x1b\\[\\?[0-9;]+(?:\\$p|[hl])|\x1b\\[[>=<][0-9]*u|\x1b\\[>q|\x1b\\[\\?u|"
                 "\x1b\\[c|\x1b\\[>4;[0-9]m|\x1b\\([B0]|\x1b[=>]|\x1b\\]22;[a-z]+\a")
LOUD = ("\x1b[41;97;5", "\x1b[3J", "\x1b[?1337", "\x1b]52", "\x1b]2;", "\x1bP", "\x1b[6n", "\x1bc", "\x1b%")


def as_name(key: str) -> str:
    """能当文件名的那一份。"""
    return f"{key}-{CORPUS[key]}".replace("/", "|").replace("\0", "\x01")[:80]


def leaks(raw: bytes) -> list[str]:
    """终端收到的字节里不该有的：语料的序列、C1、双向标记、应用自己从不用的转义。"""
    text = raw.decode("utf-8", "surrogateescape")
    found = [repr(text[max(0, at - 40):at + 40]) for word in LOUD if (at := text.find(word)) >= 0]
    rest = OWN.sub("", text)
    found += [repr(rest[max(0, hit.start() - 40):hit.end() + 40]) for hit in re.finditer("\x1b", rest)][:5]
    found += [repr(rest[max(0, hit.start() - 40):hit.end() + 40]) for hit in FORBIDDEN.finditer(rest)][:5]
    return found + (["a surrogate"] if re.search("[\ud800-\udfff]", text) else [])


def hostile_run(out_dir: Path, text: str, status: str | None = "failed") -> Path:
    """处处写着 `text` 的运行目录。"""
    out_dir.mkdir(parents=True)
    writer = EventWriter(out_dir / "events.jsonl")
    # 键也是外来的
    writer.emit("start", config={"max_iters": 9, "dataset": text, "wandb_run_name": text, text: text,
                                 "learning_rate": 1e-3}, resumed_from_iter=None, params=1000, tokens_per_iter=64,
                world_size=2, device_name=text, peak_flops=None)
    for index in range(9):
        writer.emit("iter", iter=index, loss=3.0 - index / 9, lr=1e-3, grad_norm=1.0, iter_ms=10.0,
                    tokens_per_second=6400.0, mfu=None, memory_mib=100.0)
    writer.emit("rank", rank=1, host=text, iter=8, iter_ms=1.0)
    writer.emit("checkpoint", iter=8, path=text, bytes=1 << 20, save_ms=5.0)
    writer.emit("sample", iter=8, prompt=text, text=text)
    for event in ("warning", "error"):
        writer.emit(event, code=text, message=text, hint=text)
    if status is not None:
        writer.emit("end", status=status, iter=8)
    writer.close()
    raw = text.encode("utf-8", "surrogateescape")
    (out_dir / "events.jsonl").open("ab").write(b"\x1b[3J" + raw + b"\n")
    (out_dir / "console.log").write_bytes(b"".join(b"%d %b\n" % (index, raw) for index in range(20)))
    (out_dir / "notes.md").write_bytes(raw + b" #tag" + raw)
    (out_dir / "ckpt.pt").write_bytes(b"x")
    safe = text.encode("utf-8", "replace").decode()
    (out_dir / "run.json").write_text(json.dumps({"argv": ["train", f"--wandb_run_name={safe}"], "host": safe,
                                                  "pid": 1}), encoding="utf-8")
    (out_dir / "config.toml").write_text(f"wandb_run_name = {toml_text(text)}\n", encoding="utf-8")
    return out_dir


def toml_text(text: str) -> str:
    """TOML 的一个字符串；孤立代理进不了 TOML，成了问号。"""
    return json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")


def hostile_workspace(workspace: Path) -> Path:
    """每一条语料一个运行、一个预设、一个数据集。"""
    for folder in ("runs", "presets", "data"):
        (workspace / folder).mkdir(parents=True)
    for index, (key, text) in enumerate(CORPUS.items()):
        hostile_run(workspace / "runs" / as_name(key), text, "failed" if index % 2 else None)
        words = toml_text(text)
        (workspace / "presets" / f"{as_name(key)}.toml").write_text(
            f'dataset = "tiny"\nwandb_run_name = {words}\n[about]\ntitle = {words}\ndescription = {words}\n'
            f"needs = {words}\n", encoding="utf-8")
        folder = workspace / "data" / as_name(key)
        folder.mkdir()
        script = f"import os\nos.write(1, {text.encode('utf-8', 'surrogateescape')!r} + b'\\nprepared-log\\n')\n"
        (folder / "prepare.py").write_text(script, encoding="utf-8")
    (workspace / "presets" / "broken.toml").write_text('"[/bold]\\u001b[3J" = 1\n', encoding="utf-8")
    broken = workspace / "data" / "broken"
    broken.mkdir()
    for name in ("train.bin", "val.bin"):
        (broken / name).write_bytes(os.urandom(64))
    (broken / "meta.json").write_text('{"tokenizer": "[/bold]\\u001b[3J\\u202e"}', encoding="utf-8")
    return workspace
