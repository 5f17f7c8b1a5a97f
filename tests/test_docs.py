"""文档与代码对得上：两份 README 的命令相同，提到的键、文件、链接都在。约 1 秒。"""

import ast
import re
import shlex
from pathlib import Path

import pytest

from nanogpt.config import BenchConfig, ExportConfig, SampleConfig, TrainConfig
from nanogpt.options import coerce, options_of, parse
from nanogpt.presets import find_preset, list_presets, read_preset

ROOT = Path(__file__).resolve().parents[1]
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
PAGES = [*READMES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = {"train": TrainConfig, "sample": SampleConfig, "export": ExportConfig, "bench": BenchConfig}
# 不属于配置的选项：各命令共有的、`prepare.py` 的、`nanogpt-workbench` 的、torchrun 的、构建的
OTHER_FLAGS = {"help", "debug", "lang", "input", "out", "tokenizer", "vocab-size", "format", "encoding", "column",
               "separator", "val-fraction", "drop-duplicates", "num-proc", "preview", "check", "block-size",
               "json", "once", "serve", "wheel", "workspace", "read-only",
               "standalone", "nnodes", "node_rank", "nproc_per_node", "master_addr", "master_port"}
# 运行时才有的目录
MADE_BY_RUNS = ("out", "runs/", "data/mine", "data/tale", ".venv", "dist/", "workbench/keys.toml")


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path) -> list[tuple[str, str]]:
    """（语言, 内容）的代码块，按次序。"""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text_of(path), re.M | re.S)


def commands() -> list[list[str]]:
    """英文 README 里的每一条 shell 命令，拆成单词。"""
    return [shlex.split(line) for language, body in blocks(READMES[0]) if language == "bash"
            for line in body.splitlines() if line]


def trainer_commands(module: str) -> list[list[str]]:
    """`-m nanogpt.<module>` 之后的参数；torchrun 起的也算。"""
    name = f"nanogpt.{module}"
    return [words[words.index(name) + 1:] for words in commands() if name in words]


def test_the_two_readmes_hold_the_same_blocks() -> None:
    english, chinese = map(blocks, READMES)
    assert len(english) > 10
    assert english == chinese


def test_the_two_readmes_have_the_same_shape() -> None:
    """标题、表格的行数、列表的条数都一样多，免得只改一份。"""
    shapes = [[(match.group(1), 0) for match in re.finditer(r"^(#+ |\| |- )", text_of(path), re.M)] for path in READMES]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("module", sorted(CONFIGS))
def test_commands_are_accepted(module: str) -> None:
    """README 里的命令行能被真的解析，预设存在，值合法。"""
    lines = trainer_commands(module)
    assert len(lines) >= 2
    options = options_of(CONFIGS[module])
    for arguments in lines:
        line = parse(options, arguments)
        for key, (value, where) in (read_preset(find_preset(line.preset), options) if line.preset else {}).items():
            coerce(options[key], value, where)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_flag_exists(path: Path) -> None:
    known = {name for config in CONFIGS.values() for name in options_of(config)} | OTHER_FLAGS
    found = set(re.findall(r"(?<![\w-])--([a-z][a-z0-9_-]*)", text_of(path))) - {"key", "no-flag", "flag"}
    sources = [*(ROOT / "benchmarks").glob("*.py"), ROOT / "tests" / "fault_campaign.py",
               ROOT / "workbench" / "__main__.py"]
    scripts = set(re.findall(r'"--([\w-]+)', "".join(map(text_of, sources))))
    # `BooleanOptionalAction` 自己添上的
    scripts |= {f"no-{name}" for name in scripts}
    assert found - known - scripts == set()


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_help_is_named_as_the_reference(path: Path) -> None:
    for module in CONFIGS:
        assert f"python -m nanogpt.{module} --help" in text_of(path)


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_every_preset_is_listed(path: Path) -> None:
    assert [name for name in list_presets(ROOT) if f"`{name}`" not in text_of(path)] == []


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_files_of_the_tree_exist(path: Path) -> None:
    """文件表里的每一行；训练器与工作台的每个模块也都在表里。"""
    rows = re.findall(r"^\| `([\w./]+)` \|", text_of(path), re.M)
    listed = {row for row in rows if row.startswith(("nanogpt/", "workbench/", "presets/", "data/", "benchmarks/",
                                                     "tests/", "docs/")) and "NAME" not in row}
    assert len(listed) > 30
    assert [row for row in listed if not (ROOT / row).exists()] == []
    modules = {file.relative_to(ROOT).as_posix() for package in ("nanogpt", "workbench")
               for file in (ROOT / package).rglob("*.py") if file.name != "__init__.py"}
    assert modules - listed == set(), "add the module to the tables of both READMEs"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_relative_links_resolve(path: Path) -> None:
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text_of(path))]
    assert [link for link in links if link and "://" not in link and not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_named_files_exist(path: Path) -> None:
    """反引号里写成路径的 `.py`、`.toml`、`.md`、`.sh` 文件都在。"""
    rooms = "nanogpt|workbench|tests|benchmarks|docs|presets"
    named = re.findall(rf"(?:{rooms})/[\w./-]+\.(?:py|toml|md|sh)", text_of(path))
    assert [name for name in named if not name.startswith(MADE_BY_RUNS) and not (ROOT / name).exists()] == []


def test_every_page_has_its_pair() -> None:
    """`docs/` 里每一份都有中英两份，代码块一样多，并互相指向。"""
    # 实验记录是写给贡献者的，只有中文
    pages = [path for path in (ROOT / "docs").glob("*.md") if path.name != "experiments.md"]
    english = [path for path in pages if not path.name.endswith(".zh-CN.md")]
    assert english
    for page in english:
        pair = page.with_suffix(".zh-CN.md")
        assert pair.is_file(), f"{pair.name} is missing"
        assert len(blocks(page)) == len(blocks(pair))
        assert f"]({pair.name})" in text_of(page) and f"]({page.name})" in text_of(pair)
    assert len(english) * 2 == len(pages)


def test_every_key_of_the_checkpoint_is_described() -> None:
    """`docs/checkpoint*.md` 的表与 `save()` 写出的键恰好相同。"""
    tree = ast.parse(text_of(ROOT / "nanogpt" / "training.py"))
    assigned = next(node.value for node in ast.walk(tree) if isinstance(node, ast.Assign)
                    and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "checkpoint"
                    and isinstance(node.value, ast.Dict))
    written = {key.value for key in assigned.keys if isinstance(key, ast.Constant)} | {"model_args", "model_args_extra"}
    for name in ("checkpoint.md", "checkpoint.zh-CN.md"):
        assert set(re.findall(r"^\| `(\w+)` \|", text_of(ROOT / "docs" / name), re.M)) == written


def test_pictures_are_in_both_languages_and_self_contained() -> None:
    """`make pictures` 拍的：不太大，不从网络取东西，不带这里的路径。"""
    pictures = sorted((ROOT / "docs" / "pictures").glob("*.svg"))
    english = [path for path in pictures if not path.name.endswith(".zh-CN.svg")]
    assert len(english) >= 3
    assert pictures == sorted([*english, *(path.with_suffix(".zh-CN.svg") for path in english)])
    for path in pictures:
        text = text_of(path)
        assert len(text.encode()) < 150_000
        assert "url(http" not in text and "href=" not in text and str(ROOT) not in text and "/tmp/" not in text
