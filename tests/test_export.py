"""导出成 Hugging Face 的目录再读回来，与 transformers 自己的结果相比。约 30 秒，多半在导入 `transformers`。"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SHARED, slow

from nanogpt import export, sample
from nanogpt.bpe import train_bpe
from nanogpt.config import SampleConfig
from nanogpt.errors import BadInput, UserError
from nanogpt.loading import load
from nanogpt.model import GPT, GPTConfig
from nanogpt.tokenizer import ByteTokenizer, CharTokenizer, GPT2Tokenizer, Tokenizer

TEXT = "the cat  sat on\na mat , and saw one small dog .\n\n"
TRICKY = TEXT + "你好，世界 🙂 d\u00e9j\u00e0 vu  \t x<y don't 12345 \u200b end"


@pytest.fixture(scope="module")
def transformers() -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    return pytest.importorskip("transformers")


def tokenizers() -> list[Tokenizer]:
    found: list[Tokenizer] = [CharTokenizer(sorted(set(TEXT))), ByteTokenizer(), train_bpe([TEXT * 20], 300)]
    if (SHARED / "tiktoken_cache").is_dir():
        os.environ["TIKTOKEN_CACHE_DIR"] = str(SHARED / "tiktoken_cache")
        found.append(GPT2Tokenizer())
    return found


def save(out: Path, tokenizer: Tokenizer, bias: bool = False, padding: int = 7, **extra: Any) -> GPT:
    """偏置不为零的模型，词表补齐过：用错一处就看得出来。"""
    args = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 24, "bias": bias, "dropout": 0.1,
            "vocab_size": tokenizer.vocab_size + padding}
    torch.manual_seed(8)
    model = GPT(GPTConfig(**args, **extra))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    out.mkdir(exist_ok=True)
    torch.save({"model": model.state_dict(), "model_args": args, "model_args_extra": extra, "iter_num": 3,
                "best_val_loss": 1.0, "config": {}, "tokenizer": tokenizer.to_dict()}, out / "ckpt.pt")
    return model.eval()


@pytest.mark.parametrize("number", [0, *(pytest.param(number, marks=slow) for number in (1, 2)), 3])
def test_there_and_back(transformers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int,
                        capsys: pytest.CaptureFixture[str]) -> None:
    """logits 差不过 1e-5，贪心的文本相同，困惑度差不过 1e-4，分词逐个相同；读回来也都一样。"""
    every = tokenizers()
    if number >= len(every):
        pytest.skip("no GPT-2 BPE files")
    tokenizer = every[number]
    monkeypatch.chdir(tmp_path)
    model = save(tmp_path / "out", tokenizer, bias=number % 2 == 1, **({"gelu_tanh": True} if number == 1 else {}))
    assert export.main(["--out_dir=out", "--folder=exports/hf"]) == 0
    theirs = transformers.GPT2LMHeadModel.from_pretrained("exports/hf").eval()
    idx = torch.randint(tokenizer.vocab_size, (2, 24))
    with torch.no_grad():
        expected = model(idx, idx)[0]
        torch.testing.assert_close(theirs(idx).logits, expected, atol=1e-5, rtol=1e-5)

    library = transformers.AutoTokenizer.from_pretrained("exports/hf")
    text = TEXT if number == 0 else TRICKY + "<|endoftext|>" + TEXT
    ids = tokenizer.encode(text)
    assert library(text)["input_ids"] == ids and library.decode(ids) == text
    assert library.eos_token_id == tokenizer.eot_id

    prompt = "the cat"
    start = library(prompt, return_tensors="pt")
    written = theirs.generate(**start, max_new_tokens=15, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert sample.main([f"--start={prompt}", "--temperature=0", "--max_new_tokens=15", "--num_samples=1"]) == 0
    printed = capsys.readouterr().out.split("\n---------------")[0]
    assert printed.endswith(tokenizer.decode(written[0].tolist()))

    Path("text.txt").write_text(text, encoding="utf-8")
    windows = [torch.tensor(ids[first:first + 25]) for first in range(0, len(ids) - 1, 24)]
    with torch.no_grad():
        nats = sum(torch.nn.functional.cross_entropy(theirs(w[None, :-1]).logits[0], w[1:], reduction="sum").item()
                   for w in windows)
    perplexity = torch.tensor(nats / (len(ids) - 1)).exp().item()
    for argv in (["--out_dir=out"], ["--init_from=exports/hf"]):
        assert sample.main([*argv, "--score=text.txt"]) == 0
        said = float(capsys.readouterr().out.split("perplexity ")[1].split(",")[0])
        assert said == pytest.approx(perplexity, rel=1e-4)

    assert export.main(["--to_checkpoint", "--folder=exports/hf", "--out_dir=back"]) == 0
    back = load(SampleConfig(out_dir="back"))
    assert back.tokenizer.to_dict() == tokenizer.to_dict()
    with torch.no_grad():
        torch.testing.assert_close(back.model(idx, idx)[0], expected, atol=1e-5, rtol=1e-5)
    capsys.readouterr()
    for argv in (["--out_dir=out"], ["--out_dir=back"], ["--init_from=exports/hf"]):
        assert sample.main([*argv, f"--start={prompt}", "--num_samples=1", "--max_new_tokens=40"]) == 0
    texts = capsys.readouterr().out.split("\n---------------\n")
    # 没有偏置的模型读回来有了零偏置，初始化用掉的随机数因此不同：抽样的文本只在两份之间相同
    assert texts[1] == texts[2] and (texts[0] == texts[1]) == model.config.bias


def test_a_folder_that_transformers_wrote(transformers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """别人的目录：没有我们的描述，分词器就是 GPT-2 的；词表小的说缺了什么。"""
    monkeypatch.chdir(tmp_path)
    for size in (50257, 99):
        config = transformers.GPT2Config(vocab_size=size, n_positions=16, n_embd=8, n_layer=1, n_head=2)
        transformers.GPT2LMHeadModel(config).save_pretrained(f"hf{size}")
    if (SHARED / "tiktoken_cache").is_dir():
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHARED / "tiktoken_cache"))
        assert export.main(["--to_checkpoint", "--folder=hf50257"]) == 0
        loaded = load(SampleConfig())
        assert loaded.tokenizer.kind == "gpt2" and loaded.model.config.gelu_tanh
    with pytest.raises(BadInput) as caught:
        export.main(["--to_checkpoint", "--folder=hf99", "--out_dir=out99"])
    assert caught.value.code == "no_tokenizer"


def test_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """没有去处、去处有东西、没有检查点、我们独有的网络、坏的描述。"""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "out", ByteTokenizer())
    save(tmp_path / "modern", ByteTokenizer(), padding=0, rotary=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x", encoding="utf-8")
    for argv, code in (([], "bad_value"), (["--folder=full"], "already_there"),
                       (["--folder=x", "--out_dir=y"], "no_checkpoint"),
                       (["--folder=x", "--out_dir=modern"], "not_exportable"),
                       (["--folder=full/mine.txt/x"], "export_failed"),
                       (["--to_checkpoint", "--folder=x", "--out_dir=z"], "not_gpt2"),
                       (["--to_checkpoint", "--folder=full"], "already_there")):
        with pytest.raises(UserError) as caught:
            export.main(argv)
        assert caught.value.code == code and len(str(caught.value).splitlines()) <= 3
    assert export.main(["--folder=full", "--overwrite"]) == 0 and (tmp_path / "full" / "mine.txt").exists()
    (tmp_path / "full" / "nanogpt_tokenizer.json").write_text('{"kind":"char","tokens":5}', encoding="utf-8")
    with pytest.raises(BadInput) as broken:
        sample.main(["--init_from=full"])
    assert broken.value.code == "bad_tokenizer"
