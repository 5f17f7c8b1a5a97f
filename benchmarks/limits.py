"""这台机器的上限：矩阵乘法每秒多少次浮点运算，内存每秒读得出多少字节。

    python benchmarks/limits.py [DEVICE]

`train.py`、`sample.py` 与 `gpu_parts.py` 起它作子进程，拿量到的速度与上限相比；它们自己不导入 `torch`。
打印一行 JSON。同样的线程数，几秒之内；取最快的一次，因为别的工作只会让它慢。
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from processes import ROOT, environ


def measure_limits(device: str = "cpu") -> dict[str, Any]:
    """起一个进程去量；量不成则为空。"""
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "limits.py"), device], env=environ(),
                          stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}


def main() -> int:
    import torch

    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    is_cuda = device.startswith("cuda")
    found: dict[str, Any] = {"device": device, "threads": torch.get_num_threads()}

    def fastest(work: Callable[[], Any], seconds: float = 0.6) -> float:
        """`seconds` 之内最快的一次；至少做三次。"""
        best, began, count = float("inf"), time.perf_counter(), 0
        while count < 3 or time.perf_counter() - began < seconds:
            start = time.perf_counter()
            work()
            if is_cuda:
                torch.cuda.synchronize()
            best, count = min(best, time.perf_counter() - start), count + 1
        return best

    size = 8192 if is_cuda else 1024
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        torch.backends.cuda.matmul.allow_tf32 = True
        a, b = torch.randn(2, size, size, device=device, dtype=dtype)
        found[f"{name}_flops"] = 2 * size**3 / fastest(lambda a=a, b=b: a @ b)  # type: ignore[misc]
    # 比缓存大得多的权重乘一个向量，即逐个 token 采样时所做的；再与求和相比，取快的
    weights = torch.ones(32768 if is_cuda else 8192, 8192, device=device)
    vector = torch.ones(8192, device=device)
    seconds = min(fastest(lambda: weights @ vector), fastest(weights.sum))
    found["read_bytes_per_second"] = weights.numel() * 4 / seconds
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
