"""`data/openwebtext/prepare.py` 与 nanoGPT 自己的脚本，同一份本地语料：写出的 `.bin` 是不是逐字节相同。

    python benchmarks/openwebtext.py --nanogpt PATH --documents 100000

nanoGPT 的脚本照原样执行，只改三处让它在这里跑得起来：`load_dataset` 读本地的文件，进程数，以及写出时分成的批数
（原来的 1024 要求验证至少有 1024 篇，而十万篇里只有 50 篇）。
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# 在 nanoGPT 的脚本之前执行：它的 `load_dataset("openwebtext")` 变成读本地的文件。
SHIM = """
import datasets, sys
real = datasets.load_dataset
datasets.load_dataset = lambda name, num_proc=None: datasets.DatasetDict(
    train=real("json", data_files={"train": %r}, split="train"))
source = open(%r, encoding="utf-8").read()
for old, new in (("num_proc = 8", "num_proc = 2"), ("total_batches = 1024", "total_batches = 16")):
    assert source.count(old) == 1, old
    source = source.replace(old, new)
__file__ = %r
exec(compile(source, __file__, "exec"))
"""


def write_corpus(folder: Path, documents: int) -> list[str]:
    """JSON 行：长短不一，含非 ASCII、各种换行、空的与像特殊记号的文字。"""
    chooser = random.Random(11)
    words = ["".join(chooser.choices("abcdefghilmnoprstuvwy", k=chooser.randint(1, 9))) for _ in range(5000)]
    words += ["中文", "é", "😀", "\r\n", "\n\n", "<|endoftext|>", "\u00a0", "123,456", "don't"]
    files = []
    for part in range(4):
        files.append(str(folder / f"part-{part}.jsonl"))
        with open(files[-1], "w", encoding="utf-8") as file:
            for _number in range(documents // 4):
                text = " ".join(chooser.choices(words, k=min(2000, int(chooser.expovariate(1 / 80)))))
                file.write(json.dumps({"text": text}) + "\n")
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the OpenWebText script with nanoGPT's own.")
    parser.add_argument("--nanogpt", type=Path, default=os.environ.get("NANOGPT"))
    parser.add_argument("--documents", type=int, default=100_000)
    options = parser.parse_args()
    if options.nanogpt is None:
        parser.error("say where nanoGPT is: --nanogpt PATH")
    work = Path(tempfile.mkdtemp(prefix="nanogpt-owt-"))
    environ = {**os.environ, "HF_HOME": str(work / "hf"), "PYTHONPATH": str(ROOT)}
    try:
        (work / "corpus").mkdir()
        (work / "theirs").mkdir()
        files = write_corpus(work / "corpus", options.documents)
        script = options.nanogpt / "data" / "openwebtext" / "prepare.py"
        shim = SHIM % (files, str(script), str(work / "theirs" / "prepare.py"))
        (work / "theirs.py").write_text(shim, encoding="utf-8")
        seconds = {}
        for name, argv in (("theirs", [str(work / "theirs.py")]),
                           ("ours", [str(ROOT / "data" / "openwebtext" / "prepare.py"), "--input", str(work / "corpus"),
                                     "--out", str(work / "ours")])):
            began = time.perf_counter()
            done = subprocess.run([sys.executable, *argv], env=environ, cwd=work, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name} failed\n{done.stderr[-1500:]}")
            seconds[name] = round(time.perf_counter() - began, 1)
        found = {name: {split: hashlib.sha256((work / name / f"{split}.bin").read_bytes()).hexdigest()
                        for split in ("train", "val")} for name in seconds}
        sizes = {split: (work / "ours" / f"{split}.bin").stat().st_size // 2 for split in ("train", "val")}
        is_same = found["ours"] == found["theirs"]
        print(json.dumps({"documents": options.documents, "tokens": sizes, "identical": is_same,
                          "sha256": found["ours"], "seconds": seconds}, indent=1))
        sys.exit(0 if is_same else 1)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
