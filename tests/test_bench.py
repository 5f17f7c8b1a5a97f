"""基准命令：真的跑几步。约 15 秒，多半在导入 `torch` 的两个新进程。"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from trainer_fork import clean_env

from nanogpt import bench
from nanogpt.errors import BadInput

SMALL = ["--device=cpu", "--batch_size=2", "--block_size=8", "--n_layer=1", "--n_head=1", "--n_embd=8",
         "--warmup_steps=1", "--num_steps=2"]


def test_prints_the_line(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """nanoGPT 的那一行（`time per iteration: …ms, MFU: …`），另有吞吐量；CPU 的峰值未知，MFU 写 n/a。"""
    monkeypatch.chdir(workspace)
    assert bench.main([*SMALL, "--dataset=tiny", "--sample_tokens=3"]) == 0
    text = capsys.readouterr().out
    line = re.search(r"^time per iteration: ([\d.]+)ms, MFU: n/a, tokens per second: (\d+), memory: \d+ MiB$", text,
                     re.M)
    assert line is not None
    assert 2 * 8 / (float(line[1]) / 1e3) == pytest.approx(int(line[2]), rel=0.01)
    assert len(re.findall(r"^\d/\d loss: [\d.]+$", text, re.M)) == 3 and "device: CPU" in text
    assert re.search(r"^sampling: [\d.]+ tokens per second$", text, re.M)


def test_nanogpts_line(tmp_path: Path) -> None:
    """nanoGPT 的 `bench.py --real_data=False` 的写法，没有数据集也能跑；`--profile` 写出轨迹。"""
    argv = ["--real_data=False", "--compile=False", "--profile=True", *SMALL]
    done = subprocess.run([sys.executable, "-m", "nanogpt.bench", *argv], cwd=tmp_path, env=clean_env(), text=True,
                          capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr
    traces = list((tmp_path / "bench_log").iterdir())
    assert len(traces) == 1 and "Self CPU" in done.stdout and "trace: bench_log/" in done.stdout
    events = json.loads(traces[0].read_text(encoding="utf-8"))["traceEvents"]
    assert any("scaled_dot_product" in event.get("name", "") for event in events)


def test_missing_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nanoGPT 的 `python bench.py` 要 openwebtext：没有就说怎样准备。"""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as caught:
        bench.main([])
    assert "openwebtext" in str(caught.value) and "nanogpt.prepare openwebtext" in str(caught.value)
