"""基准：只计训练步（与采样）的时间，不带日志、评估与检查点。

    python -m nanogpt.bench --device=cpu --batch_size=1 --num_steps=3 --real_data=False
    python -m nanogpt.bench --profile

键与 nanoGPT 的 `bench.py` 相同，另可定形状、步数与采样。
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from nanogpt.config import BenchConfig, load_config, wants_debug
from nanogpt.dataset import check_dataset, open_dataset
from nanogpt.errors import run_main
from nanogpt.i18n import N_
from nanogpt.preflight import scratch_vocab_size

USAGE = "python -m nanogpt.bench [--key=value ...]"
ABOUT = N_("Time the training step and sampling without the rest.")
TRACE_DIR = "bench_log"


def main(argv: list[str]) -> int:
    """读配置，按所选的方式计时或剖析。"""
    config, _explicit = load_config(BenchConfig, argv, USAGE, ABOUT)
    dataset = open_dataset(config.dataset) if config.real_data else None
    vocab_size = scratch_vocab_size(dataset)
    if dataset:
        check_dataset(dataset, config.block_size, vocab_size)

    import torch

    from nanogpt import device as devices
    from nanogpt.batches import RandomWindows
    from nanogpt.model import GPT, GPTConfig

    device = devices.choose_device(config.device)
    dtype = devices.choose_dtype(config.dtype, device)
    devices.seed(config.seed)
    if device == "cpu":
        devices.keep_freed_memory()
    if dataset:
        batches = RandomWindows(dataset, config.batch_size, config.block_size, vocab_size, device)
        get_batch: Callable[[], Any] = lambda: batches.load("train", batches.draw("train"))  # noqa: E731
    else:
        fixed = torch.randint(vocab_size, (2, config.batch_size, config.block_size), device=device)
        get_batch = lambda: (fixed[0], fixed[1])  # noqa: E731
    model = GPT(GPTConfig(block_size=config.block_size, vocab_size=vocab_size, n_layer=config.n_layer,
                          n_head=config.n_head, n_embd=config.n_embd, bias=config.bias)).to(device)
    optimizer = model.configure_optimizers(1e-2, 1e-4, (0.9, 0.95), device.split(":")[0])
    scaler = torch.amp.GradScaler(device.split(":")[0], enabled=dtype == "float16")
    compiled = devices.compiled(model, device) if devices.choose_compile(config.compile, device) else model
    batch = get_batch()

    def step() -> float:
        nonlocal batch
        with devices.autocast(device, dtype):
            loss = compiled(*batch, loss_only=True)[1]
        batch = get_batch()
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    print(f"device: {devices.device_name(device)}, dtype: {dtype}, compile: {compiled is not model}, "
          f"parameters: {model.get_num_params() / 1e6:.2f}M", flush=True)
    if config.profile:
        profile(step, device)
        return 0
    seconds = time_steps(step, config, device)
    peak = devices.peak_flops(devices.device_name(device), dtype)
    mfu = f"{model.estimate_mfu(config.batch_size, seconds, peak) * 100:.2f}%" if peak else "n/a"
    print(f"time per iteration: {seconds * 1e3:.4f}ms, MFU: {mfu}, "
          f"tokens per second: {config.batch_size * config.block_size / seconds:.0f}, "
          f"memory: {devices.memory_mib(device):.0f} MiB")
    if config.sample_tokens:
        time_sampling(model, config.sample_tokens, device, dtype)
    return 0


def time_steps(step: Callable[[], float], config: BenchConfig, device: str) -> float:
    """热身之后每步的秒数。"""
    from nanogpt import device as devices

    for k in range(config.warmup_steps):
        print(f"{k}/{config.warmup_steps} loss: {step():.4f}", flush=True)
    devices.synchronize(device)
    began = time.perf_counter()
    for k in range(config.num_steps):
        print(f"{k}/{config.num_steps} loss: {step():.4f}", flush=True)
    devices.synchronize(device)
    return (time.perf_counter() - began) / config.num_steps


def profile(step: Callable[[], float], device: str) -> None:
    """剖析几步：轨迹写进 `bench_log/`（可用浏览器的 Perfetto 打开），并打印最费时的算子。"""
    import torch
    from torch.profiler import ProfilerActivity, schedule, tensorboard_trace_handler

    wait, warmup, active = 2, 2, 3
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.startswith("cuda") else [])
    with torch.profiler.profile(activities=activities, schedule=schedule(wait=wait, warmup=warmup, active=active),
                                on_trace_ready=tensorboard_trace_handler(TRACE_DIR), with_flops=True) as profiler:
        for _step in range(wait + warmup + active):
            step()
            profiler.step()
    key = "self_cuda_time_total" if device.startswith("cuda") else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=key, row_limit=15, max_name_column_width=40))
    print(f"trace: {TRACE_DIR}/")


def time_sampling(model: Any, tokens: int, device: str, dtype: str) -> None:
    """一条样本每秒多少 token；先走几步热身。"""
    import torch

    from nanogpt import device as devices

    model.eval()
    x = torch.zeros((1, 1), dtype=torch.long, device=device)
    with torch.inference_mode(), devices.autocast(device, dtype):
        model.generate(x, 5, top_k=200)
        devices.synchronize(device)
        began = time.perf_counter()
        model.generate(x, tokens, top_k=200)
        devices.synchronize(device)
    print(f"sampling: {tokens / (time.perf_counter() - began):.1f} tokens per second")


if __name__ == "__main__":
    sys.exit(run_main(lambda: main(sys.argv[1:]), wants_debug(sys.argv)))
