"""各测试共用的装备：一份小数据集、一个干净环境里的训练器、隔离用户自己的设置。

数据取自本仓库自己的源代码，所以离线也有，而且是真的文字。
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from trainer_fork import ROOT, TrainerServer, clean_env

# 平常的 `make test` 里，同一条路走过一遍就够；别的语言、别的大小、足数的遍数要 NANOGPT_WORKBENCH_SLOW=1
IS_SLOW = os.environ.get("NANOGPT_WORKBENCH_SLOW") == "1"
slow = pytest.mark.skipif(not IS_SLOW, reason="set NANOGPT_WORKBENCH_SLOW=1")
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_bpe = pytest.mark.skipif(not (SHARED / "tiktoken_cache").is_dir(), reason="no GPT-2 BPE files here")
# 几千个参数的模型：一步约 3 ms
TINY_MODEL = ("--n_layer=2", "--n_head=2", "--n_embd=16", "--block_size=16")
TINY = (*TINY_MODEL, "--dataset=tiny", "--batch_size=4", "--gradient_accumulation_steps=2", "--dropout=0.1",
        "--eval_iters=2", "--eval_interval=2", "--max_iters=6", "--warmup_iters=2", "--lr_decay_iters=6",
        "--learning_rate=1e-2", "--min_lr=1e-3", "--device=cpu", "--dtype=float32", "--compile=False")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """外面的语言与分布式变量不该左右测试。"""
    for name in ("NANOGPT_LANG", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")


def make_tiny_dataset(folder: Path) -> None:
    """字符级的小数据集，15,000 个字符，`tests/tiny.txt`：本仓库某一天的源代码，不随它变，快照与损失才不变。"""
    import numpy as np

    from nanogpt.dataset import write_dataset
    from nanogpt.tokenizer import CharTokenizer

    text = (ROOT / "tests" / "tiny.txt").read_bytes().decode("ascii")
    tokenizer = CharTokenizer(sorted(set(text) | {chr(i) for i in range(32, 127)} | {"\n"}))
    ids = np.array(tokenizer.encode(text), dtype=np.uint16)
    write_dataset(folder, tokenizer, {"train": ids[:13000], "val": ids[13000:]}, source="nanogpt/*.py")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """一个空的工作区，里面只有数据集 `tiny`。训练器以它为工作目录，`out_dir` 也相对于它。"""
    make_tiny_dataset(tmp_path / "data" / "tiny")
    return tmp_path


@pytest.fixture
def train(workspace: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`train("--key=value", ...)`：真的命令 `python -m nanogpt.train TINY... 参数`，等它结束。"""

    def run(*args: str, env: dict[str, str] | None = None, tiny: bool = True, timeout: float = 90,
            **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nanogpt.train", *(TINY if tiny else ()), *args]
        return subprocess.run(command, cwd=options.pop("cwd", workspace), env=clean_env(**(env or {})), text=True,
                              capture_output=True, timeout=timeout, check=False, encoding="utf-8", **options)

    return run


@pytest.fixture(scope="session")
def trainer_server() -> Iterator[TrainerServer]:
    """载入过 torch、等着分叉的进程；每个 pytest 进程一个，用到时才起。"""
    server = TrainerServer()
    yield server
    server.close()


@pytest.fixture
def fork_train(workspace: Path, trainer_server: TrainerServer) -> Callable[..., Any]:
    """同 `train`，但由 `trainer_server` 分叉，快十倍；返回 `trainer_fork.Run`（`returncode`、`output`）。"""

    def run(*args: str, tiny: bool = True, wait: bool = True, **options: Any) -> Any:
        start = trainer_server.train if wait else trainer_server.start
        return start(options.pop("cwd", workspace), *(TINY if tiny else ()), *args, **options)

    return run


def pytest_configure() -> None:
    """pytest 的进程自己也载入 torch 时，只用一个线程：两个进程共用两个核。"""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
