"""采样界面全速写着的样子：一个没有练过的小模型的运行，与走到那里的键。`benchmarks/app.py` 使用。"""

import json
import sys
from pathlib import Path

from app_runs import write_run
from app_terminal import AppTerminal
from processes import ROOT

sys.path.insert(0, str(ROOT))
LETTERS = ["\n", *(chr(code) for code in range(32, 127))]
SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 64, "bias": False, "vocab_size": len(LETTERS),
         "dropout": 0.0}
CTRL_R, F7 = "\x12", "\x1b[18~"


def write_model(workspace: Path) -> None:
    """运行 `small`，与一组参数 `long`：写到按停为止。模型越小写得越快，界面越忙。"""
    import torch

    from nanogpt.model import GPT, GPTConfig
    from nanogpt.tokenizer import CharTokenizer

    torch.manual_seed(1337)
    out_dir = workspace / "runs" / "small"
    write_run(out_dir, 100)
    torch.save({"model": GPT(GPTConfig(**SHAPE)).state_dict(), "model_args": SHAPE, "iter_num": 100,
                "best_val_loss": 3.0, "config": {}, "tokenizer": CharTokenizer(LETTERS).to_dict()},
               out_dir / "ckpt.pt")
    presets = workspace / ".nanogpt" / "playground" / "presets.json"
    presets.parent.mkdir(parents=True)
    presets.write_text(json.dumps({"long": {"max_new_tokens": "100000000"}}), encoding="utf-8")


def start_writing(terminal: AppTerminal) -> None:
    """从列表走到采样界面，开始写，光标在编辑框里。"""
    terminal.see("small")
    terminal.type("p")
    terminal.see("ctrl+r samples", limit_s=120.0)
    for keys, seen in ((F7, "legal:"), ("o", "greedy"), ("long", "long"), ("\r", "legal:"), (F7, "f1")):
        mark = terminal.mark()
        terminal.type(keys)
        terminal.see(seen, mark)
        # 对话框的开与关各要画几次；光标每半秒闪一次，等不到更久的安静
        terminal.quiet_since(0.3)
    terminal.type(CTRL_R)
    terminal.see("tok/s, context")
