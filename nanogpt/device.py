"""设备与精度：选哪个、有哪些、峰值多少、用了多少内存。

`nanogpt.train`、`sample`、`bench` 由此取得设备；`auto` 在任何机器上都选得出能用的。
"""

import contextlib
import ctypes
import os
import platform
import resource
import shutil
import sys
import sysconfig
from contextlib import AbstractContextManager
from typing import Any

import torch

from nanogpt.errors import BadInput
from nanogpt.i18n import _

TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# 稠密（不计稀疏）矩阵乘法的峰值，TFLOP/s：（bfloat16 或 float16，float32 即 TF32）。
# 出处：各厂商的数据手册；GeForce 取自架构白皮书的 FP32 累加一列。前面的先匹配。
# T4 与 V100 没有 bfloat16 与 TF32：第一项只对 float16 成立，第二项是普通 FP32。
_PEAK_TFLOPS: dict[str, tuple[float, float]] = {
    "GB200": (2500, 1250), "B200": (2250, 1125),
    "H200 NVL": (835.5, 417.5), "H200": (989.4, 494.7),
    "H100 NVL": (835.5, 417.5), "H100 PCIe": (756, 378), "H100": (989.4, 494.7),
    "A100": (312, 156), "A40": (149.7, 74.8), "A10G": (70, 35), "A10": (125, 62.5), "RTX A6000": (154.8, 77.4),
    "L40S": (362.1, 183), "L40": (181.1, 90.5), "L4": (121, 60), "RTX 6000 Ada": (364.2, 182.1),
    "RTX 5090": (209.5, 104.8), "RTX 4090": (165.2, 82.6), "RTX 4080": (97.5, 48.7),
    "RTX 3090 Ti": (80, 40), "RTX 3090": (71, 35.6), "RTX 3080": (59.5, 29.8),
    "V100": (125, 15.7), "T4": (65, 8.1),
    "MI300X": (1307.4, 653.7), "MI250X": (383, 95.7),
}
_NO_BFLOAT16 = ("V100", "T4")
COMPILE_FLOPS = 5e13


def available_devices() -> list[str]:
    """本机可用的设备，最好的在前。"""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return cuda + (["mps"] if torch.backends.mps.is_available() else []) + ["cpu"]


def choose_device(name: str, local_rank: int | None = None) -> str:
    """`auto`、`cuda` 等变成确定的设备；本机没有则 `BadInput`，并说出有什么。

    `local_rank`：分布式时本机的第几个进程，各占一块 GPU。
    """
    devices = available_devices()
    if name == "auto":
        name = devices[0].split(":")[0]
    if name == "cuda":
        name = f"cuda:{local_rank or 0}"
    elif name.startswith("cuda:") and local_rank is not None:
        name = f"cuda:{local_rank}"
    if name not in devices:
        if local_rank is not None and devices[0].startswith("cuda"):
            hint = _("--nproc_per_node must be at most {n}; or --device=cpu").format(n=len(devices) - 1)
        else:
            hint = _("this machine has: {names}; --device=auto chooses").format(names=", ".join(devices))
        raise BadInput("no_device", _("device {name} is not here").format(name=name), "", hint)
    return name


def choose_dtype(name: str, device: str) -> str:
    """`auto` 变成确定的精度：CUDA 上有原生 bfloat16 就用它，没有就 float16；别处 float32。"""
    if name != "auto":
        return name
    if not device.startswith("cuda"):
        return "float32"
    # 老卡也自称支持 bfloat16，但那是模拟的，慢得多
    return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"


def keep_freed_memory() -> None:
    """让 glibc 留着刚释放的内存。默认它立刻还给系统，下一步再要就逐页清零，J1 的一步因此多花百分之三到十。"""
    if sys.platform != "linux":
        return
    with contextlib.suppress(AttributeError, OSError):  # musl 没有 mallopt
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 1 << 30)   # M_TRIM_THRESHOLD：堆顶空出这么多才归还
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD：更大的块仍直接向系统要（glibc 允许的最大值）


def has_fast_bfloat16(device_type: str) -> bool:
    """bfloat16 的矩阵乘法有没有专门的指令；没有的处理器上是模拟的，比 float32 还慢。"""
    if device_type == "cpu":
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return device_type == "cuda" and torch.cuda.get_device_capability()[0] >= 8


def choose_compile(value: bool | str, device: str, run_flops: float = 0.0) -> bool:
    """`auto`：装有 Triton 的 CUDA 上编译；CPU 上只有整个运行要做的 `run_flops` 够多、又有 C++ 编译器时才编译。

    CPU 上编译要二十秒到一分钟，此后每步快百分之五到十：`COMPILE_FLOPS` 大约是两核十几分钟的活，那以上才收得回来。
    """
    if value != "auto":
        return bool(value)
    if device.startswith("cuda"):
        from torch.utils._triton import has_triton

        return has_triton()
    has_header = os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++")), None)
    return device == "cpu" and run_flops >= COMPILE_FLOPS and has_header and compiler is not None


def compiled(model: torch.nn.Module, device: str) -> Any:
    """`torch.compile`，参数与 `model` 共用；第一次调用时才真的编译。"""
    if device != "cpu":
        return torch.compile(model)
    import torch._inductor.config as inductor

    # 否则每次起动都要起几个进程逐样试编译器认得哪些指令，一秒左右；只有 AMX 是还在用的编译器会不认得的
    if not torch.cpu.get_capabilities().get("amx_tile"):
        inductor.cpp.vec_isa_ok = True
    # 连调用各个核的外壳也编译成 C++：J1 的一步快百分之三，没有缓存时编译多花十秒
    return torch.compile(model, options={"cpp_wrapper": True})


def autocast(device: str, dtype: str) -> AbstractContextManager[Any]:
    """前向所用的精度；float32 时什么也不做。"""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device_type=device.split(":")[0], dtype=TORCH_DTYPES[dtype])


def device_name(device: str) -> str:
    """给人看的设备名，如 `NVIDIA H100 80GB HBM3`。"""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return "Apple MPS" if device == "mps" else f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def peak_flops(name: str, dtype: str) -> float | None:
    """名为 `name` 的 GPU 在 `dtype` 下每秒浮点运算的峰值；不知道则 None。"""
    for model, (half, single) in _PEAK_TFLOPS.items():
        # 词的边界：别让 `L4` 配上 `L40`，`A10` 配上 `A100`
        if f" {model} " in f" {name.replace('-', ' ').replace('/', ' ')} ":
            if dtype == "bfloat16" and model in _NO_BFLOAT16:
                return None
            return (single if dtype == "float32" else half) * 1e12
    return None


def memory_mib(device: str) -> float:
    """占用的内存，MiB：GPU 上是分配的峰值，CPU 上是本进程的常驻内存。"""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    if device == "mps":
        return torch.mps.current_allocated_memory() / 2**20
    try:
        # 每次记录都要读：绕过文件对象，只要几微秒
        fd = os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:
        # 没有 /proc（macOS）时退而用峰值，那里的单位是字节
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)
    pages = int(os.read(fd, 100).split()[1])
    os.close(fd)
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def seed(number: int) -> None:
    """定下随机数的种子，并允许 TF32：与 nanoGPT 的三个脚本开头相同。"""
    torch.manual_seed(number)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


def synchronize(device: str) -> None:
    """等设备做完手头的事，计时才作数。"""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()
