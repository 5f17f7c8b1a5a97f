"""要量的那些任务，以及两边都读的数据与各自的工作目录。

任务的键就是配置键：`nanogpt.train` 与 nanoGPT 的 `train.py` 收到同样的一串 `--key=value`。
"""

import importlib.util
import pickle
import shutil
import sys
import sysconfig
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from processes import ROOT

NANOGPT_FILES = ("train.py", "sample.py", "model.py", "configurator.py")
DATASET = "bench"
GPT2_TOKENS = 50257
# nanoGPT 的 `config/train_shakespeare_char.py`；总是在第 0 步评估，所以评估的那一批落在预热里
_CHAR = {"gradient_accumulation_steps": 1, "learning_rate": 1e-3, "min_lr": 1e-4, "beta2": 0.99, "warmup_iters": 100,
         "always_save_checkpoint": False, "log_interval": 1}
_CPU = {"device": "cpu", "dtype": "float32", "compile": False}
_GPT2 = {"gradient_accumulation_steps": 1, "warmup_iters": 10, "always_save_checkpoint": False, "log_interval": 1,
         "n_layer": 12, "n_head": 12, "n_embd": 768, "dropout": 0.0}


@dataclass(frozen=True)
class TrainJob:
    """一个训练任务。`warmup` 步不计时，`steps` 步计时；`whole_iters` 是整个任务的步数。"""

    title: str
    keys: dict[str, Any] = field(hash=False)
    warmup: int
    steps: int
    whole_iters: int
    is_char: bool


JOBS = {
    "J1": TrainJob("nanoGPT's CPU quick start: 4 layers, 4 heads, 128, block 64, batch 12",
                   {**_CHAR, **_CPU, "n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "batch_size": 12,
                    "dropout": 0.0, "lr_decay_iters": 2000}, 50, 300, 2000, True),
    "J2": TrainJob("baby GPT: 6 layers, 6 heads, 384, block 256, batch 64, dropout 0.2",
                   {**_CHAR, **_CPU, "n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "batch_size": 64,
                    "dropout": 0.2, "lr_decay_iters": 5000}, 2, 6, 100, True),
    "J3": TrainJob("GPT-2 124M, block 256, batch 4",
                   {**_GPT2, **_CPU, "block_size": 256, "batch_size": 4}, 2, 5, 20, False),
    "GPU": TrainJob("GPT-2 124M, block 1024, accumulation 1, bf16, compiled",
                    {**_GPT2, "block_size": 1024, "batch_size": 12, "device": "cuda", "dtype": "bfloat16",
                     "compile": True}, 15, 60, 300, False),
}


def flags(keys: dict[str, Any]) -> list[str]:
    """两边都认的命令行。"""
    return [f"--{key}={value}" for key, value in keys.items()]


class Arena:
    """临时的场地：`ours/` 与 `nanogpt/` 两个工作目录，共用一份数据；结束即删。"""

    def __init__(self, nanogpt: Path | None):
        self._temp = tempfile.TemporaryDirectory(prefix="nanogpt-bench-")
        self.path = Path(self._temp.name)
        (self.path / "data").mkdir()
        for side in ("ours", "nanogpt"):
            (self.path / side).mkdir()
            (self.path / side / "data").symlink_to(self.path / "data")
        self.has_nanogpt = nanogpt is not None
        if nanogpt is not None:
            # 复制而不是链接：Python 按真实路径找同目录的模块，会把 __pycache__ 写进别人的仓库
            for name in NANOGPT_FILES:
                shutil.copy(nanogpt / name, self.path / "nanogpt" / name)
            if importlib.util.find_spec("tiktoken") is None:
                # 只为 `sample.py` 开头的导入：我们的数据都有 `meta.pkl`，分词用不到它
                (self.path / "nanogpt" / "tiktoken.py").write_text("", encoding="utf-8")

    def __enter__(self) -> "Arena":
        return self

    def __exit__(self, *_: object) -> None:
        self._temp.cleanup()

    def cwd(self, side: str) -> Path:
        return self.path / side

    def command(self, side: str, script: str, arguments: list[str]) -> list[str]:
        """`script` 为 `train` 或 `sample`。"""
        if side == "ours":
            return [sys.executable, "-u", "-m", f"nanogpt.{script}", *arguments]
        return [sys.executable, "-u", f"{script}.py", *arguments]

    def add_char_data(self, folder: Path | None = None) -> str:
        """字符级数据集；`folder` 是现成的（有 `meta.pkl`），没有就用标准库的源代码做一份。返回来历。"""
        target = self.path / "data" / DATASET
        if folder is not None:
            target.symlink_to(folder.resolve())
            return str(folder)
        write_char_data(target)
        return "made from the standard library's source"

    def add_gpt2_data(self, folder: Path | None = None) -> str:
        """GPT-2 词表的数据集：现成的，或随机的 token（速度与内容无关）。返回来历。"""
        target = self.path / "data" / DATASET
        if folder is not None:
            target.symlink_to(folder.resolve())
            return str(folder)
        target.mkdir()
        rng = np.random.default_rng(1337)
        for split, count in (("train", 10_000_000), ("val", 1_000_000)):
            rng.integers(0, GPT2_TOKENS, count, dtype=np.uint16).astype("<u2").tofile(target / f"{split}.bin")
        return "random tokens"


    def add_text_as_gpt2(self) -> str:
        """标准库的源代码，一个字符一个 id，而词表仍按 GPT-2 的：学得会，损失才看得出两边是否一样。返回来历。"""
        target = self.path / "data" / DATASET
        write_char_data(target, 20_000_000)
        (target / "meta.pkl").unlink()
        return "the standard library's source, one id a character"


def find_char_data(nanogpt: Path | None) -> Path | None:
    """已准备好的 `shakespeare_char`：先看 nanoGPT 的，再看我们的。"""
    for root in filter(None, (nanogpt, ROOT)):
        folder = root / "data" / "shakespeare_char"
        if all((folder / name).is_file() for name in ("train.bin", "val.bin", "meta.pkl")):
            return folder
    return None


def write_char_data(target: Path, most_bytes: int = 2_000_000) -> None:
    """用标准库的源代码（只留 ASCII）写 `train.bin`、`val.bin` 与 nanoGPT 的 `meta.pkl`；不需要网络。"""
    texts: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        texts.append(path.read_text(encoding="utf-8", errors="ignore"))
        if sum(map(len, texts)) > most_bytes:
            break
    text = "".join(char for char in "".join(texts) if char == "\n" or " " <= char <= "~")
    chars = sorted(set(text))
    stoi = {char: i for i, char in enumerate(chars)}
    ids = np.array([stoi[char] for char in text], dtype="<u2")
    target.mkdir(parents=True)
    cut = len(ids) * 9 // 10
    ids[:cut].tofile(target / "train.bin")
    ids[cut:].tofile(target / "val.bin")
    with open(target / "meta.pkl", "wb") as file:
        pickle.dump({"vocab_size": len(chars), "stoi": stoi, "itos": dict(enumerate(chars))}, file)


def write_wide_meta(target: Path, vocab_size: int) -> None:
    """`vocab_size` 个互不相同的字符作词表的 `meta.pkl`：采样不需要 tiktoken 与它的下载。"""
    target.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        np.zeros(4096, dtype="<u2").tofile(target / f"{split}.bin")
    chars = ["\n", *(chr(0x10000 + i) for i in range(1, vocab_size))]
    with open(target / "meta.pkl", "wb") as file:
        pickle.dump({"vocab_size": vocab_size, "stoi": {char: i for i, char in enumerate(chars)},
                     "itos": dict(enumerate(chars))}, file)
