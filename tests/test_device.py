"""设备与精度的选择、峰值表，编译。约 15 秒；有 CUDA 的机器上多查几项。"""

from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt import device as devices
from nanogpt.errors import BadInput
from nanogpt.model import GPT, GPTConfig

HAS_CUDA = torch.cuda.is_available()


def test_auto_takes_the_best() -> None:
    found = devices.available_devices()
    assert found[-1] == "cpu" and devices.choose_device("auto") == found[0] and devices.choose_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["cuda:99", "cuda", "mps"])
def test_absent_device_names_what_is_here(name: str) -> None:
    """第 34 行。"""
    if name.replace("cuda", "cuda:0", name == "cuda") in devices.available_devices():
        pytest.skip("this machine has it")
    with pytest.raises(BadInput) as caught:
        devices.choose_device(name)
    assert caught.value.code == "no_device" and "cpu" in caught.value.hint and name in caught.value.what


def test_dtype_and_compile_on_a_cpu() -> None:
    assert devices.choose_dtype("auto", "cpu") == "float32" == devices.choose_dtype("auto", "mps")
    assert devices.choose_dtype("bfloat16", "cpu") == "bfloat16"
    assert devices.choose_compile("auto", "cpu") is False and devices.choose_compile(True, "cpu") is True


def test_compile_pays_only_for_long_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU 上：够长，而且有 C++ 编译器与 Python 的头文件。J1 的两千步不够，124M 的上万步够。"""
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.choose_compile("auto", "cpu", 1e18) is False
    (tmp_path / "g++").touch(0o755)
    monkeypatch.setattr(devices.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    assert devices.choose_compile("auto", "cpu", 1e18) is False
    (tmp_path / "Python.h").touch()
    assert devices.choose_compile("auto", "cpu", 1e18) is True
    assert devices.choose_compile(False, "cpu", 1e18) is False and devices.choose_compile("auto", "mps", 1e18) is False
    j1 = GPT(GPTConfig(block_size=64, vocab_size=65, n_layer=4, n_head=4, n_embd=128)).flops_per_token() * 12 * 64
    assert devices.choose_compile("auto", "cpu", j1 * 2000) is False
    assert devices.choose_compile("auto", "cpu", j1 * 20000) is True


def test_compiled_equals_plain() -> None:
    """CPU 上真的编译一次（十几秒）：损失、梯度都与不编译的相同，一个图到底；词表大，所以走分段的交叉熵。"""
    if not devices.choose_compile("auto", "cpu", 1e18):
        pytest.skip("no C++ compiler here")
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=32, block_size=256, vocab_size=50304, bias=False, rotary=True,
                          qk_norm=True, squared_relu=True, weightless_norm=True, untied_head=True))
    idx, targets = torch.randint(50304, (2, 3, 256)).unbind()
    targets[0, :5] = -1

    def step(forward: Any) -> list[torch.Tensor]:
        model.zero_grad()
        loss = forward(idx, targets, loss_only=True)[1]
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    expected, found = step(model), step(devices.compiled(model, "cpu"))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert len(found) == 1 + len(list(model.parameters()))
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("name, dtype, tflops", [
    ("NVIDIA A100-SXM4-40GB", "bfloat16", 312), ("NVIDIA A100 80GB PCIe", "float32", 156),
    ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4), ("NVIDIA H100 PCIe", "bfloat16", 756),
    ("NVIDIA H200", "bfloat16", 989.4), ("NVIDIA B200", "bfloat16", 2250), ("NVIDIA GB200", "bfloat16", 2500),
    ("NVIDIA L4", "bfloat16", 121), ("NVIDIA L40S", "bfloat16", 362.1), ("NVIDIA L40", "bfloat16", 181.1),
    ("NVIDIA A10G", "float16", 70), ("NVIDIA A10", "float16", 125), ("NVIDIA A40", "bfloat16", 149.7),
    ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2), ("NVIDIA GeForce RTX 3090", "bfloat16", 71),
    ("NVIDIA GeForce RTX 3090 Ti", "bfloat16", 80), ("Tesla T4", "float16", 65),
    ("Tesla V100-SXM2-16GB", "float16", 125)])
def test_peak_flops(name: str, dtype: str, tflops: float) -> None:
    """torch 报出的名字认得对，不把 L40 当 L4、A100 当 A10。"""
    assert devices.peak_flops(name, dtype) == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize("name, dtype", [
    ("Tesla T4", "bfloat16"), ("Tesla V100-SXM2-16GB", "bfloat16"), ("NVIDIA Something 9", "bfloat16"),
    ("CPU (x86_64, 2 threads)", "float32"), ("Apple MPS", "float32"), ("", "float16")])
def test_unknown_peak_is_none(name: str, dtype: str) -> None:
    assert devices.peak_flops(name, dtype) is None


def test_cpu_facts() -> None:
    name = devices.device_name("cpu")
    assert name.startswith("CPU (") and devices.peak_flops(name, "float32") is None
    before = devices.memory_mib("cpu")
    kept = torch.ones(64 << 18)  # 64 MiB，真的写过
    assert 40 < devices.memory_mib("cpu") - before < 200 and kept.numel()
    devices.synchronize("cpu")


def test_autocast() -> None:
    x = torch.ones(2, 2)
    with devices.autocast("cpu", "bfloat16"):
        assert (x @ x).dtype == torch.bfloat16
    with devices.autocast("cpu", "float32"):
        assert (x @ x).dtype == torch.float32


@pytest.mark.skipif(not HAS_CUDA, reason="needs CUDA")
def test_cuda() -> None:
    assert devices.choose_device("auto") == "cuda:0" == devices.choose_device("cuda")
    assert devices.choose_device("cuda", local_rank=0) == "cuda:0"
    assert devices.choose_dtype("auto", "cuda:0") in ("bfloat16", "float16")
    with pytest.raises(BadInput, match="not here") as caught:
        devices.choose_device("cuda", local_rank=99)
    assert "nproc_per_node" in caught.value.hint
