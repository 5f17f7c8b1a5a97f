"""随包的预设：读得进，只写与默认不同的，经命令行与 config.toml 往返不变，与 nanoGPT 的相同，跑得动。约 10 秒。"""

import dataclasses
import os
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from trainer_fork import ROOT

from nanogpt.config import TrainConfig, load_config, saved_values
from nanogpt.presets import find_preset, list_presets, read_about
from nanogpt.rundir import RunDir
from nanogpt.shipped import shipped_dir

NAMES = ("eval_gpt2", "eval_gpt2_large", "eval_gpt2_medium", "eval_gpt2_xl", "finetune_shakespeare", "quickstart",
         "train_gpt2", "train_gpt2_modern", "train_shakespeare_char", "train_shakespeare_char_cpu",
         "train_shakespeare_char_modern", "train_shakespeare_char_mps")
CHECKOUT = Path(os.environ.get("NANOGPT", "/nowhere")) / "config"

_EVAL = {"batch_size": 8, "eval_iters": 500, "eval_only": True, "wandb_log": False}
_CHAR = {"out_dir": "out-shakespeare-char", "eval_interval": 250, "eval_iters": 200, "log_interval": 10,
         "always_save_checkpoint": False, "wandb_log": False, "wandb_project": "shakespeare-char",
         "wandb_run_name": "mini-gpt", "dataset": "shakespeare_char", "gradient_accumulation_steps": 1,
         "batch_size": 64, "block_size": 256, "n_layer": 6, "n_head": 6, "n_embd": 384, "dropout": 0.2,
         "learning_rate": 1e-3, "max_iters": 5000, "lr_decay_iters": 5000, "min_lr": 1e-4, "beta2": 0.99,
         "warmup_iters": 100}
# nanoGPT 的 config/*.py 里的值；`_cpu` 与 `_mps` 是它的 README 里的写法
NANOGPT_VALUES: dict[str, dict[str, Any]] = {
    "eval_gpt2": {**_EVAL, "init_from": "gpt2"}, "eval_gpt2_medium": {**_EVAL, "init_from": "gpt2-medium"},
    "eval_gpt2_large": {**_EVAL, "init_from": "gpt2-large"}, "eval_gpt2_xl": {**_EVAL, "init_from": "gpt2-xl"},
    "finetune_shakespeare": {
        "out_dir": "out-shakespeare", "eval_interval": 5, "eval_iters": 40, "wandb_log": False,
        "wandb_project": "shakespeare", "wandb_run_name": "ft", "dataset": "shakespeare", "init_from": "gpt2-xl",
        "always_save_checkpoint": False, "batch_size": 1, "gradient_accumulation_steps": 32, "max_iters": 20,
        "learning_rate": 3e-5, "decay_lr": False},
    "train_gpt2": {
        "wandb_log": True, "wandb_project": "owt", "wandb_run_name": "gpt2-124M", "batch_size": 12, "block_size": 1024,
        "gradient_accumulation_steps": 40, "max_iters": 600000, "lr_decay_iters": 600000, "eval_interval": 1000,
        "eval_iters": 200, "log_interval": 10, "weight_decay": 1e-1},
    "train_shakespeare_char": _CHAR,
    "train_shakespeare_char_cpu": {
        **_CHAR, "device": "cpu", "compile": False, "eval_iters": 20, "log_interval": 1, "block_size": 64,
        "batch_size": 12, "n_layer": 4, "n_head": 4, "n_embd": 128, "max_iters": 2000, "lr_decay_iters": 2000,
        "dropout": 0.0},
    "train_shakespeare_char_mps": {**_CHAR, "device": "mps", "compile": False},
}


def load(*argv: str) -> TrainConfig:
    return load_config(TrainConfig, list(argv), "", "")[0]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_all_are_there() -> None:
    assert tuple(sorted(list_presets())) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_holds_only_differences(name: str) -> None:
    """每个键都有用：没有一个与默认相同。"""
    document = tomllib.loads((shipped_dir("presets") / f"{name}.toml").read_text(encoding="utf-8"))
    about = document.pop("about")
    defaults = TrainConfig()
    same = {key for key, value in document.items() if getattr(defaults, key) == value}
    assert not same
    assert set(about) == {"title", "title_zh", "description", "description_zh", "needs"}
    assert all(about.values()) and about == read_about(shipped_dir("presets") / f"{name}.toml")
    for key in ("title", "description"):
        assert about[key].isascii() and any("\u4e00" <= char <= "\u9fff" for char in about[f"{key}_zh"])


@pytest.mark.parametrize("name", NAMES)
def test_round_trips(name: str, tmp_path: Path) -> None:
    """预设 → 命令行 → 同一份配置；预设 → 运行目录的 config.toml → 同一份配置。"""
    config = load(name)
    flags = [f"--{key}={value}" for key, value in dataclasses.asdict(config).items()]
    assert load(*flags) == config
    words = [word for key, value in dataclasses.asdict(config).items() for word in (f"--{key}", str(value))]
    assert load(*words) == config
    changed = [flag for flag, value in zip(flags, dataclasses.asdict(config).values(), strict=True)
               if value != getattr(TrainConfig(), flag[2:].partition("=")[0])]
    assert load(*changed) == config
    run = RunDir(str(tmp_path / "run"))
    run.open(config, {})
    run.close()
    assert load(str(tmp_path / "run" / "config.toml")) == config
    assert saved_values(load(str(tmp_path / "run" / "config.toml"))) == saved_values(config)


@pytest.mark.parametrize("name", NANOGPT_VALUES)
def test_values_are_nanogpts(name: str) -> None:
    assert load(name) == TrainConfig(**NANOGPT_VALUES[name])


@pytest.mark.skipif(not CHECKOUT.is_dir(), reason="set NANOGPT to a nanoGPT checkout")
def test_values_are_the_checkouts() -> None:
    """检出里的每个配置文件都有同名的预设，值相同。"""
    files = sorted(CHECKOUT.glob("*.py"))
    assert len(files) >= 7
    for path in files:
        theirs = load(str(path))
        if path.stem == "finetune_shakespeare":
            theirs.wandb_run_name = "ft"  # 它的名字里有当时的时间
        assert theirs == load(path.stem), path.stem


def test_finding() -> None:
    """名字、config/<名字>.py、presets/<名字>.toml 都认得；工作区自己的在前，真的文件更在前。"""
    shipped = shipped_dir("presets") / "quickstart.toml"
    for spelling in ("quickstart", "quickstart.toml", "presets/quickstart.toml", "config/quickstart.py"):
        assert find_preset(spelling) == shipped
    Path("presets").mkdir()
    Path("presets/quickstart.toml").write_text("batch_size = 1\n", encoding="utf-8")
    Path("presets/own.toml").write_text("batch_size = 2\n", encoding="utf-8")
    assert load("quickstart").batch_size == 1 and load("own").batch_size == 2
    assert set(list_presets()) == {*NAMES, "own"}
    Path("config").mkdir()
    Path("config/own.py").write_text("batch_size = 3\n", encoding="utf-8")
    assert load("config/own.py").batch_size == 3 and load("own").batch_size == 2


def test_a_name_with_a_dot_is_found(tmp_path: Path) -> None:
    path = tmp_path / "presets" / "gpt-1.5b.toml"
    path.parent.mkdir()
    path.write_text("n_layer = 2\n", encoding="utf-8")
    assert find_preset("gpt-1.5b", tmp_path) == path


def test_about_of_broken_files(tmp_path: Path) -> None:
    """界面列出预设时，一份坏的不该挡住别的。"""
    for content in (b"\xff", b"a = ", b"about = 3", b"a = " + b"9" * 5000, b"a = " + b"[" * 5000, b""):
        (tmp_path / "x.toml").write_bytes(content)
        assert read_about(tmp_path / "x.toml") == {}
    (tmp_path / "x.toml").write_text('[about]\ntitle = "a"\nneeds = 3\n', encoding="utf-8")
    assert read_about(tmp_path / "x.toml") == {"title": "a"}


@pytest.mark.parametrize("name", ["quickstart", "train_shakespeare_char", "train_shakespeare_char_cpu"])
def test_two_steps(name: str, fork_train: Any, workspace: Path) -> None:
    """真的走两步。模型是预设自己的大小，只有批与评估缩小。"""
    shutil.move(workspace / "data" / "tiny", workspace / "data" / load(name).dataset)
    run = fork_train(name, "--max_iters=1", "--eval_iters=1", "--batch_size=2", "--log_interval=1", "--device=cpu",
                     tiny=False)
    assert run.returncode == 0, run.output
    assert "iter 0: loss" in run.output and "iter 1: loss" in run.output
    saved = workspace / load(name).out_dir / "config.toml"
    assert load(str(saved)).n_embd == load(name).n_embd


def test_shipped_folder_of_a_clone() -> None:
    assert shipped_dir("presets") == ROOT / "presets"
