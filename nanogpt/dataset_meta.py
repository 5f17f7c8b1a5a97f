"""数据集目录的元数据：读写 `meta.json`，以及读 nanoGPT 的 `meta.pkl` 而不运行其中任何东西。

`nanogpt.dataset` 用它打开与写出数据集；两种文件都可能来自别人，读的时候什么也不信。
"""

import io
import json
import pickle
import pickletools
from pathlib import Path
from typing import Any

from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.tokenizer import MAX_VOCAB_SIZE, check_tokens, tokenizer_from_dict

MAX_META_BYTES = 64 << 20
# 65,536 个字符的词表约需五十万条 pickle 指令；更多的不是词表，逐条检查也太慢（约 1 µs 一条）。
MAX_PICKLE_OPCODES = 2_000_000
# 只够拼出 dict、str、int、list 的指令。没有一条能取得全局名字，也就没有东西可调用。
_OPCODES = {"PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK"}
_OPCODES |= {"EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"}
_OPCODES |= {"BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "BININT", "BININT1", "BININT2", "INT"}
_OPCODES |= {"MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "BINGET", "LONG_BINGET", "GET"}


def read_meta_json(path: Path) -> dict[str, Any]:
    """`meta.json` 的内容，`tokenizer` 与 `vocab_size` 已查过；不合法时抛出 `BadInput`。"""
    data = _read_bounded(path)
    try:
        meta = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise _bad(path, _("broken JSON: {why}").format(why=error.msg), error.lineno, error.colno) from error
    except UnicodeDecodeError as error:
        raise _bad(path, _("not UTF-8 at byte {offset}").format(offset=error.start)) from error
    except (ValueError, RecursionError) as error:
        raise _bad(path, _("broken JSON: {why}").format(why=str(error)[:100])) from error
    if type(meta) is not dict:
        raise _bad(path, _("the outermost value is not an object"))
    for key in ("train_tokens", "val_tokens"):
        if key in meta and (type(meta[key]) is not int or meta[key] < 0):
            raise _bad(path, _("{key} is not a count").format(key=key))
    needed = 1
    if meta.get("tokenizer") is not None:
        needed = _in_file(path, lambda: tokenizer_from_dict(meta["tokenizer"]).vocab_size)
    meta["vocab_size"] = _check_vocab_size(path, meta.get("vocab_size"), needed)
    return meta


def read_meta_pkl(path: Path) -> dict[str, Any]:
    """nanoGPT 的 `meta.pkl`，改写成 `meta.json` 的样子；不合法时抛出 `BadInput`。

    没有 `itos` 的文件（只有 `vocab_size`）也能训练，那时 `tokenizer` 为 None。
    """
    meta = load_plain_pickle(path)
    itos, stoi = meta.get("itos"), meta.get("stoi")
    if itos is None and stoi is None:
        return {"tokenizer": None, "vocab_size": _check_vocab_size(path, meta.get("vocab_size"), 1)}
    # 只查需要的三项，且只查一层：列表可以互相引用甚至引用自己，递归走完可能永远走不完。
    if type(itos) is list:
        itos = dict(enumerate(itos))
    if type(itos) is not dict or any(type(key) is not int for key in itos) or set(itos) != set(range(len(itos))):
        raise _bad(path, _("itos does not map 0, 1, 2, … to characters"))
    tokens = _in_file(path, lambda: check_tokens([itos[i] for i in range(len(itos))]))
    if stoi is not None and stoi != {token: i for i, token in enumerate(tokens)}:
        raise _bad(path, _("stoi is not the inverse of itos"))
    vocab_size = _check_vocab_size(path, meta.get("vocab_size"), len(tokens))
    return {"tokenizer": {"kind": "char", "tokens": tokens}, "vocab_size": vocab_size}


def load_plain_pickle(path: Path) -> dict[str, Any]:
    """读一个只由 dict、str、int、list 组成的 pickle；别的指令一出现就拒绝，什么也不执行。"""
    data = _read_bounded(path)
    try:
        _check_opcodes(path, data)
        meta = _PlainUnpickler(io.BytesIO(data)).load()
    except BadInput:
        raise
    # 残缺的 pickle 能抛出哪些异常没有文档可依，都归为同一句话。
    except Exception as error:
        raise _bad(path, _("broken or truncated pickle: {why}").format(why=str(error)[:100])) from error
    if type(meta) is not dict:
        raise _bad(path, _("the outermost value is not a dict"))
    return meta


class _PlainUnpickler(pickle.Unpickler):
    """第二道防线：即使指令表漏了一条，也取不到任何全局名字。"""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"persistent id {type(pid).__name__}")


def _check_opcodes(path: Path, data: bytes) -> None:
    """逐条看指令。整数限于 32 位，既防超大的 memo 下标吃光内存，也防构造哈希碰撞。"""
    for count, (opcode, arg, offset) in enumerate(pickletools.genops(data)):
        if opcode.name not in _OPCODES:
            raise BadInput(
                "unsafe_pickle",
                _("{file} holds more than dict, str, int and list; it was not run").format(file=path.name),
                _("{file}, byte {offset}: {opcode} {arg}").format(
                    file=path, offset=offset, opcode=opcode.name, arg=str(arg)[:80] if type(arg) is str else ""
                ).rstrip(),
                _("delete it and prepare the dataset again"),
            )
        if count >= MAX_PICKLE_OPCODES or (type(arg) is int and not -(1 << 31) <= arg < 1 << 31):
            raise _bad(path, _("too large for a vocabulary"))
        # memo 是按下标伸长的数组：一条 `LONG_BINPUT 2**31-1` 就要 32 GB。
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(arg or 0) > MAX_PICKLE_OPCODES:
            raise _bad(path, _("too large for a vocabulary"))


def write_meta_pkl(tokens: list[str]) -> bytes:
    """nanoGPT 的 `meta.pkl` 的字节。"""
    itos = dict(enumerate(tokens))
    return pickle.dumps({"vocab_size": len(tokens), "itos": itos, "stoi": {token: i for i, token in itos.items()}})


def write_meta_json(meta: dict[str, Any]) -> bytes:
    """`meta.json` 的字节。非 ASCII 一律转义，所以文件里不会有控制字符。"""
    return json.dumps(meta, ensure_ascii=True, allow_nan=False, indent=1).encode("ascii") + b"\n"


def _read_bounded(path: Path) -> bytes:
    """整个文件，至多 `MAX_META_BYTES`。不是普通文件的（管道、设备）不去打开，打开可能永远等下去。"""
    if not path.is_file():
        raise _bad(path, _("not a regular file"))
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_META_BYTES + 1)
    except OSError as error:
        raise _bad(path, _("cannot be read: {why}").format(why=error.strerror)) from error
    if len(data) > MAX_META_BYTES:
        raise _bad(path, _("larger than {mib} MiB").format(mib=MAX_META_BYTES >> 20))
    return data


def _check_vocab_size(path: Path, vocab_size: Any, needed: int) -> int:
    """`vocab_size` 可以比词表（`needed` 个）大：有人为了对齐把它补成 64 的倍数。"""
    # `type(...) is int` 而不是 `isinstance`：`True` 也是 int。
    if type(vocab_size) is not int or not needed <= vocab_size <= MAX_VOCAB_SIZE:
        why = _("vocab_size is not an integer from {least} to {most}").format(least=needed, most=MAX_VOCAB_SIZE)
        raise _bad(path, why)
    return vocab_size


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _in_file(path: Path, check: Any) -> Any:
    """执行 `check`，给它抛出的 `BadInput` 补上文件名。"""
    try:
        return check()
    except BadInput as error:
        raise BadInput(error.code, error.what, str(path), error.hint) from error


def _bad(path: Path, why: str, line: int = 0, column: int = 0) -> BadInput:
    where = _("{file}, line {line}, column {column}").format(file=path, line=line, column=column) if line else str(path)
    return BadInput(
        "bad_meta",
        _("{file} is not usable: {why}").format(file=path.name, why=why),
        where,
        _("prepare the dataset again; a folder with only the .bin files is read as GPT-2 BPE"),
    )
