"""导入的规矩：谁不许导入谁，训练只要哪几个包。约 10 秒。"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from trainer_fork import ROOT, clean_env

TORCH_FREE = ("nanogpt", "nanogpt.config", "nanogpt.options", "nanogpt.events", "nanogpt.rundir", "nanogpt.dataset",
              "nanogpt.presets", "nanogpt.preflight", "nanogpt.pretrained", "nanogpt.tokenizer", "nanogpt.bpe",
              "nanogpt.prompt", "nanogpt.text", "nanogpt.errors", "nanogpt.i18n", "nanogpt.shipped", "nanogpt.prepare",
              "nanogpt.listing", "nanogpt.requests", "nanogpt.serve")
HEAVY = {"torch", "transformers", "datasets"}
NOT_FOR_TRAINING = ("tiktoken", "tokenizers", "charset_normalizer", "pyarrow", "transformers", "datasets", "rich",
                    "textual", "plotext", "msgspec", "wandb", "tqdm", "requests", "pandas", "huggingface_hub",
                    "safetensors", "httpx")


def modules() -> dict[str, Path]:
    """本仓库两个包里的全部模块。"""
    found = {}
    for path in (*(ROOT / "nanogpt").rglob("*.py"), *(ROOT / "workbench").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, module: str, everywhere: bool) -> set[str]:
    """`path` 导入的名字。`everywhere` 也算函数里的；否则只算导入模块时就执行的，`TYPE_CHECKING` 之内不算。"""
    names: set[str] = set()

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: len(module.split(".")) - node.level + (path.name == "__init__.py")] \
                if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            names.update({source, *(f"{source}.{alias.name}" for alias in node.names)})
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                walk(child)
        elif everywhere or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            for child in ast.iter_child_nodes(node):
                walk(child)

    walk(ast.parse(path.read_text(encoding="utf-8")))
    return names


def reached(start: str, known: dict[str, Path]) -> set[str]:
    """导入 `start` 时会跟着导入的本仓库模块与外部顶层包。"""
    seen: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name in seen or (name not in known and name.split(".")[0] in ("nanogpt", "workbench")):
            continue
        seen.add(name if name in known else name.split(".")[0])
        if name in known:
            todo += imports(known[name], name, everywhere=name.startswith("workbench"))
            todo += [name.rpartition(".")[0]] if "." in name else []
    return seen


def test_nanogpt_never_imports_the_workbench() -> None:
    """函数里的导入也算。"""
    for name, path in modules().items():
        if name.startswith("nanogpt"):
            tops = {imported.split(".")[0] for imported in imports(path, name, everywhere=True)}
            assert not tops & {"workbench", "textual"}, name


@pytest.mark.parametrize("name", [name for name in modules() if name.startswith("workbench")])
def test_workbench_never_imports_torch(name: str) -> None:
    """直接与经由 `nanogpt` 都不许：`workbench` 里函数之内的导入也追下去。"""
    assert not reached(name, modules()) & HEAVY


@pytest.mark.parametrize("name", TORCH_FREE)
def test_torch_free_modules(name: str) -> None:
    assert not reached(name, modules()) & HEAVY


def test_the_walk_finds_torch_where_it_is() -> None:
    """图真的连通：训练器与采样器（函数里）都找得到 `torch`。"""
    assert "torch" in reached("nanogpt.train", modules()) and "torch" in reached("nanogpt.device", modules())
    assert "torch" not in reached("nanogpt.sample", modules())
    assert "nanogpt.loading" in imports(modules()["nanogpt.sample"], "nanogpt.sample", everywhere=True)


def test_no_torch_in_a_real_process() -> None:
    code = f"import sys, json, {', '.join(TORCH_FREE)}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], env=clean_env(), capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {*HEAVY, *NOT_FOR_TRAINING}


def test_training_needs_three_packages(workspace: Path) -> None:
    """别的包好像没有装的进程里，两种优化器照样走完两步，续训也行；采样字符模型也是。

    不编译时连 `torch._dynamo` 都不导入：光是它就要一两秒。
    """
    argv = ["--dataset=tiny", "--n_layer=1", "--n_head=1", "--n_embd=8", "--block_size=8", "--batch_size=2",
            "--gradient_accumulation_steps=1", "--max_iters=2", "--eval_iters=1", "--eval_interval=1", "--device=cpu"]
    code = f"""
import runpy, sys

from importlib.machinery import PathFinder

class Without:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.split(".")[0] in {NOT_FOR_TRAINING!r} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
assert not any(__import__("importlib.util").util.find_spec(name) for name in {NOT_FOR_TRAINING!r})
for module, argv in (("nanogpt.train", {argv!r}), ("nanogpt.train", ["--init_from=resume", "--max_iters=3"]),
                     ("nanogpt.train", [*{argv!r}, "--optimizer=muon", "--overwrite"]),
                     ("nanogpt.sample", ["--num_samples=1", "--max_new_tokens=3"])):
    sys.argv = [module, *argv]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        assert error.code == 0, error.code
assert not {{name.split(".")[0] for name in sys.modules}} & set({NOT_FOR_TRAINING!r})
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=workspace, env=clean_env(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("iter 2: loss") == 3 and "iter 3: loss" in done.stdout
    assert "---------------" in done.stdout
