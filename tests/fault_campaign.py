"""训练器的故障注入：测试用其中一份有种子的样本，`python tests/fault_campaign.py` 跑足全部次数。

次数见贡献者文档里的「门槛」：每一个写点 × {SIGKILL、SIGINT、SIGTERM、ENOSPC、EIO、EFBIG}，1,000 次随机 kill -9，
1,000 次翻位与 1,000 次截断；应用的 100 次 kill -9 与它的终端的 100 次结束在 `detach`。训练器是真的（`trainer_fork`），
信号是真的；只有系统调用的失败是在分叉出的进程里包住 `open`、`write`、`fsync`、`rename` 造出来的。
"""

import argparse
import builtins
import errno
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainer_fork import ROOT, Run, TrainerServer

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM}
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EFBIG": errno.EFBIG}
# 每步都存；第 2 次保存里注入，第 1 次的就是「旧的」
EVERY_STEP = ("--eval_interval=1", "--eval_iters=1", "--max_iters=4", "--out_dir=out")


class _Injector:
    """数着 `ckpt.pt` 第 `save` 次保存里的系统调用，在第 `at` 个上出错或送信号。

    `phase`：`before`，`middle`（写了一半），`after`。`trace`：把每个调用的名字写到这个文件。
    """

    def __init__(self, kind: str, at: int = -1, phase: str = "before", save: int = 2, trace: str = ""):
        self.kind, self.at, self.phase, self.save, self.trace = kind, at, phase, save, trace
        self.saves = self.calls = 0
        self.is_saving = False
        self.names: list[str] = []
        self.real_open, self.real_fsync, self.real_rename = os.open, os.fsync, os.rename

    def call(self, name: str, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """执行一个系统调用，轮到它就出事。"""
        if not self.is_saving or self.saves != self.save:
            return act()
        index, self.calls = self.calls, self.calls + 1
        if self.trace:
            self.names.append(name)
            Path(self.trace).write_text(json.dumps(self.names), encoding="utf-8")
        if index != self.at:
            return act()
        if self.kind in ERRORS:
            if half is not None and self.phase == "middle":
                half()
            raise OSError(ERRORS[self.kind], os.strerror(ERRORS[self.kind]))
        if self.phase == "middle" and half is not None:
            half()
        elif self.phase == "after":
            act()
        os.kill(os.getpid(), SIGNALS[self.kind])
        # 到得了这里的不是 SIGKILL：调用照常完成
        return None if self.phase == "after" else act()

    def open(self, path: Any, flags: int, mode: int = 0o777, **rest: Any) -> int:
        if str(path).endswith(".tmp") and Path(path).name.startswith("ckpt.pt"):
            self.saves, self.is_saving, self.calls = self.saves + 1, True, 0
            fd: int = self.call("open", lambda: self.real_open(path, flags, mode, **rest))
            return fd
        return self.real_open(path, flags, mode, **rest)

    def open_file(self, file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        """`open(fd, "wb")` 的替身：缓冲照旧，每次真的 `write(2)` 都先经过 `call`。"""
        if mode == "wb" and isinstance(file, int) and self.is_saving:
            return io.BufferedWriter(_CountedFile(self, file))
        return builtins.open(file, mode, *rest, **options)

    def fsync(self, fd: int) -> None:
        is_folder = not os.path.isfile(f"/proc/self/fd/{fd}")
        self.call("fsync folder" if is_folder else "fsync file", lambda: self.real_fsync(fd))
        if is_folder:
            self.is_saving = False

    def rename(self, old: Any, new: Any) -> None:
        self.call("rename", lambda: self.real_rename(old, new))


class _CountedFile(io.FileIO):
    def __init__(self, injector: _Injector, fd: int):
        super().__init__(fd, "wb")
        self.injector = injector

    def write(self, data: Any) -> int:
        size: int = self.injector.call("write", lambda: super(_CountedFile, self).write(data),
                                       lambda: super(_CountedFile, self).write(bytes(data)[:len(data) // 2]))
        return size


def install(spec: dict[str, Any]) -> None:
    """在分叉出的训练器里装上注入。`{"kind": "fsize", "bytes": n}` 则用真的 `RLIMIT_FSIZE`。"""
    if spec["kind"] == "fsize":
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (spec["bytes"], spec["bytes"]))
        return
    if spec["kind"] == "statvfs":
        # 假的剩余空间；测试里填满真的磁盘不体面
        shutil.disk_usage = lambda _path: shutil._ntuple_diskusage(1 << 30, 1 << 30, spec["free"])  # type: ignore
        return
    if spec["kind"] == "ignore_sigint":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return
    if spec["kind"] == "umask":
        os.umask(spec["umask"])
        return
    if spec["kind"] == "stop_file":
        _stop_at(spec["at"])
        return
    if spec["kind"] == "same_batches":
        _same_batches(spec["folder"])
        return
    import nanogpt.atomic as atomic

    injector = _Injector(**spec)
    os.open, os.fsync, os.rename = injector.open, injector.fsync, injector.rename  # type: ignore[assignment]
    atomic.open = injector.open_file  # type: ignore[attr-defined]


def _stop_at(at: int) -> None:
    """第 `at` 步开始之前放下停止文件：等在「有没有停止文件」这一问上，好停在说定的那一步。"""
    import nanogpt.train as train
    from nanogpt.rundir import STOP

    real = train.get_lr

    def get_lr(config: Any, it: int) -> float:
        if it == at:
            Path(config.out_dir, STOP).touch()
        return real(config, it)

    train.get_lr = get_lr


def _same_batches(folder: str) -> None:
    """第 n 个微批由它在全部 rank 里的号码决定，所以几个 rank 合起来与单进程看到同样的数据；记下裁剪前的梯度。"""
    import torch

    from nanogpt.training import Training

    drawn = 0

    def next_batch(t: Training) -> Any:
        nonlocal drawn
        step, micro = divmod(drawn, t.accumulation)
        drawn += 1
        number = (step * t.ranks.world_size + t.ranks.rank) * t.accumulation + micro
        dice = torch.Generator().manual_seed(number)
        last = t.batches.dataset.tokens("train") - t.config.block_size
        t.ix = torch.randint(last, (t.config.batch_size,), generator=dice)
        return t.batches.load("train", t.ix)

    real, saved = torch.nn.utils.clip_grad_norm_, []

    def clip(parameters: Any, limit: float) -> Any:
        parameters = list(parameters)
        saved.append([p.grad.clone() for p in parameters])
        torch.save(saved, Path(folder) / f"grads-{os.environ.get('RANK', 'single')}.pt")
        return real(parameters, limit)

    Training.next_batch = next_batch  # type: ignore[method-assign]
    torch.nn.utils.clip_grad_norm_ = clip  # type: ignore[assignment]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def events_of(out: Path) -> list[dict[str, Any]]:
    """`events.jsonl` 的全部事件；每一行都要合法、`seq` 无缺号。"""
    from nanogpt.events import parse_line

    lines = (out / "events.jsonl").read_bytes().splitlines(keepends=True)
    found = [parse_line(line) for line in lines]
    assert all(fields is not None for fields in found), "an unreadable line"
    events = [fields for fields in found if fields is not None]
    assert [e["seq"] for e in events] == list(range(len(events))), "a gap in seq"
    return events


class SavePoints:
    """一次保存里的每一个系统调用，与出事前后 `ckpt.pt` 应有的字节。"""

    def __init__(self, server: TrainerServer, folder: Path, args: tuple[str, ...]):
        self.server, self.folder, self.args, self.count = server, folder, (*args, *EVERY_STEP), 0
        trace = folder / "trace.json"
        first = self.run({"kind": "SIGKILL", "at": 0, "save": 2, "trace": str(trace)})
        self.old = digest(first / "out" / "ckpt.pt")
        self.run({"kind": "count", "save": 2, "trace": str(trace)})
        self.names: list[str] = json.loads(trace.read_text(encoding="utf-8"))
        last = self.run({"kind": "SIGKILL", "at": len(self.names) - 1, "phase": "after", "save": 2})
        self.new = digest(last / "out" / "ckpt.pt")
        assert self.old and self.new and self.old != self.new

    def run(self, inject: dict[str, Any] | None, *more: str, cwd: Path | None = None) -> Path:
        """在新的目录里训练一次，返回那个目录；数据集是共用的。"""
        if cwd is None:
            self.count += 1
            cwd = self.folder / f"run-{self.count}"
            cwd.mkdir()
            (cwd / "data").symlink_to(self.folder / "data")
        self.last: Run = self.server.train(cwd, *self.args, *more, inject=inject)
        return cwd

    def check(self, kind: str, at: int, phase: str = "before") -> None:
        """第 `at` 个调用上出 `kind` 这件事：不丢、能接着训练、没有残留。"""
        cwd = self.run({"kind": kind, "at": at, "phase": phase, "save": 2})
        out, where = cwd / "out", f"{kind} {phase} call {at} ({self.names[at]})\n{self.last.output}"
        events = events_of(out)
        if kind == "SIGKILL":
            assert self.last.returncode == -signal.SIGKILL, where
            assert digest(out / "ckpt.pt") in (self.old, self.new), where
            self.run(None, "--init_from=resume", cwd=cwd)
            assert self.last.returncode == 0, where + self.last.output
            assert events_of(out)[-1]["status"] == "finished", where
        elif kind in SIGNALS:
            assert self.last.returncode == 0 and events[-1]["status"] == "stopped", where
            saved = [e["iter"] for e in events if e["event"] == "checkpoint"]
            assert saved[1] == 2 and saved[-1] == events[-1]["iter"], where
        else:
            warnings = [e for e in events if e["event"] == "warning"]
            assert self.last.returncode == 0 and events[-1]["status"] == "finished", where
            assert [w["code"] for w in warnings] == ["checkpoint_failed"], where
            saved = [e["iter"] for e in events if e["event"] == "checkpoint"]
            assert saved == [1, 3, 4], where
        assert not list(out.glob("*.tmp")), where
        load(out / "ckpt.pt")
        shutil.rmtree(cwd)

    def all_points(self, kind: str) -> list[tuple[str, int, str]]:
        """`kind` 的全部注入点；写还有「写了一半」。"""
        phases = [(at, "before") for at in range(len(self.names))]
        phases += [(at, "middle") for at, name in enumerate(self.names) if name == "write"]
        if kind == "SIGKILL":
            phases.append((len(self.names) - 1, "after"))
        return [(kind, at, phase) for at, phase in phases]


def load(path: Path) -> dict[str, Any]:
    from nanogpt.checkpoint import load_checkpoint

    return load_checkpoint(path)


def same(a: Any, b: Any) -> bool:
    """逐位相同；张量连类型与形状一起比，NaN 也按位比。"""
    import torch

    if isinstance(a, torch.Tensor):
        return (isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape
                and a.numpy().tobytes() == b.numpy().tobytes())
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def random_kills(server: TrainerServer, cwd: Path, args: tuple[str, ...], kills: int, seed: int) -> dict[str, int]:
    """随机时刻 kill -9 每步都存的训练器，一次次续训；返回各种结果的次数。出一次差错就断言失败。"""
    dice, out = random.Random(seed), cwd / "out"
    last_iter, count = -1, {"kills": 0, "with checkpoint": 0, "with stale temp file": 0}
    longest = 0.0
    args = (*args, "--eval_interval=1", "--eval_iters=1", "--max_iters=1000000", "--lr_decay_iters=1000000",
            "--out_dir=out")
    for kill in range(kills):
        has_checkpoint = (out / "ckpt.pt").exists()
        began = time.monotonic()
        run = server.start(cwd, *args, "--init_from=resume" if has_checkpoint else "--overwrite")
        if kill == 0:
            # 第一次等到有检查点：之后每次死在它的两倍时间之内，机器快慢都杀得到各个时刻
            while not (out / "ckpt.pt").exists():
                time.sleep(0.005)
                assert run.poll() is None, run.output
            longest = 2 * (time.monotonic() - began)
        time.sleep(dice.uniform(0.03, longest))
        run.kill(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL, f"kill {kill}: {run.output}"
        count["kills"] += 1
        if not (out / "ckpt.pt").exists():
            assert not has_checkpoint, f"kill {kill}: the checkpoint is gone"
            continue
        saved = load(out / "ckpt.pt")
        assert saved["iter_num"] >= last_iter, f"kill {kill}: went back from {last_iter} to {saved['iter_num']}"
        said = max((e["iter"] for e in events_of(out) if e["event"] == "checkpoint"), default=0)
        # 死在改名与记事件之间时，文件比日志新一份；接连如此，就比上一次的文件新一份
        assert said <= saved["iter_num"] <= max(said, last_iter) + 1, f"kill {kill}: {said}, {saved['iter_num']}"
        last_iter = saved["iter_num"]
        count["with checkpoint"] += 1
        count["with stale temp file"] += any(out.glob("ckpt.pt.*.tmp"))
        run.log.unlink(missing_ok=True)
    # 最后一次不杀：残留的临时文件已清掉，请它停就停
    seen = len(events_of(out))
    run = server.start(cwd, *args, "--init_from=resume")
    # 等它自己的事件，旧的不算：早了，它还没有接管信号
    while not any(event["event"] in ("iter", "checkpoint") for event in events_of(out)[seen:]):
        time.sleep(0.01)
        assert run.poll() is None, run.output
    run.kill(signal.SIGTERM)
    assert run.wait() == 0, run.output
    assert events_of(out)[-1]["status"] == "stopped" and not list(out.glob("*.tmp"))
    return count


def corruptions(path: Path, kind: str, times: int, seed: int) -> Iterator[bytes]:
    """`path` 的 `times` 份坏了的副本：`flip` 翻一位，`cut` 截短。"""
    dice, whole = random.Random(seed), path.read_bytes()
    for _ in range(times):
        if kind == "cut":
            # 一半均匀分布，一半只缺末尾几个字节
            yield whole[:dice.randrange(len(whole)) if dice.random() < 0.5 else len(whole) - dice.randint(1, 64)]
        else:
            damaged = bytearray(whole)
            # 容器的目录在末尾，只占一小部分：三分之一的翻位专打那里
            start = 0 if dice.random() < 0.67 else len(whole) * 9 // 10
            damaged[dice.randrange(start, len(whole))] ^= 1 << dice.randrange(8)
            yield bytes(damaged)


def corruption_campaign(good: Path, kind: str, times: int, seed: int) -> dict[str, int]:
    """每一份都要在使用之前被认出，并提出旁边完好的那份；或者读出来逐位相同（坏在无关紧要处）。"""
    from nanogpt.errors import BadInput

    original, count = load(good), {"refused": 0, "harmless": 0}
    with tempfile.TemporaryDirectory(dir=good.parent) as folder:
        shutil.copy(good, Path(folder) / "ckpt-2.pt")
        target = Path(folder) / "ckpt.pt"
        for number, damaged in enumerate(corruptions(good, kind, times, seed)):
            target.write_bytes(damaged)
            try:
                loaded = load(target)
            except BadInput as error:
                assert error.code == "bad_checkpoint" and "ckpt-2.pt" in error.hint, f"{kind} {number}: {error}"
                assert len(str(error).splitlines()) <= 3, str(error)
                count["refused"] += 1
            else:
                assert same(original, loaded), f"{kind} {number} of seed {seed}: silently read wrong"
                count["harmless"] += 1
            assert target.read_bytes() == damaged, "the checkpoint was changed"
    return count


Row = tuple[str, int, str, float]
PARTS = ("saves", "corruption", "kills", "detach")


def save_rows(points: SavePoints, _scale: float) -> Iterator[Row]:
    for kind in (*SIGNALS, *ERRORS):
        began, todo = time.monotonic(), points.all_points(kind)
        for point in todo:
            points.check(*point)
        yield f"{kind} in a save", len(todo), "0 lost", time.monotonic() - began


def corruption_rows(points: SavePoints, scale: float) -> Iterator[Row]:
    good, times = points.run(None) / "out" / "ckpt.pt", max(1, int(1000 * scale))
    for kind in ("flip", "cut"):
        began = time.monotonic()
        count = corruption_campaign(good, kind, times, seed=1337)
        yield (f"checkpoint {kind}", times, f"{count['refused']} refused, {count['harmless']} harmless "
               "(identical contents), 0 read wrong", time.monotonic() - began)


def kill_rows(points: SavePoints, scale: float) -> Iterator[Row]:
    began = time.monotonic()
    count = random_kills(points.server, points.folder, points.args[:-len(EVERY_STEP)], max(1, int(1000 * scale)), 1337)
    yield ("kill -9 at random", count["kills"], f"0 lost; {count['with checkpoint']} with a checkpoint, "
           f"{count['with stale temp file']} inside a save", time.monotonic() - began)


def detach_rows(folder: Path, scale: float) -> Iterator[Row]:
    """应用的死：不需要分叉的训练器，训练由应用启动。"""
    from conftest import make_tiny_dataset
    from detach import campaign

    make_tiny_dataset(folder / "data" / "python_stdlib")
    began, times = time.monotonic(), max(1, int(100 * scale))
    count, iters = campaign(folder, times, times, seed=1337)
    for kind, number in count.items():
        yield f"app: {kind}", number, f"0 of {iters} iterations lost", (time.monotonic() - began) / len(count)


def rows_of(parts: list[str], folder: Path, scale: float) -> Iterator[Row]:
    from conftest import TINY, make_tiny_dataset

    makers = {"saves": save_rows, "corruption": corruption_rows, "kills": kill_rows}
    if set(parts) & set(makers):
        server = TrainerServer()
        try:
            make_tiny_dataset(folder / "data" / "tiny")
            points = SavePoints(server, folder, TINY)
            for name in [name for name in makers if name in parts]:
                yield from makers[name](points, scale)
        finally:
            server.close()
    if "detach" in parts:
        (folder / "detach").mkdir()
        yield from detach_rows(folder / "detach", scale)


def main() -> None:
    parser = argparse.ArgumentParser(description="Inject faults at full count and print what was lost.")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), help="these parts (default: all)")
    parser.add_argument("--scale", type=float, default=1.0, help="a fraction of the random counts, such as 0.1")
    args = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        for row in rows_of(args.only, Path(name), args.scale):
            rows.append(row)
            print(row, flush=True)
    print("\n| fault | times | result | seconds |\n|---|---|---|---|")
    for what, times, result, seconds in rows:
        print(f"| {what} | {times} | {result} | {seconds:.0f} |")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
