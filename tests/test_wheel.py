"""wheel：造出来、装进空目录、从别处运行。约 20 秒。"""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from trainer_fork import ROOT, clean_env

SMALL = ("--max_iters=2", "--eval_iters=1", "--eval_interval=2", "--batch_size=2", "--block_size=8", "--n_layer=1",
         "--n_head=1", "--n_embd=8", "--warmup_iters=1", "--log_interval=1", "--device=cpu")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """由工作树造出的 wheel；造的过程不碰网络。"""
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={out}", str(ROOT)],
                          capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", f"--target={target}",
                           str(wheel)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return target


def test_contents(wheel: Path) -> None:
    """预设、`prepare.py`、样式与译文都在；数据、测试与检查点不在。"""
    names = zipfile.ZipFile(wheel).namelist()
    for preset in (ROOT / "presets").glob("*.toml"):
        assert f"nanogpt/shipped/presets/{preset.name}" in names
    for script in (ROOT / "data").glob("*/prepare.py"):
        assert f"nanogpt/shipped/data/{script.parent.name}/prepare.py" in names
    for path in (*(ROOT / "nanogpt").rglob("*"), *(ROOT / "workbench").rglob("*")):
        if path.suffix in (".py", ".mo", ".tcss"):
            assert str(path.relative_to(ROOT)) in names
    assert not [name for name in names if name.endswith((".bin", ".pkl", ".pt", ".pyc")) or name.startswith("tests")]


def test_metadata(wheel: Path) -> None:
    """入口、Python 版本与额外依赖写在元数据里。"""
    archive = zipfile.ZipFile(wheel)
    folder = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA")).rsplit("/", 1)[0]
    metadata = archive.read(f"{folder}/METADATA").decode()
    assert "Name: nanogpt-workbench\n" in metadata and "Requires-Python: >=3.11\n" in metadata
    assert "Requires-Dist: torch>=2.10\n" in metadata and "Provides-Extra: wandb\n" in metadata
    entry = archive.read(f"{folder}/entry_points.txt").decode()
    assert "[console_scripts]\nnanogpt-workbench = workbench.__main__:main" in entry
    assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())


def test_runs_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """从空目录准备、训练、采样；什么都写在那里，装好的包一个字节也不变。"""
    before = {path: path.stat().st_mtime_ns for path in installed.rglob("*")}
    env = clean_env(PYTHONPATH=str(installed), PYTHONDONTWRITEBYTECODE="1")

    def run(*argv: str) -> str:
        done = subprocess.run([sys.executable, "-m", *argv], cwd=tmp_path, env=env, capture_output=True, text=True,
                              timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("nanogpt.prepare", "python_stdlib")
    assert (tmp_path / "data" / "python_stdlib" / "train.bin").stat().st_size > 1000
    run("nanogpt.prepare", "chinese_poems")
    assert (tmp_path / "data" / "chinese_poems" / "train.bin").stat().st_size > 1000
    assert "iter 2: loss" in run("nanogpt.train", "quickstart", *SMALL)
    assert run("nanogpt.sample", "--out_dir=out-quickstart", "--start=def ", "--num_samples=1",
               "--max_new_tokens=5").startswith("def ")
    config = tomllib.loads((tmp_path / "out-quickstart" / "config.toml").read_text(encoding="utf-8"))
    assert config["n_embd"] == 8 and config["dataset"] == "python_stdlib"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out-quickstart"]
    assert {path: path.stat().st_mtime_ns for path in installed.rglob("*")} == before


def test_everything_needed_to_build_is_pinned() -> None:
    """`make setup` 之后不靠网络也造得出：构建后端在 dev 里，每个 dev 依赖都有确切版本。"""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pinned = {line.partition("==")[0].lower() for line in
              (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line}
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["dev"]]
    names = {item.split(">")[0].lower() for item in wanted}
    assert "hatchling" in names and {*names, "trove-classifiers"} <= pinned
