"""工作台有多快：起动、打开一百万个事件、看着运行增长时的 CPU 与字节、按键的迟延（也在采样全速写着时）。

    python benchmarks/app.py --out results.json
    python benchmarks/app.py --quick              # 事件少、时间短：看它能跑，数字不算数

真的应用开在真的伪终端上（120×34），一切从终端这一侧量：字节到达的时刻与数目，`/proc` 里的内存与 CPU 秒数。
按键的迟延是在输入框里打一个独一无二的字，到它出现在终端上为止；画一次图的时间另在进程里量。
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app_playground import start_writing, write_model
from app_runs import LiveRun, write_run
from app_terminal import AppTerminal
from processes import run
from report import machine, median, print_table, write_json

TITLE = "nanogpt-workbench"
# 别处不会出现的字：每按一个就等它自己
LETTERS = [chr(code) for code in range(0xA1, 0x17F) if chr(code).isprintable() and code != 0xAD]
REDRAW = """
import json, sys, time
from workbench.chart import View
from workbench.watched_run import WatchedRun
from workbench.widgets.chart_view import build
run = WatchedRun(sys.argv[1]); run.refresh()
times = []
for _ in range(6):
    began = time.perf_counter()
    build([run], View(), 118, 18)
    times.append(time.perf_counter() - began)
print(json.dumps(times[1:]))
"""


@dataclass(frozen=True)
class Plan:
    """量多少：起动几次、大日志多少个事件、每个窗口几秒、按几个键。"""

    starts: int
    events: int
    window_s: float
    keys: int
    live_runs: int


FULL, QUICK = Plan(7, 1_000_000, 15.0, 60, 4), Plan(1, 5_000, 0.6, 5, 2)


@contextmanager
def app(workspace: Path, *arguments: str) -> Iterator[AppTerminal]:
    terminal = AppTerminal(workspace, 120, 34, *arguments)
    try:
        yield terminal
    finally:
        terminal.close()


def key_latencies(terminal: AppTerminal, letters: list[str], pause_s: float = 0.1) -> list[float]:
    """在开着的输入框里逐个打字；每个字从按下到出现的毫秒数。"""
    found = []
    for letter in letters:
        mark = terminal.mark()
        pressed = terminal.type(letter)
        found.append((terminal.see(letter, mark) - pressed) * 1e3)
        time.sleep(pause_s)
    return found


def latency_figures(milliseconds: list[float]) -> dict[str, float | None]:
    return {"median_ms": median(milliseconds), "worst_ms": max(milliseconds), "keys": len(milliseconds)}


def measure_start(folder: Path, plan: Plan) -> dict[str, Any]:
    """从命令到第一帧，与列出运行之后的内存。"""
    write_run(folder / "runs" / "small", 500)
    rounds = []
    for _ in range(plan.starts):
        with app(folder) as terminal:
            first_frame_s = terminal.see(TITLE) - terminal.began
            list_s = terminal.see("small") - terminal.began
            terminal.quiet_since(0.5)
            rounds.append({"first_frame_s": first_frame_s, "list_s": list_s, "rss_mib": terminal.rss_mib()})
    return {"rounds": rounds, **{key: median([r[key] for r in rounds if r[key] is not None])
                                 for key in ("first_frame_s", "list_s", "rss_mib")}}


def measure_open(folder: Path, plan: Plan) -> dict[str, Any]:
    """一个很长的日志：从回车到整条曲线与最后一步都在（草图），到一步不落地读完；再来一次，边读边打字。"""
    write_run(folder / "runs" / "big", plan.events)
    with app(folder) as terminal:
        terminal.see("big")
        mark, pressed = terminal.mark(), terminal.type("\r")
        terminal.see(f"{plan.events}/{plan.events} (100%)", mark, 120.0)
        opened, read = terminal.quiet_since(0.7), idle_since(terminal)
        result = {"open_s": opened - pressed, "read_s": read - pressed, "from_command_s": read - terminal.began,
                  "rss_mib": terminal.rss_mib()}
    with app(folder) as terminal:
        terminal.see("big")
        terminal.type("\r/")
        terminal.see("search the log")
        end, latencies = time.perf_counter() + max(1.0, result["read_s"]), []
        letters = iter(LETTERS)
        while time.perf_counter() < end:
            latencies += key_latencies(terminal, [next(letters)], 0.03)
    return {"events": plan.events, **result, **latency_figures(latencies)}


def idle_since(terminal: AppTerminal) -> float:
    """等到应用半秒里几乎没有用 CPU；返回那半秒开始的时刻。"""
    while True:
        began, before = time.perf_counter(), terminal.cpu_seconds()
        time.sleep(0.5)
        after = terminal.cpu_seconds()
        if before is None or after is None or after - before < 0.05:
            return began


def measure_redraw(folder: Path, events: int) -> dict[str, Any]:
    """画一次图：取数、平滑、缩减、画成字符。"""
    write_run(folder / "run", events)
    finished = run([sys.executable, "-c", REDRAW, str(folder / "run")], folder)
    if finished.returncode:
        raise SystemExit(finished.tail())
    times = json.loads(finished.text)
    return {"events": events, "redraw_ms": (median(times) or 0.0) * 1e3}


def watch(terminal: AppTerminal, seconds: float) -> dict[str, float | None]:
    """这段时间里每秒的字节数与占用的 CPU（一个核为 1）。"""
    cpu, began = terminal.cpu_seconds(), time.perf_counter()
    count = terminal.count_bytes(seconds)
    elapsed, after = time.perf_counter() - began, terminal.cpu_seconds()
    return {"bytes_per_second": count / elapsed,
            "cpu_share": None if cpu is None or after is None else (after - cpu) / elapsed}


def measure_watching(folder: Path, plan: Plan, events: int, rates: list[float]) -> list[dict[str, Any]]:
    """监视一个已有 `events` 个事件、照 `rate` 增长的运行。"""
    live, rows = LiveRun(folder / "runs" / "live", events, 1.0), []
    try:
        with app(folder) as terminal:
            terminal.see("live")
            mark = terminal.mark()
            terminal.type("\r")
            terminal.see("(50%)", mark, 60.0)
            for rate in rates:
                live.rate = rate
                time.sleep(min(4.0, 2 * plan.window_s))
                rows.append({"events": events, "rate": rate, **watch(terminal, plan.window_s)})
    finally:
        live.close()
    return rows


def measure_idle(folder: Path, plan: Plan) -> dict[str, Any]:
    """都结束了：先在列表里，再在监视里。"""
    write_run(folder / "runs" / "done", 2000)
    with app(folder) as terminal:
        terminal.see("done")
        terminal.quiet_since(1.0)
        listed = watch(terminal, plan.window_s)
        mark = terminal.mark()
        terminal.type("\r")
        terminal.see("(100%)", mark)
        terminal.quiet_since(1.0)
        return {"list": listed, "monitor": watch(terminal, plan.window_s)}


def measure_keys(folder: Path, plan: Plan, live_runs: int) -> dict[str, Any]:
    """`live_runs` 个运行各以每秒 10 个事件增长时，在列表的过滤框与监视的搜索框里打字。"""
    lives = [LiveRun(folder / "runs" / f"live-{index}", 2000, 10.0) for index in range(live_runs)]
    try:
        with app(folder) as terminal:
            terminal.see("live-0")
            terminal.type("/")
            terminal.see("status:running")
            listed = key_latencies(terminal, LETTERS[:plan.keys])
            terminal.type("\x1b")
            time.sleep(0.5)
            terminal.type("\r")
            terminal.see("ETA")
            terminal.type("/")
            terminal.see("search the log")
            watched = key_latencies(terminal, LETTERS[:plan.keys])
    finally:
        for live in lives:
            live.close()
    return {"live_runs": live_runs, "list": latency_figures(listed), "monitor": latency_figures(watched)}


def measure_playground(folder: Path, plan: Plan) -> dict[str, Any]:
    """采样界面里模型全速写着时，在编辑框里打字；同时的字节与 CPU（应用自己的，不算采样的进程）。"""
    write_model(folder)
    with app(folder) as terminal:
        start_writing(terminal)
        latencies = key_latencies(terminal, LETTERS[:plan.keys])
        return {**latency_figures(latencies), **watch(terminal, plan.window_s)}


def measure(folder: Path, plan: Plan, out: Path | None = None) -> dict[str, Any]:
    """依次做各部分；每做完一部分就写一次 `out`，后面的出了事，前面的还在。"""
    parts: list[tuple[str, Callable[[Path], Any]]] = [
        ("start", lambda here: measure_start(here, plan)),
        ("open", lambda here: measure_open(here, plan)),
        ("redraw", lambda here: [measure_redraw(here / str(count), count)
                                 for count in sorted({1000, plan.events // 10, plan.events})]),
        ("idle", lambda here: measure_idle(here, plan)),
        ("watching", lambda here: measure_watching(here, plan, 2000, [0.0, 1.0, 10.0])),
        ("watching_big", lambda here: measure_watching(here, plan, plan.events, [1.0, 10.0])),
        ("keys", lambda here: measure_keys(here, plan, 1)),
        ("keys_many", lambda here: measure_keys(here, plan, plan.live_runs)),
        ("playground", lambda here: measure_playground(here, plan))]
    results = {}
    for name, part in parts:
        here = folder / name
        here.mkdir()
        began = time.perf_counter()
        results[name] = part(here)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        if out is not None:
            out.write_text(json.dumps(results), encoding="utf-8")
    return results


def rows_of(results: dict[str, Any]) -> list[list[str]]:
    """（量的是什么, 量到的, 期望）。"""
    start, opened = results["start"], results["open"]
    count = f"{opened['events']:,}"
    rows = [
        ["start to first frame", _s(start["first_frame_s"]), "<= 0.8 s"],
        ["start to the list of runs", _s(start["list_s"]), ""],
        ["resident memory, list shown", _mib(start["rss_mib"]), "< 120 MiB"],
        [f"{count} events: key press to the curve and the last iteration", _s(opened["open_s"]), "< 3 s"],
        [f"{count} events: key press to every iteration read", _s(opened["read_s"]), ""],
        [f"{count} events: command to every iteration read", _s(opened["from_command_s"]), ""],
        [f"{count} events: resident memory", _mib(opened["rss_mib"]), ""],
        [f"{count} events: key latency while reading", _latency(opened), "worst < 50 ms"]]
    rows += [[f"chart drawn once, {item['events']:,} events", f"{item['redraw_ms']:.0f} ms", ""]
             for item in results["redraw"]]
    for where in ("list", "monitor"):
        rows.append([f"idle, {where}: bytes", _bytes(results["idle"][where]), "0"])
    for item in results["watching"] + results["watching_big"]:
        budget = {1.0: "< 4 KiB/s", 10.0: "< 10% of a core"}.get(item["rate"], "")
        what = f"monitor, {item['events']:,} events, {item['rate']:.0f} a second"
        rows.append([what, f"{_bytes(item)}, {_share(item)}", budget])
    for item in (results["keys"], results["keys_many"]):
        for where in ("list", "monitor"):
            what = f"key latency, {where}, {item['live_runs']} live at 10 a second"
            rows.append([what, _latency(item[where]), "worst < 50 ms"])
    writing = results["playground"]
    rows.append(["key latency, playground while it writes", _latency(writing), "worst < 50 ms"])
    rows.append(["playground while it writes", f"{_bytes(writing)}, {_share(writing)}", ""])
    return rows


def _s(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f} s"


def _mib(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.0f} MiB"


def _latency(found: dict[str, Any]) -> str:
    return f"{found['median_ms']:.0f} ms, worst {found['worst_ms']:.0f}"


def _bytes(found: dict[str, Any]) -> str:
    return f"{found['bytes_per_second'] / 1024:.2f} KiB/s"


def _share(found: dict[str, Any]) -> str:
    return "CPU n/a" if found["cpu_share"] is None else f"{found['cpu_share']:.1%} of a core"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the workbench on a real pseudo-terminal.")
    parser.add_argument("--quick", action="store_true", help="few events, short windows: shows that it runs")
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    return parser.parse_args()


def main() -> int:
    args = parse()
    plan = QUICK if args.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), plan, args.out)
    title = "the workbench at 120x34" + ("; QUICK: the numbers mean nothing" if args.quick else "")
    print_table(title, ["", "measured", "wanted"], rows_of(results))
    write_json(args.out, {"benchmark": "app", "quick": args.quick, "argv": sys.argv, "machine": machine(), **results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
