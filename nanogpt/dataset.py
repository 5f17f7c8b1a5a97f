"""数据集目录：按名字找、打开、检查、写出；只用 numpy。

`nanogpt.prepare` 与 `data/*/prepare.py` 写出它，训练器、采样与工作台读取它。
目录里是 `train.bin` 与 `val.bin`（小端 uint16 的 token id，没有文件头）、`meta.json`，
字符级的还有 nanoGPT 的 `meta.pkl`；nanoGPT 自己的目录（没有 `meta.json`）也能打开。
"""

import difflib
import os
import shlex
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt.dataset_meta import read_meta_json, read_meta_pkl
from nanogpt.dataset_write import TOKEN_TYPE, write_dataset
from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.shipped import shipped_dir
from nanogpt.text import visible

__all__ = [
    "Dataset",
    "check_dataset",
    "check_dataset_name",
    "dataset_dir",
    "list_datasets",
    "open_dataset",
    "write_dataset",
]

SPLITS = ("train", "val")
# 一份至多这么多 token 时全看，否则看首尾与随机的窗口：读 128 MB 约 0.1 s，读 17 GB 要几十秒。
FULL_SCAN_TOKENS = 64 << 20
WINDOW_TOKENS = 1 << 20
RANDOM_WINDOWS = 30


@dataclass(frozen=True)
class Dataset:
    """一个数据集目录。`vocab_size` 为 None 时没有元数据，按 nanoGPT 的惯例就是 GPT-2 BPE。"""

    name: str
    folder: Path
    tokenizer: dict[str, Any] | None
    vocab_size: int | None
    meta: dict[str, Any] = field(default_factory=dict, repr=False)

    def path(self, split: str) -> Path:
        """`split`（`train` 或 `val`）的 `.bin` 文件。"""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}")
        return self.folder / f"{split}.bin"

    def fingerprint(self) -> str:
        """两份 `.bin` 的长短与十几处内容，八位十六进制：同名的数据集重做过没有。小于 1 MiB 的全看。"""
        crc = 0
        for split in SPLITS:
            with open(self.path(split), "rb") as file:
                size = file.seek(0, os.SEEK_END)
                crc = zlib.crc32(str(size).encode("ascii"), crc)
                for i in range(16):
                    file.seek(size * i // 16)
                    crc = zlib.crc32(file.read(1 << 16), crc)
        return f"{crc:08x}"

    def tokens(self, split: str) -> int:
        """`split` 有多少 token，由文件大小算出；文件缺失时抛出 `BadInput`。"""
        path = self.path(split)
        if not path.is_file():
            raise BadInput(
                "split_missing",
                _("dataset {name} has no {file}").format(name=self.name, file=path.name),
                str(path),
                prepare_hint(self.name, self.folder),
            )
        return path.stat().st_size // TOKEN_TYPE.itemsize


def check_dataset_name(name: str) -> str:
    """确认 `name` 只能指向 `data/` 之内，原样返回；否则抛出 `BadInput`。"""
    # 名字会出现在命令、日志与路径里，所以控制字符、双向标记与像选项的开头一并拒绝。
    parts = name.split("/")
    is_safe = (
        0 < len(name) <= 200
        and visible(name, keep="") == name
        and "\\" not in name
        and not name.startswith("-")
        and all(part not in ("", ".", "..") for part in parts)
    )
    if not is_safe:
        raise BadInput(
            "bad_name",
            _("{name} is not a dataset name").format(name=repr(name[:80])),
            "",
            _("use the name of a folder inside data/, such as shakespeare_char"),
        )
    return name


def dataset_dir(name: str, workspace: Path | None = None) -> Path:
    """`name` 已备好的目录：先看工作区的 `data/`，再看随包携带的；哪里都没有时抛出 `BadInput`。

    工作区里自己写的 `prepare.py`（与随包的不同）也占住这个名字，免得悄悄用了同名的另一份数据。
    """
    check_dataset_name(name)
    own, shipped = _workspace_data(workspace) / name, shipped_dir("data") / name
    if _has_bins(own):
        return own
    if _has_bins(shipped) and not _has_own_script(own, shipped):
        return shipped
    raise _missing(name, workspace)


def open_dataset(name: str, workspace: Path | None = None) -> Dataset:
    """打开名为 `name` 的数据集并读它的元数据；`.bin` 的内容由 `check_dataset` 查。"""
    return open_folder(dataset_dir(name, workspace), name)


def open_folder(folder: Path, name: str) -> Dataset:
    """打开目录 `folder`。`meta.json` 优先于 `meta.pkl`，两者都没有时是 nanoGPT 的 GPT-2 目录。"""
    meta: dict[str, Any] = {}
    if (folder / "meta.json").exists():
        meta = read_meta_json(folder / "meta.json")
    elif (folder / "meta.pkl").exists():
        meta = read_meta_pkl(folder / "meta.pkl")
    return Dataset(name, folder, meta.get("tokenizer"), meta.get("vocab_size"), meta)


def check_dataset(dataset: Dataset, block_size: int, vocab_size: int) -> None:
    """训练前的检查：两份都在、长度成双、够一个 `block_size`、id 小于 `vocab_size`；否则抛出 `BadInput`。

    id 的检查至多读约 64M token；更大的文件只看首尾与随机窗口，内存不超过几个窗口。
    """
    for split in SPLITS:
        check_length(dataset, split, block_size)
    for split in SPLITS:
        check_ids(dataset, split, vocab_size)


def check_length(dataset: Dataset, split: str, block_size: int) -> None:
    """只看文件大小的那些检查。取一个样本要 `block_size` 个输入，再加错后一位的目标，所以至少多一个。"""
    tokens, path = dataset.tokens(split), dataset.path(split)
    size = path.stat().st_size
    hint = prepare_hint(dataset.name, dataset.folder)
    if size == 0:
        raise BadInput("split_empty", _("{file} is empty").format(file=path.name), str(path), hint)
    if size % TOKEN_TYPE.itemsize:
        what = _("{file} has an odd length of {bytes} bytes; every token takes two").format(file=path.name, bytes=size)
        raise BadInput("split_odd", what, str(path), hint)
    # 三个文件依次改名；若恰在其间断电，新旧混在一起，长度通常对不上 `meta.json`。
    expected = dataset.meta.get(f"{split}_tokens")
    if expected is not None and expected != tokens:
        what = _("{file} holds {tokens} tokens, but meta.json says {expected}").format(
            file=path.name, tokens=tokens, expected=expected
        )
        raise BadInput("split_changed", what, str(path), hint)
    if tokens < block_size + 1:
        what = _("{file} holds {tokens} tokens, but block_size={block_size} needs at least {least}").format(
            file=path.name, tokens=tokens, block_size=block_size, least=block_size + 1
        )
        fits = _("use more text, or block_size={fits} or less").format(fits=tokens - 1) if tokens > 1 else hint
        raise BadInput("split_too_short", what, str(path), fits)


def check_ids(dataset: Dataset, split: str, vocab_size: int) -> None:
    """越界的 id 在 CPU 上是难懂的 `IndexError`，在 GPU 上是设备端断言，之后整个进程都不能用。"""
    path = dataset.path(split)
    try:
        for start, ids in _windows(path, dataset.tokens(split)):
            if len(ids) and int(ids.max()) >= vocab_size:
                offset = int(np.argmax(ids >= vocab_size))
                raise BadInput(
                    "id_out_of_range",
                    _("{file} holds the token id {id}, but vocab_size is {vocab_size}").format(
                        file=path.name, id=int(ids[offset]), vocab_size=vocab_size
                    ),
                    _("{file}, token {offset}").format(file=path, offset=start + offset),
                    prepare_hint(dataset.name, dataset.folder),
                )
    except OSError as error:
        what = _("{file} cannot be read: {why}").format(file=path.name, why=error.strerror)
        raise BadInput("split_unreadable", what, str(path), prepare_hint(dataset.name, dataset.folder)) from error


def _windows(path: Path, tokens: int) -> Iterator[tuple[int, np.ndarray]]:
    """要看的窗口：`(首个 token 的位置, id)`，各至多 `WINDOW_TOKENS` 个（2 MiB）。"""
    if tokens <= FULL_SCAN_TOKENS:
        starts = list(range(0, tokens, WINDOW_TOKENS))
    else:
        # 种子固定，所以同一文件每次看同样的窗口，报告可以重现。
        middle = np.random.default_rng(1337).integers(0, tokens - WINDOW_TOKENS, RANDOM_WINDOWS)
        starts = [0, *sorted(int(start) for start in middle), tokens - WINDOW_TOKENS]
    with open(path, "rb") as file:
        for start in starts:
            file.seek(start * TOKEN_TYPE.itemsize)
            yield start, np.fromfile(file, dtype=TOKEN_TYPE, count=WINDOW_TOKENS)


def list_datasets(workspace: Path | None = None) -> list[dict[str, Any]]:
    """工作区与随包的数据集，每个一项：`name`、`is_prepared`、`folder`、`tokens`、`vocab_size`、`bytes`、`problem`。

    打不开的也列出，`problem` 说原因。
    """
    rows = []
    for name in known_names(workspace):
        row: dict[str, Any] = {"name": name, "is_prepared": False, "folder": None, "tokens": None}
        row |= {"vocab_size": None, "bytes": None, "problem": ""}
        try:
            dataset = open_dataset(name, workspace)
            tokens = {split: dataset.tokens(split) for split in SPLITS}
            size = sum(dataset.path(split).stat().st_size for split in SPLITS)
            # 大小只由 `stat` 得来；这张表界面会常常刷新，不能去读 17 GB 的文件。
            row |= {"is_prepared": True, "folder": dataset.folder, "tokens": tokens, "bytes": size}
            row["vocab_size"] = dataset.vocab_size
        except BadInput as error:
            row["problem"] = "" if error.code == "dataset_missing" else error.what
        rows.append(row)
    return rows


def known_names(workspace: Path | None = None) -> list[str]:
    """工作区与随包的 `data/` 里，有 `prepare.py` 或 `.bin` 的子目录名。"""
    names = set()
    for root in (_workspace_data(workspace), shipped_dir("data")):
        if root.is_dir():
            names |= {path.name for path in root.iterdir() if _has_bins(path) or (path / "prepare.py").is_file()}
    return sorted(name for name in names if visible(name, keep="") == name)


def prepare_hint(name: str, folder: Path) -> str:
    """怎样备好 `name`：指出确切的命令。`folder` 是它现在或将来所在的目录。"""
    quoted = shlex.quote(name)
    if (folder / "prepare.py").is_file() and folder.parent != shipped_dir("data"):
        return _("run: {command}").format(command=f"python {shlex.quote(f'data/{name}/prepare.py')}")
    if (shipped_dir("data") / name / "prepare.py").is_file():
        is_clone = Path.cwd() / "data" == shipped_dir("data")
        # 在克隆里两种写法都行，给 nanoGPT 的用户熟悉的那种。
        command = f"python data/{quoted}/prepare.py" if is_clone else f"python -m nanogpt.prepare {quoted}"
        return _("run: {command}").format(command=command)
    return _("write train.bin and val.bin (little-endian uint16 token ids) into data/{name}/ again").format(name=name)


def _missing(name: str, workspace: Path | None) -> BadInput:
    """两种情形两种答复：名字认得只是没备好，或根本没有这个名字。"""
    own = _workspace_data(workspace) / name
    known = known_names(workspace)
    shipped = shipped_dir("data") / name
    where = _("looked in {folders}").format(folders=", ".join(dict.fromkeys((str(own), str(shipped)))))
    if name in known or (own / "prepare.py").is_file() or (shipped / "prepare.py").is_file():
        what = _("dataset {name} is not prepared").format(name=name)
        return BadInput("dataset_missing", what, where, prepare_hint(name, own))
    close = difflib.get_close_matches(name, known, n=1)
    guess = _("did you mean {name}? ").format(name=close[0]) if close else ""
    hint = guess + _("known datasets: {known}; for your own text: {command}").format(
        known=", ".join(known), command=f"python -m nanogpt.prepare {shlex.quote(name)} --input FILE")
    return BadInput("dataset_missing", _("there is no dataset {name}").format(name=name), where, hint)


def _workspace_data(workspace: Path | None) -> Path:
    return (Path.cwd() if workspace is None else workspace) / "data"


def _has_bins(folder: Path) -> bool:
    """哪怕只有一份也算：缺的那份由 `check_dataset` 指名，比说整个数据集没有更有用。"""
    return any((folder / f"{split}.bin").exists() for split in SPLITS)


def _has_own_script(own: Path, shipped: Path) -> bool:
    """工作区里有不同于随包的 `prepare.py`。照抄了一份没有改的不算。"""
    script, original = own / "prepare.py", shipped / "prepare.py"
    if not script.is_file():
        return False
    return not original.is_file() or script.read_bytes() != original.read_bytes()
