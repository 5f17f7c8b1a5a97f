"""`benchmarks/gpu.sh` 的各个部分：每个部分一个进程，边做边写 `part-<名字>.json`。

被上限杀掉的部分也留下已经得到的；`gpu_report.py` 把它们合成报告。
`DRY_RUN=cpu` 时走同样的代码，形状极小，没有 nccl、显存不足与编译。
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gpu_correctness
from gpu_correctness import Check
from gpu_speed import measure_batches, measure_modern, measure_sampling, measure_speed, train_xl, warm_compile_cache
from limits import measure_limits
from report import machine

DRY = os.environ.get("DRY_RUN") == "cpu"


class Part:
    """一个部分的结果；每加一样就写一次文件。"""

    def __init__(self, name: str, out: Path):
        self.path = out / f"part-{name}.json"
        self.began = time.monotonic()
        self.deadline_s = float(os.environ.get("DEADLINE_S", "600"))
        self.results: dict[str, Any] = {"part": name, "status": "did not finish", "dry_run": DRY}
        self.write()

    def left_s(self) -> float:
        """离这个部分该收尾还有几秒。"""
        return self.deadline_s - (time.monotonic() - self.began)

    def put(self, **values: Any) -> None:
        self.results |= values
        self.write()

    def write(self) -> None:
        self.results["seconds"] = round(time.monotonic() - self.began, 1)
        self.path.write_text(json.dumps(self.results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def environment(part: Part) -> bool:
    """GPU、驱动与各个版本；没有 CUDA 或缺包就是失败。"""
    part.put(machine=machine())
    try:
        smi = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20)
        part.put(nvidia_smi=smi.stdout)
        print(smi.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        part.put(nvidia_smi=f"none: {error}")
    # 本进程也不导入 torch：这里查的是各部分要起的那个解释器
    code = ("import json, torch, numpy, tomlkit; ok = torch.cuda.is_available(); "
            "print(json.dumps({'torch': torch.__version__, 'cuda': torch.version.cuda, 'available': ok, "
            "'device': torch.cuda.get_device_name() if ok else None, "
            "'capability': torch.cuda.get_device_capability() if ok else None, "
            "'memory_mib': torch.cuda.get_device_properties(0).total_memory >> 20 if ok else None, "
            "'threads': torch.get_num_threads()}))")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if found.returncode:
        part.put(error=found.stderr[-1000:])
        print(found.stderr)
        return False
    torch = json.loads(found.stdout.splitlines()[-1])
    part.put(torch=torch, compiler=shutil.which("gcc") or shutil.which("cc"))
    print(f"python {platform.python_version()}, {torch}, C compiler: {part.results['compiler']}")
    if torch["available"]:
        part.put(limits=measure_limits("cuda"))
        print(f"measured limits: {part.results['limits']}")
    return bool(torch["available"]) or DRY


def correctness(part: Part) -> bool:
    checks: list[Check] = []

    def add(check: Check) -> None:
        checks.append(check)
        print(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['said']}", flush=True)
        part.put(checks=checks)

    gpu_correctness.run_all(add, part.left_s, DRY)
    return bool(checks) and all(check["ok"] for check in checks)


def _nanogpt() -> Path | None:
    path = os.environ.get("NANOGPT")
    return Path(path).resolve() if path else None


def warm(part: Part) -> bool:
    return warm_compile_cache(part, _nanogpt(), DRY)


def speed(part: Part) -> bool:
    return measure_speed(part, _nanogpt(), DRY)


def modern(part: Part) -> bool:
    return measure_modern(part, DRY)


def sampling(part: Part) -> bool:
    return measure_sampling(part, _nanogpt(), DRY)


def batches(part: Part) -> bool:
    return measure_batches(part, _nanogpt(), DRY)


def xl(part: Part) -> bool:
    return train_xl(part, DRY)


PARTS = {"environment": environment, "correctness": correctness, "warm": warm, "speed": speed, "modern": modern,
         "sampling": sampling, "batches": batches, "xl": xl}


def _stop(_signal: int, _frame: Any) -> None:
    # `timeout` 的 SIGTERM 变成异常，`finally` 才会把子进程一并收走
    raise SystemExit(124)


def main() -> int:
    signal.signal(signal.SIGTERM, _stop)
    name, out = sys.argv[1], Path(sys.argv[2])
    part = Part(name, out)
    ok = PARTS[name](part)
    part.put(status="ok" if ok else "failed")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
