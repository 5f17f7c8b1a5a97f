"""基准脚本：量法、配对与 `gpu.sh` 的空跑。空跑起真的训练进程，约半分钟；其余都在一两秒内。"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import slow

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
NANOGPT = os.environ.get("NANOGPT", "")
ENVIRON = {**{key: value for key, value in os.environ.items() if key not in ("NANOGPT", "OUT", "PARTS")},
           "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """脚本彼此按名字导入；用完即忘，别的测试也可能要导入另一个叫 `train` 的。"""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_processes_times_lines_and_memory(tmp_path: Path) -> None:
    """行的时刻递增并反映间隔；占了 100 MiB 的子进程，峰值不小于它；环境传到。"""
    from processes import run

    code = "import time; block = bytearray(100 << 20); print('a', flush=True); time.sleep(0.3); print('b', flush=True)"
    finished = run([sys.executable, "-c", code], tmp_path)
    assert finished.returncode == 0
    (first, a), (second, b) = finished.lines
    assert (a, b) == ("a", "b")
    assert 0.25 < second - first < 3
    # 内核让子进程的峰值从分叉时的内存起算：量的人若比被量的大，量到的就是自己
    own_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    assert 100 < finished.peak_rss_mib < max(400, own_mib + 100)


def test_processes_kills_the_whole_group(tmp_path: Path) -> None:
    """`on_line` 叫停时，孙进程也一并收走。"""
    from processes import run

    code = ("import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
            "print(p.pid, flush=True); time.sleep(60)")
    finished = run([sys.executable, "-c", code], tmp_path, 30, lambda _line, _process: True)
    assert finished.returncode == -9 and finished.wall_s < 20
    pid = int(finished.lines[0][1])
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    """已被 1 号进程收走、或只剩僵尸的，不算。"""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_processes_gives_up_in_time(tmp_path: Path) -> None:
    from processes import run

    finished = run([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, timeout_s=0.5)
    assert finished.timed_out and finished.returncode == -9 and finished.wall_s < 20


def test_turns_alternate_and_ratio_is_paired() -> None:
    """A B、B A……；比值逐轮相除再取中位数，失败的轮不算。"""
    from report import turns
    from train import summary

    assert turns(3) == [("ours", "nanogpt"), ("nanogpt", "ours"), ("ours", "nanogpt")]

    def side(ms: float) -> dict[str, float]:
        return {"step_ms": ms, "cpu_step_ms": ms, "peak_rss_mib": 1.0}

    rounds = [{"ours": side(10), "nanogpt": side(20)}, {"ours": side(100), "nanogpt": side(110)},
              {"ours": side(10), "nanogpt": side(30)}, {"ours": {"error": "x"}, "nanogpt": side(1)}]
    result = summary(rounds, "step_ms")
    assert result["ratios"] == [2.0, 1.1, 3.0] and result["median_ratio"] == 2.0


def test_lines_of_both_sides_are_read() -> None:
    """nanoGPT 与我们打印的行都认得，别的行不误认。"""
    from processes import Finished
    from train import iterations, validation_losses

    finished = Finished([], lines=[(1.0, "iter 0: loss 4.1, time 12.00ms, mfu -100.00%"),
                                   (2.0, "step 250: train loss 2.1, val loss 2.2"),
                                   (3.0, "iter 10: loss nan, time 1ms")])
    assert iterations(finished)[0] == (1.0, 4.1) and set(iterations(finished)) == {0, 10}
    assert validation_losses(finished) == [2.2]


@pytest.mark.skipif(not NANOGPT, reason="set NANOGPT to a nanoGPT checkout")
def test_sampling_against_a_checkout(tmp_path: Path) -> None:
    """真的与 nanoGPT 轮流写：文本相同，每一种写法都有比值。"""
    argv = ["--job=DRY", "--rounds=2", "--nanogpt", NANOGPT, "--out", str(tmp_path / "out.json")]
    done = subprocess.run([sys.executable, str(BENCHMARKS / "sample.py"), *argv], capture_output=True, text=True,
                          env=ENVIRON)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert result["same_text"] is True and all(len(one["ratios"]) == 2 for one in result["variants"].values())


@pytest.mark.parametrize("script", ["train.py", "sample.py"])
def test_a_missing_checkout_is_explained(script: str, tmp_path: Path) -> None:
    for arguments in ([], ["--nanogpt", str(tmp_path)]):
        done = subprocess.run([sys.executable, str(BENCHMARKS / script), *arguments], capture_output=True, text=True,
                              env=ENVIRON)
        assert done.returncode == 2 and "nanoGPT checkout" in done.stderr and "Traceback" not in done.stderr


def dry_run(out: Path, **environ: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    done = subprocess.run([str(BENCHMARKS / "gpu.sh")], capture_output=True, text=True, timeout=280,
                          env={**ENVIRON, "OUT": str(out), "DRY_RUN": "cpu", **environ})
    return done, json.loads((out / "results.json").read_text(encoding="utf-8"))


@slow
def test_gpu_script_dry_run(tmp_path: Path) -> None:
    """没有 nanoGPT 也走完全部八个部分；续训在 CPU 上逐位相等；报告说明数字没有意义。"""
    done, results = dry_run(tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [part["status"] for part in results["parts"].values()] == ["ok"] * 8
    checks = {check["name"]: check for check in results["parts"]["correctness"]["checks"]}
    assert checks["a resume equals the uninterrupted run"]["equal"] == 61
    report = (tmp_path / "out" / "report.txt").read_text(encoding="utf-8")
    assert "DRY RUN" in report and "not measured" in report


def test_gpu_script_counts_failures_and_goes_on(tmp_path: Path) -> None:
    """一个部分失败：后面的照做，退出码是失败的个数，结果照写。"""
    done, results = dry_run(tmp_path / "out", PARTS="speed environment", NANOGPT=str(tmp_path / "nowhere"))
    assert done.returncode == 1 and "speed: FAILED" in done.stdout
    assert results["failed"] == 1 and results["parts"]["environment"]["status"] == "ok"
    # 时间用完的部分也算没有做成，并且说出来
    done, results = dry_run(tmp_path / "none", PARTS="environment xl", BUDGET_S="1")
    assert done.returncode == 2 and "not run" in results["parts"]["xl"]["status"]


@pytest.mark.skipif("NANOGPT" not in os.environ, reason="needs NANOGPT, a nanoGPT checkout")
def test_train_against_nanogpt(tmp_path: Path) -> None:
    """真的两边轮流，二十步；结果里有两边的时间与内存，而 nanoGPT 的目录没有被写。"""
    checkout = Path(os.environ["NANOGPT"])
    before = {path: path.stat().st_mtime_ns for path in checkout.rglob("*")}
    out = tmp_path / "results.json"
    done = subprocess.run([sys.executable, str(BENCHMARKS / "train.py"), "--nanogpt", str(checkout), "--rounds=1",
                           "--steps=20", "--out", str(out)], capture_output=True, text=True, env=ENVIRON)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(out.read_text(encoding="utf-8"))
    one = results["rounds"][0]
    assert all(one[side]["step_ms"] > 0 and one[side]["peak_rss_mib"] > 50 for side in ("ours", "nanogpt"))
    # 同一种子，同样的数学：第一步的损失相同
    assert one["ours"]["first_loss"] == pytest.approx(one["nanogpt"]["first_loss"], abs=1e-3)
    assert {path: path.stat().st_mtime_ns for path in checkout.rglob("*")} == before
    # 离上限还有多远；总表认得这份 JSON
    assert all(0 < results[side]["share_of_peak"] < 2 for side in ("ours", "nanogpt"))
    out.rename(tmp_path / "j1.json")
    text = whole_table(tmp_path)
    assert f"| {results['median_ratio']:.3f} | 1.00 |" in text and "of the measured fp32 matmul peak" in text


def whole_table(folder: Path) -> str:
    done = subprocess.run([sys.executable, str(BENCHMARKS / "all.py"), "--table", "--out", str(folder)],
                          capture_output=True, text=True, env=ENVIRON)
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / "table.md").read_text(encoding="utf-8")


def test_the_whole_table_says_what_was_not_measured(tmp_path: Path) -> None:
    from all import STEPS

    rows = [line for line in whole_table(tmp_path).splitlines() if line.startswith("| ")]
    assert len(rows) == len(STEPS) and all("not measured" in row for row in rows[1:])


def test_limits_of_this_machine() -> None:
    """真的去量：乘法与读内存都有数，且在任何机器都说得通的范围里。约 5 s。"""
    from limits import measure_limits

    found = measure_limits()
    assert found["threads"] >= 1
    assert all(1e8 < found[name] < 1e16 for name in ("float32_flops", "bfloat16_flops", "read_bytes_per_second"))


@pytest.mark.parametrize(("dtype", "samples", "mib"), [("float32", 1, 473.3), ("bfloat16", 1, 236.7)])
def test_bytes_read_for_a_token(dtype: str, samples: int, mib: float) -> None:
    """124M：12·12·768² 与 50304·768 个权重，加上平均到一半的键与值。"""
    from sample import SAMPLE_JOBS, bytes_per_step

    shape = SAMPLE_JOBS["J3"].shape
    assert shape is not None
    assert bytes_per_step(shape, dtype, 100, samples) / 2**20 == pytest.approx(mib, abs=3)
    assert bytes_per_step(shape, dtype, 100, 9) - bytes_per_step(shape, dtype, 100, 1) == pytest.approx(
        8 * 12 * 2 * 768 * 50 * (4 if dtype == "float32" else 2))


@slow
def test_app_benchmark_measures_everything(tmp_path: Path) -> None:
    """真的伪终端上走完全部各项，缩小了的；每一项都有数，数都说得通，不问快慢。约一分钟。"""
    out = tmp_path / "results.json"
    done = subprocess.run([sys.executable, str(BENCHMARKS / "app.py"), "--quick", "--out", str(out)],
                          capture_output=True, text=True, env=ENVIRON, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the numbers mean nothing" in done.stdout and "wanted" in done.stdout
    results = json.loads(out.read_text(encoding="utf-8"))
    start, opened = results["start"], results["open"]
    assert 0 < start["first_frame_s"] <= start["list_s"] and start["rss_mib"] > 20
    assert opened["open_s"] > 0 and 0 < opened["read_s"] <= opened["from_command_s"] and opened["keys"] > 1
    assert [item["events"] for item in results["redraw"]] == [500, 1000, 5000]
    assert all(item["redraw_ms"] > 0 for item in results["redraw"])
    # 都结束了：一个字节也没有
    assert all(results["idle"][where]["bytes_per_second"] == 0 for where in ("list", "monitor"))
    assert [item["rate"] for item in results["watching"]] == [0, 1, 10]
    assert results["watching"][2]["bytes_per_second"] > 0 and results["watching"][2]["cpu_share"] > 0
    for name in ("keys", "keys_many"):
        for where in ("list", "monitor"):
            assert 0 < results[name][where]["median_ms"] <= results[name][where]["worst_ms"]
            assert results[name][where]["keys"] == 5
    assert results["keys_many"]["live_runs"] == 2 and results["quick"]
    writing = results["playground"]
    assert 0 < writing["median_ms"] <= writing["worst_ms"] and writing["keys"] == 5
    assert writing["bytes_per_second"] > 0, "nothing was being written"


def test_app_terminal_times_and_counts(tmp_path: Path) -> None:
    """看到的时刻在按键之后；离开是退出码 0；终端没了是 SIGHUP。"""
    import signal

    from app_terminal import AppTerminal

    terminal = AppTerminal(tmp_path)
    assert terminal.see("No runs here yet") >= terminal.see("nanogpt-workbench") > terminal.began
    terminal.quiet_since(0.5)
    assert terminal.count_bytes(0.3) == 0
    mark, pressed = terminal.mark(), terminal.type("?")
    assert terminal.see("quick start", mark) > pressed
    with pytest.raises(TimeoutError):
        terminal.see("never on this screen", limit_s=0.2)
    terminal.hang_up()
    assert terminal.wait() in (-signal.SIGHUP, 0, 1) and not terminal.is_open
