"""几份文本 × 四种分词器，从头走到尾：准备、检查、逐字还原、训练、采样、导出。全部通过才以 0 退出。

    python benchmarks/texts.py ../shared/data/tinyshakespeare/input.txt ../shared/data/tang_poems/input.txt

每一步都是真的命令，在 `--work` 的工作区里；默认训练 200 步的小模型，八种组合两核约三分钟。
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from nanogpt.dataset import open_dataset  # noqa: E402
from nanogpt.tokenizer import tokenizer_from_dict  # noqa: E402

MODEL = ["--n_layer=2", "--n_head=2", "--n_embd=32", "--block_size=64", "--batch_size=4", "--device=cpu",
         "--gradient_accumulation_steps=1", "--eval_iters=5", "--eval_interval=200", "--warmup_iters=10",
         "--learning_rate=1e-3", "--log_interval=50"]


def run(work: Path, *arguments: str) -> str:
    """在工作区里运行一条命令，返回标准输出；失败就带着它说的话停下。"""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "NANOGPT_LANG": "en"}
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=work, env=environ, capture_output=True, text=True,
                          encoding="utf-8", errors="replace")
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stdout[-800:]}\n{done.stderr[-800:]}")
    return done.stdout


def decoded(work: Path, name: str) -> str:
    """两份全部解码，接在一起。"""
    dataset = open_dataset(name, work)
    assert dataset.tokenizer is not None
    tokenizer = tokenizer_from_dict(dataset.tokenizer)
    ids = (np.fromfile(dataset.path(split), dtype="<u2").tolist() for split in ("train", "val"))
    return "".join(map(tokenizer.decode, ids))


def same_ids(work: Path, name: str, text: Path) -> bool:
    """导出的 `tokenizer.json` 给出的 id 与数据集的相同。"""
    import tokenizers

    dataset = open_dataset(name, work)
    library = tokenizers.Tokenizer.from_file(str(work / f"hf-{name}" / "tokenizer.json"))
    some = text.read_text(encoding="utf-8")[:20_000]
    assert dataset.tokenizer is not None
    ids: list[int] = library.encode(some).ids
    return ids == tokenizer_from_dict(dataset.tokenizer).encode_ordinary(some) and library.decode(ids) == some


def whole_way(work: Path, text: Path, kind: str, vocab_size: int, iters: int) -> dict[str, Any]:
    """一份文本、一种分词器。"""
    began = time.perf_counter()
    name = f"{text.parent.name}-{kind}"
    more = ["--vocab-size", str(vocab_size)] if kind == "bpe" else []
    run(work, "nanogpt.prepare", name, "--input", str(text), "--tokenizer", kind, *more)
    examined = json.loads(run(work, "nanogpt.prepare", "--check", name, "--json", "--block-size", "64"))
    is_same = decoded(work, name) == text.read_text(encoding="utf-8")
    run(work, "nanogpt.train", f"--dataset={name}", f"--out_dir=out-{name}", f"--max_iters={iters}",
        f"--lr_decay_iters={iters}", *MODEL)
    events = [json.loads(line) for line in (work / f"out-{name}" / "events.jsonl").read_text("utf-8").splitlines()]
    losses = [event["val_loss"] for event in events if event["event"] == "eval"]
    # 提示取自原文，字符级也写得出来
    prompt = text.read_text(encoding="utf-8")[:20]
    sample = run(work, "nanogpt.sample", f"--out_dir=out-{name}", f"--start={prompt}", "--num_samples=1",
                 "--max_new_tokens=60", "--temperature=0", "--device=cpu")
    run(work, "nanogpt.export", f"--out_dir=out-{name}", f"--folder=hf-{name}")
    again = run(work, "nanogpt.sample", f"--init_from=hf-{name}", f"--start={prompt}", "--num_samples=1",
                "--max_new_tokens=60", "--temperature=0", "--device=cpu")
    return {"text": text.parent.name, "tokenizer": kind, "vocab_size": examined["vocab_size"],
            "train_tokens": examined["splits"]["train"]["tokens"], "val_tokens": examined["splits"]["val"]["tokens"],
            "chars_per_token": round(examined["splits"]["train"]["chars_per_token"], 3), "decodes_exactly": is_same,
            "findings": [finding["code"] for finding in examined["findings"] if finding["level"] != "note"],
            "val_losses": [round(loss, 3) for loss in losses], "samples": sample.startswith(prompt),
            "export_samples_the_same": again == sample, "export_same_ids": same_ids(work, name, text),
            "seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Take texts all the way with each tokenizer.")
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--kinds", nargs="+", default=["char", "byte", "gpt2", "bpe"])
    parser.add_argument("--vocab-size", type=int, default=2000)
    parser.add_argument("--iters", type=int, default=200)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="nanogpt-texts-"))
    rows = []
    try:
        for text in options.texts:
            for kind in options.kinds:
                rows.append(whole_way(work, text.resolve(), kind, options.vocab_size, options.iters))
                print(json.dumps(rows[-1]), flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    good = all(row["decodes_exactly"] and row["samples"] and not row["findings"] and row["export_same_ids"]
               and row["export_samples_the_same"] and row["val_losses"][-1] < row["val_losses"][0] for row in rows)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
