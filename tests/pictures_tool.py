"""`make pictures`：在真的应用里打开真的训练，把各屏存成 `docs/pictures/` 里的 SVG，中英各一份。约一分钟。

训练是 `python -m nanogpt.train` 的小模型：两个跑完的，一个拍照时还在跑的。图里不留本机的路径，也不从网络取字体。
"""

import asyncio
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import scenes
from scenes import Scene

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
# 34 行以上，列表下面才有图
SIZE = (100, 36)
# 图里写的工作区
SHOWN_WORKSPACE = "~/gpt"
MAX_BYTES = 150_000
SMALL = ("--n_layer=2", "--n_embd=64", "--n_head=2", "--block_size=32", "--batch_size=8", "--eval_iters=10",
         "--device=cpu", "--compile=False")
# （运行的名字，它的键）；最后一个拍照时还在跑
RUNS = (("baseline", ("--max_iters=600", "--eval_interval=100", "--lr_decay_iters=600")),
        ("higher-lr", ("--max_iters=600", "--eval_interval=100", "--lr_decay_iters=600", "--learning_rate=8e-3")),
        ("quickstart", ("--max_iters=12000", "--eval_interval=250", "--lr_decay_iters=12000")))
LIVE_ITERS = 3000


def start_run(workspace: Path, name: str, keys: tuple[str, ...]) -> subprocess.Popen[bytes]:
    from workbench.launch import LaunchPlan, start

    out_dir = Path("runs", name)
    (workspace / out_dir).mkdir(parents=True)
    values = dict(item.removeprefix("--").split("=", 1) for item in (*SMALL, *keys))
    return start(LaunchPlan("quickstart", str(out_dir), values).command(), out_dir)


def wait_for_iter(out_dir: Path, wanted: int, process: subprocess.Popen[bytes]) -> None:
    """训练走到第 `wanted` 步；提前结束就说明日志的末尾。"""
    from nanogpt.events import read_events
    from workbench.launch import console_tail

    while process.poll() is None:
        path = out_dir / "events.jsonl"
        steps = [event["iter"] for event in read_events(path) if event["event"] == "iter"] if path.exists() else []
        if steps and steps[-1] >= wanted:
            return
        time.sleep(0.5)
    raise SystemExit(f"the run ended too early:\n{console_tail(out_dir)}")


def plain(svg: str) -> str:
    """网上的字体不要，用看图的机器自己的等宽字体；每次都不同的编号换成固定的，没有变的图才不跟着变。"""
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S)
    svg = re.sub(r"font-family: Fira Code, ?monospace", "font-family: monospace", svg)
    for number, name in enumerate(dict.fromkeys(re.findall(r"terminal-\d+", svg)), 1):
        svg = svg.replace(name, f"terminal-{number}")
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def clean(svg: str, workspace: Path) -> str:
    """工作区的路径换成等宽的 `~/gpt`；本机的别的路径与名字一个也不留。"""
    path = str(workspace)
    svg = plain(svg).replace(path, SHOWN_WORKSPACE.ljust(len(path)).replace(" ", "&#160;"))
    if found := [word for word in (str(ROOT), sys.prefix, str(Path.home()), socket.gethostname()) if word in svg]:
        raise SystemExit(f"the picture shows this machine: {found}")
    return svg


async def take(workspace: Path, lang: str, name: str, go: Scene) -> Path:
    """打开应用，走到那一屏，存下来。"""
    from nanogpt.i18n import use_language
    from workbench.app import WorkbenchApp

    use_language(lang)
    app = WorkbenchApp(Path())
    async with app.run_test(size=SIZE) as pilot:
        await go(pilot)
        text = clean(app.export_screenshot(title="nanogpt-workbench"), workspace)
    path = PICTURES / f"{name}.{'zh-CN.' if lang == 'zh' else ''}svg"
    path.write_text(text, encoding="utf-8")
    if len(text.encode()) > MAX_BYTES:
        raise SystemExit(f"{path.name} is too large: {len(text.encode()):,} bytes")
    return path


def enter(workspace: Path) -> None:
    """工作区成为当前目录；解释器由里面的 `.venv` 指到，这样命令里写的是相对路径，同克隆里一样。"""
    (workspace / ".venv").symlink_to(sys.prefix)
    os.chdir(workspace)
    sys.executable = str(workspace / ".venv" / "bin" / "python")
    for name in ("NO_COLOR", "SSH_CONNECTION", "NANOGPT_LANG"):
        os.environ.pop(name, None)
    os.environ.update(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", TERM="xterm-256color", COLORTERM="truecolor")
    sys.path.insert(0, str(ROOT))
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]


def main() -> int:
    """准备数据，训练，拍照，停下训练。"""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nanogpt-pictures-") as folder:
        workspace = Path(folder).resolve()
        enter(workspace)
        prepare = [sys.executable, "-m", "nanogpt.prepare", "python_stdlib", "--out", "data/python_stdlib"]
        subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL)
        processes = []
        for name, keys in RUNS:
            processes.append(start_run(workspace, name, keys))
            if name != RUNS[-1][0] and processes[-1].wait():
                raise SystemExit(f"{name} failed")
        try:
            wait_for_iter(Path("runs", RUNS[-1][0]), LIVE_ITERS, processes[-1])
            for lang in ("en", "zh"):
                for go in (scenes.runs, scenes.monitor, scenes.launch, scenes.own_text, scenes.playground,
                           scenes.tokens):
                    path = asyncio.run(take(workspace, lang, go.__name__, go))
                    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes", flush=True)
        finally:
            (workspace / "runs" / RUNS[-1][0] / "stop").touch()
            processes[-1].wait(timeout=60)
            os.chdir(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
