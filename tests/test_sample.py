"""采样命令：真的检查点、真的命令行。约 15 秒，多半在两个新起的进程。"""

import io
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_fork import clean_env

from nanogpt import sample
from nanogpt.config import SampleConfig
from nanogpt.errors import BadInput
from nanogpt.model import GPT, GPTConfig
from nanogpt.prompt import TextStream
from nanogpt.tokenizer import CharTokenizer

LETTERS = [*"abcdefghij", "\n", " "]
SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "bias": False, "vocab_size": 12, "dropout": 0.2}


def save(out: Path, tokenizer: dict[str, Any] | None, dataset: Any = "letters", vocab_size: int = 12) -> GPT:
    """一份检查点；没有分词器的就是 nanoGPT 的样子。"""
    torch.manual_seed(4)
    model = GPT(GPTConfig(**{**SHAPE, "vocab_size": vocab_size}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10)
    content = {"model": model.state_dict(), "model_args": {**SHAPE, "vocab_size": vocab_size}, "iter_num": 3,
               "best_val_loss": 1.0, "config": {"dataset": dataset}}
    out.mkdir(exist_ok=True)
    torch.save(content | ({} if tokenizer is None else {"tokenizer": tokenizer}), out / "ckpt.pt")
    return model.eval()


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "out", CharTokenizer(LETTERS).to_dict())
    return tmp_path / "out"


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert sample.main(["--start=abc", "--num_samples=1", "--max_new_tokens=40", *argv]) == 0
    return capsys.readouterr().out


def test_equals_generate(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """逐个打印的与一次 `generate` 的相同；同一种子相同，别的种子不同；几个样本之间有分隔线。"""
    model = save(out, CharTokenizer(LETTERS).to_dict())
    torch.manual_seed(1337)
    GPT(model.config)  # 建模型也用掉随机数，在 nanoGPT 里也在种子之后
    expected = ""
    for _number in range(2):
        ids = model.generate(torch.tensor([[0, 1, 2]]), 40, 0.8, 200)[0].tolist()
        expected += CharTokenizer(LETTERS).decode(ids) + "\n---------------\n"
    assert run(capsys, "--num_samples=2") == expected
    assert run(capsys, "--num_samples=2", "--seed=7") != expected


@pytest.mark.usefixtures("out")
@pytest.mark.parametrize("argv", [["--temperature=0"], ["--top_k=1"], ["--top_p=0.0001"], ["--top_k=1", "--top_k=1"]])
def test_greedy_ways(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    """三种写法都总取最可能的；与种子无关。"""
    expected = run(capsys, "--temperature=0")
    assert run(capsys, *argv, "--seed=99") == expected
    assert run(capsys, "--seed=99") != expected


@pytest.mark.usefixtures("out")
def test_unlimited(capsys: pytest.CaptureFixture[str]) -> None:
    """`top_k=0` 是不限，与大过词表的一样；`top_p=1` 也是不限。"""
    assert run(capsys, "--top_k=0") == run(capsys, "--top_k=1000") == run(capsys, "--top_p=1")
    assert run(capsys, "--top_p=0.3") != run(capsys)


@pytest.mark.usefixtures("out")
def test_stop(capsys: pytest.CaptureFixture[str]) -> None:
    """停止串不显示，其后也没有；没遇到则写满。"""
    whole = run(capsys).removeprefix("abc").split("\n----")[0]
    stop = whole[10:12]
    assert run(capsys, f"--stop={stop}") == f"abc{whole[:whole.index(stop)]}\n---------------\n"
    assert run(capsys, "--stop=zzz").removeprefix("abc").split("\n----")[0] == whole
    assert run(capsys, f'--stop=["zzz", "{whole[5]}"]') == f"abc{whole[:whole.index(whole[5])]}\n---------------\n"


@pytest.mark.usefixtures("out")
def test_file_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    Path("prompt.txt").write_text("abc", encoding="utf-8")
    assert run(capsys, "--start=FILE:prompt.txt") == run(capsys)


def test_a_terminal_gets_no_control_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """词表里有转义字符：管道得到原文，终端只得到看得见的写法。"""

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.chdir(tmp_path)
    tokens = [*"abcdefgh", "\x1b", "\x9b", "\u202e", "\n"]
    model = save(tmp_path / "out", CharTokenizer(tokens).to_dict())
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    sample.write_sample("a\x1b", model, torch.tensor([[0]]), CharTokenizer(tokens), [], SampleConfig(temperature=20.0))
    monkeypatch.undo()
    text = screen.getvalue()
    assert "\\x1b" in text and not set(text) & {"\x1b", "\x9b", "\u202e"}


@pytest.mark.usefixtures("out")
@pytest.mark.parametrize("argv, code, says", [
    (["--start=abz"], "out_of_vocabulary", ["'z'", "U+007A", "index 2"]), (["--start="], "bad_prompt", ["empty"]),
    (["--start=FILE:none"], "bad_prompt", ["none"]), (["--out_dir=nowhere"], "no_checkpoint", ["nowhere/ckpt.pt"]),
    (["--checkpoint=ckpt-5.pt"], "no_checkpoint", ["ckpt-5.pt"]), (["--init_from=scratch"], "bad_value", ["untrained"]),
    (["--device=cuda:7"], "no_device", ["cuda:7", "cpu"]), (["--stop=[1]"], "bad_value", ["JSON list"])])
def test_faults(argv: list[str], code: str, says: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        sample.main(["--max_new_tokens=2", *argv])
    text = str(caught.value)
    assert caught.value.code == code and len(text.splitlines()) <= 3 and all(part in text for part in says)


@pytest.mark.usefixtures("out")
def test_command_reports_in_three_lines() -> None:
    """真的命令，词表外的字符：退出码 2，没有调用栈。"""
    done = subprocess.run([sys.executable, "-m", "nanogpt.sample", "--start=ab\x1b[0m"], env=clean_env(), text=True,
                          capture_output=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) <= 3 and "\x1b" not in done.stderr
    assert "vocabulary" in done.stderr and done.stdout == ""


def test_alone_on_another_machine(fork_train: Any, workspace: Path, tmp_path_factory: pytest.TempPathFactory,
                                  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """训练出的 `ckpt.pt` 拷到别处，数据集已删：照样采样。"""
    assert fork_train("--out_dir=out").returncode == 0
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(workspace / "out" / "ckpt.pt", elsewhere)
    shutil.rmtree(workspace / "data")
    monkeypatch.chdir(elsewhere)
    assert run(capsys, "--out_dir=.", "--start=def ").startswith("def ")


def test_nanogpt_checkpoint_takes_the_datasets_vocabulary(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """没带分词器的：看 `data/<dataset>/meta.pkl`；没有那个目录、词表又小的，就说缺了什么。"""
    expected = run(capsys)
    save(out, None)
    with pytest.raises(BadInput, match="carries no tokenizer") as caught:
        run(capsys)
    assert caught.value.code == "no_tokenizer" and "letters" in str(caught.value)
    folder = Path("data/letters")
    folder.mkdir(parents=True)
    itos = dict(enumerate(LETTERS))
    meta = {"vocab_size": 12, "itos": itos, "stoi": {char: i for i, char in itos.items()}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    (folder / "train.bin").write_bytes(bytes(40))
    (folder / "val.bin").write_bytes(bytes(40))
    assert run(capsys) == expected


@pytest.mark.parametrize("dataset", ["../../x", "../x", "/etc", "a/../../x", "x\0y", "-x", "", 5, None, ["x"]])
def test_hostile_dataset_in_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Any) -> None:
    """`config.dataset` 指到 `data/` 之外：那里的 `meta.pkl` 不读，更不运行。"""

    class Canary:
        def __reduce__(self) -> Any:
            return open, (str(tmp_path / "canary"), "w")

    work = tmp_path / "a" / "b"
    (work / "data").mkdir(parents=True)
    for folder in (tmp_path / "x", tmp_path / "a" / "x", work / "x"):
        folder.mkdir()
        (folder / "meta.pkl").write_bytes(pickle.dumps(Canary()))
        for split in ("train", "val"):
            (folder / f"{split}.bin").write_bytes(bytes(40))
    monkeypatch.chdir(work)
    save(work / "out", None, dataset)
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "none"))
    with pytest.raises(BadInput) as caught:
        sample.main(["--start=abc", "--max_new_tokens=2", "--num_samples=1"])
    assert len(str(caught.value).splitlines()) <= 3
    assert not (tmp_path / "canary").exists() and not any("meta.pkl" in path for path in opened)


def test_tokenizer_larger_than_the_model(out: Path) -> None:
    save(out, CharTokenizer([*LETTERS, *"xyz"]).to_dict())
    with pytest.raises(BadInput) as caught:
        sample.main(["--start=xyz"])
    assert caught.value.code == "tokenizer_mismatch" and "up to 14" in str(caught.value)


def test_stream_holds_back_only_what_it_must() -> None:
    """没有停止串时每个 token 立刻显示。"""
    stream = TextStream(CharTokenizer(LETTERS), [])
    assert [stream.push(token) for token in (0, 1, 10)] == ["a", "b", "\n"]
