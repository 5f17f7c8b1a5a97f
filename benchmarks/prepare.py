"""量 `nanogpt.prepare`：内存峰值、与分词器本身的速度之比、随机强杀再续做之后是否逐字节相同。

    python benchmarks/prepare.py --size-mb 2000                  # 议题里的那一次
    python benchmarks/prepare.py --size-mb 100 --tokenizer bpe   # 小的一次

语料是合成的：种子固定的词，按齐普夫分布，写成 JSON 行或文本文件。一切都在 `--work` 里，做完删去。
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nanogpt.prepare_pool import core_count  # noqa: E402

SYLLABLES = ("ka", "ri", "to", "mun", "sel", "dor", "wen", "pa", "li", "quo", "fer", "ast", "in", "gle", "bro", "tha",
             "nis")


def write_corpus(path: Path, size: int, seed: int = 7, kind: str = "jsonl") -> int:
    """约 `size` 字节的语料写进 `path`，返回正文的字节数。每篇 200 到 4,000 个词，约百分之一重复前面的一篇。"""
    chooser = random.Random(seed)
    words = ["".join(chooser.choices(SYLLABLES, k=chooser.randint(1, 4))) for _ in range(30_000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    total = text_bytes = 0
    earlier = ""
    # 一大把词随机切着用：逐词抽取两吉字节要几十分钟
    bag = [word + (". " if chooser.random() < 0.08 else ",\n" if chooser.random() < 0.03 else " ")
           for word in chooser.choices(words, weights, k=1_000_000)]
    with open(path, "w", encoding="utf-8") as file:
        while total < size:
            if earlier and chooser.random() < 0.01:
                text = earlier
            else:
                start = chooser.randrange(len(bag) - 4000)
                text = f"{chooser.getrandbits(64):x} " + "".join(bag[start : start + chooser.randint(200, 4000)])
                earlier = text if chooser.random() < 0.1 else earlier
            line = json.dumps({"text": text}) + "\n" if kind == "jsonl" else text + "\n"
            file.write(line)
            total += len(line)
            text_bytes += len(text)
    return text_bytes


def command(corpus: Path, out: Path, options: argparse.Namespace) -> list[str]:
    argv = [sys.executable, "-m", "nanogpt.prepare", "bench", "--input", str(corpus), "--out", str(out), "--overwrite",
            "--tokenizer", options.tokenizer, "--num-proc", str(options.num_proc), "--json"]
    return argv + (["--vocab-size", str(options.vocab_size)] if options.tokenizer == "bpe" else [])


def start(argv: list[str]) -> subprocess.Popen[bytes]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "NANOGPT_LANG": "en"}
    return subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, start_new_session=True)


def memory_mib(session: int) -> tuple[float, float]:
    """会话里全部进程此刻的内存：（常驻之和, 按份摊的之和）。共享的页在前者里算了几遍，在后者里只算一遍。"""
    rss = pss = 0
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or os.getsid(int(entry.name)) != session:
                continue
            fields = dict(line.split(":", 1) for line in (entry / "smaps_rollup").read_text().splitlines()[1:])
            rss += int(fields["Rss"].split()[0])
            pss += int(fields["Pss"].split()[0])
        except (OSError, KeyError, ValueError):
            continue
    return rss / 1024, pss / 1024


def measured_run(argv: list[str]) -> dict[str, Any]:
    """跑完一次：墙上时间、CPU 时间、内存峰值、各步的时刻。"""
    before, began = os.times(), time.perf_counter()
    process = start(argv)
    peak, over = [0.0, 0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            now = memory_mib(process.pid)
            peak[:] = [max(peak[0], now[0]), max(peak[1], now[1])]

    watcher = threading.Thread(target=watch)
    watcher.start()
    stages: dict[str, list[float]] = {}
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress":
            now = time.perf_counter()
            stages.setdefault(event["stage"], [now, now])[1] = now
    code = process.wait()
    over.set()
    watcher.join()
    after = os.times()
    if code:
        raise SystemExit(f"preparing failed with {code}")
    return {"wall_s": time.perf_counter() - began, "peak_rss_mib": peak[0], "peak_pss_mib": peak[1],
            "cpu_s": after.children_user + after.children_system - before.children_user - before.children_system,
            "stages_s": {name: round(end - begin, 2) for name, (begin, end) in stages.items()}}


def own_speed(corpus: Path, meta: dict[str, Any], processes: int, size: int) -> dict[str, float]:
    """分词器自己的速度：每个进程都编码已在内存里的同样多的文档，不读、不写、不散列。"""
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        results = list(pool.map(_encode_only, [(str(corpus), meta, size // processes, number)
                                               for number in range(processes)]))
    return {"mb_per_s": sum(size / seconds for size, seconds, _cpu in results) / 1e6,
            "cpu_s_per_mb": sum(cpu for _size, _seconds, cpu in results) / sum(r[0] for r in results) * 1e6}


def _encode_only(task: tuple[str, dict[str, Any], int, int]) -> tuple[int, float, float]:
    path, description, wanted, number = task
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from nanogpt.prepare_tokens import Encoder
    from nanogpt.tokenizer import tokenizer_from_dict

    encoder = Encoder(tokenizer_from_dict(description))
    texts, size = [], 0
    with open(path, encoding="utf-8") as file:
        file.seek(number * wanted)
        file.readline()
        for line in file:
            texts.append(json.loads(line)["text"])
            size += len(texts[-1].encode())
            if size >= wanted:
                break
    list(encoder.encode(texts[0]))
    began, cpu = time.perf_counter(), time.process_time()
    for text in texts:
        for _ids in encoder.encode(text):
            pass
    return size, time.perf_counter() - began, time.process_time() - cpu


def killed_runs(argv: list[str], out: Path, kills: int, seconds: float, chooser: random.Random) -> list[float]:
    """随机的时刻强杀 `kills` 次，再跑完；返回各次被杀时过了几秒。"""
    times = []
    while len(times) < kills:
        process = start(argv)
        wait = chooser.uniform(0.3, max(0.6, seconds / (kills + 1) * 1.2))
        time.sleep(wait)
        if process.poll() is not None:
            shutil.rmtree(out)  # 跑完了还没轮到杀：重来
            continue
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        times.append(round(wait, 2))
    process = start(argv)
    process.communicate()
    if process.returncode:
        raise SystemExit(f"resuming failed with {process.returncode}")
    return times


def digests(folder: Path) -> dict[str, str]:
    found = {}
    for name in ("train.bin", "val.bin", "meta.json"):
        with open(folder / name, "rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure nanogpt.prepare on a synthetic corpus.")
    parser.add_argument("--size-mb", type=int, default=100)
    parser.add_argument("--tokenizer", choices=("char", "byte", "gpt2", "bpe"), default="gpt2")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--num-proc", type=int, default=core_count())
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder for the corpus and the results (default: a temporary one)")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="nanogpt-prepare-", dir=options.work))
    try:
        corpus = work / "corpus.jsonl"
        text_bytes = write_corpus(corpus, options.size_mb * 1_000_000)
        whole = measured_run(command(corpus, work / "whole", options))
        meta = json.loads((work / "whole" / "meta.json").read_text(encoding="utf-8"))
        alone = own_speed(corpus, meta["tokenizer"], options.num_proc, min(text_bytes, 64_000_000))
        times = killed_runs(command(corpus, work / "killed", options), work / "killed", options.kills, whole["wall_s"],
                            random.Random(options.seed)) if options.kills else []
        same = not options.kills or digests(work / "whole") == digests(work / "killed")
        speed = text_bytes / whole["stages_s"].get("tokenize", whole["wall_s"]) / 1e6
        result = {
            "size_mb": options.size_mb, "tokenizer": options.tokenizer, "processes": options.num_proc, **whole,
            "documents": meta["documents"], "tokens": meta["train_tokens"] + meta["val_tokens"],
            "mb_per_s": text_bytes / whole["wall_s"] / 1e6, "tokenize_mb_per_s": speed,
            "tokenizer_alone_mb_per_s": alone["mb_per_s"],
            "share_of_own_speed": text_bytes / whole["wall_s"] / 1e6 / alone["mb_per_s"],
            "share_of_own_cpu": alone["cpu_s_per_mb"] * text_bytes / 1e6 / whole["cpu_s"],
            "killed_after_s": times, "same_after_kills": same,
        }
        print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in result.items()},
                         indent=1))
        sys.exit(0 if same else 1)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
