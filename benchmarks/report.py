"""机器的描述、表格与 JSON：每个基准的结尾都一样。"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from processes import ROOT


def add_nanogpt_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nanogpt", type=Path, default=os.environ.get("NANOGPT"), metavar="PATH",
                        help="a nanoGPT checkout (or the environment variable NANOGPT); nothing is written into it")


def check_nanogpt(parser: argparse.ArgumentParser, path: Path | None) -> Path:
    """`path` 得是一份 nanoGPT；不是就以退出码 2 说明。"""
    if path is None:
        parser.error("give a nanoGPT checkout with --nanogpt PATH or NANOGPT=PATH")
    for name in ("train.py", "sample.py", "model.py", "configurator.py"):
        if not (Path(path) / name).is_file():
            parser.error(f"{path} is not a nanoGPT checkout: it has no {name}")
    return Path(path).resolve()


def machine() -> dict[str, Any]:
    """数字是在什么机器上得来的；不导入 `torch`。"""
    return {"cpu": _cpu_model(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(), "torch": _version("torch"), "triton": _version("triton"),
            "numpy": _version("numpy"),
            "load_average": list(os.getloadavg()),
            "threads_set": os.environ.get("OMP_NUM_THREADS"),
            "commit": _commit(ROOT), "time": time.strftime("%Y-%m-%d %H:%M:%S %z")}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit(folder: Path) -> str | None:
    try:
        found = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True)
    except OSError:
        return None
    return found.stdout.strip() or None


def turns(rounds: int) -> list[tuple[str, str]]:
    """A B、B A、A B……：慢慢变热或变忙的机器因此对两边一样不公。"""
    return [("ours", "nanogpt") if i % 2 == 0 else ("nanogpt", "ours") for i in range(rounds)]


def median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """有 `rich` 就用它，没有（例如只有 torch 的 GPU 镜像）就用对齐的纯文本。"""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        print(format_table(title, columns, rows))
        return
    table = Table(title=Text(title))
    for i, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # 不是终端时 rich 只给 80 列，会把格子折断
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def format_table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    """纯文本的表。"""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]

    def line(row: list[str]) -> str:
        return "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w)
                         for i, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip()

    return "\n".join([title, line(columns), "  ".join("-" * w for w in widths), *map(line, rows)])


def write_json(path: Path | None, results: dict[str, Any]) -> None:
    if path is not None:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1, ensure_ascii=False)
            file.write("\n")
        print(f"wrote {path}")
