"""采样命令：真的检查点、真的命令行。约 15 秒，多半在两个新起的进程。"""

import io
import math
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_fork import clean_env

from nanogpt import sample
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
    save(tmp_path / "out", CharTokenizer(tokens).to_dict())
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    assert sample.main(["--start=a\x1b", "--temperature=20", "--num_samples=2", "--logprobs=3"]) == 0
    text = screen.getvalue()
    assert "\\x1b" in text and not set(text) & {"\x1b", "\x9b", "\u202e"}


@pytest.mark.usefixtures("out")
@pytest.mark.parametrize("argv, code, says", [
    (["--start=abz"], "out_of_vocabulary", ["'z'", "U+007A", "index 2"]), (["--start="], "bad_prompt", ["empty"]),
    (["--start=FILE:none"], "bad_prompt", ["none"]), (["--out_dir=nowhere"], "no_checkpoint", ["nowhere/ckpt.pt"]),
    (["--checkpoint=ckpt-5.pt"], "no_checkpoint", ["ckpt-5.pt"]), (["--init_from=scratch"], "bad_value", ["untrained"]),
    (["--device=cuda:7"], "no_device", ["cuda:7", "cpu"]), (["--stop=[1]"], "bad_value", ["JSON list"]),
    (["--device=cpu", "--cuda_graph=True"], "bad_value", ["cuda_graph", "cpu"])])
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


@pytest.mark.usefixtures("out")
def test_samples_are_drawn_together_and_shown_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    """写完得有先有后时，次序不乱；一个样本早停不改变别的。"""
    whole = run(capsys, "--num_samples=6").split("\n---------------\n")[:-1]
    assert len(set(whole)) == 6
    stop = next(text[i:i + 3] for text in whole for i in range(8, 30)
                if sum(text[i:i + 3] in other[3:] for other in whole) in (1, 2, 3))
    for text, cut in zip(whole, run(capsys, "--num_samples=6", f"--stop={stop}").split("\n---------------\n"),
                         strict=False):
        assert cut == "abc" + text[3:].split(stop)[0]


@pytest.mark.usefixtures("out")
def test_fewer_at_a_time_give_the_same(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """内存只够一批两个时也是那些文本。"""
    from nanogpt import completion

    expected = run(capsys, "--num_samples=5")
    monkeypatch.setattr(completion, "samples_together", lambda *_args: 2)
    assert run(capsys, "--num_samples=5") == expected


@pytest.mark.usefixtures("out")
def test_logprobs(capsys: pytest.CaptureFixture[str]) -> None:
    """每个 token 一行；贪心时名次都是 1，自己就是第一个备选。"""
    text = run(capsys, "--logprobs=2", "--temperature=0", "--max_new_tokens=5")
    rows = text.splitlines()[-6:-1]
    assert all("#1 " in row and row.split("|")[1].startswith(f" {row.split('#1')[1].split('|')[0].strip()}")
               for row in rows)
    plain = run(capsys, "--temperature=0", "--max_new_tokens=5")
    assert text.startswith(plain.split("\n-----")[0])


@pytest.mark.usefixtures("out")
def test_bfloat16_and_window(capsys: pytest.CaptureFixture[str]) -> None:
    """bfloat16 的权重、较快的窗口都写得出来；窗口在上下文之内不改变文本。"""
    assert len(run(capsys, "--dtype=bfloat16").split("\n----")[0]) == 43
    assert run(capsys, "--window=half", "--max_new_tokens=5") == run(capsys, "--max_new_tokens=5")
    assert run(capsys, "--window=half") != run(capsys)


def test_end_of_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """文末记号结束样本而不显示；默认接着写。"""
    from nanogpt.tokenizer import ByteTokenizer

    monkeypatch.chdir(tmp_path)
    save(tmp_path / "out", ByteTokenizer().to_dict(), vocab_size=257)
    argv = ("--temperature=30", "--top_k=0", "--max_new_tokens=700", "--start=a")
    assert "<|endoftext|>" in run(capsys, *argv)
    expected = run(capsys, *argv).split("<|endoftext|>")[0]
    assert run(capsys, *argv, "--end_of_text") == expected + "\n---------------\n"


@pytest.mark.usefixtures("out")
def test_score(capsys: pytest.CaptureFixture[str]) -> None:
    """困惑度等于手算的；窗口重叠时每个 token 仍只算一次。"""
    text = "abcabcj hgfed\nabab" * 3
    Path("text.txt").write_text(text, encoding="utf-8")
    model = save(Path("out"), CharTokenizer(LETTERS).to_dict())
    ids = torch.tensor(CharTokenizer(LETTERS).encode(text))
    for stride in (8, 3, 1):
        nats, done = 0.0, 0
        for first in range(0, len(ids) - 1, stride):
            window = ids[first:first + 9]
            logits = model(window[None, :-1], window[None, 1:])[0][0]
            skip = done - first
            nats += torch.nn.functional.cross_entropy(logits[skip:], window[1 + skip:], reduction="sum").item()
            done = first + len(window) - 1
            if done == len(ids) - 1:
                break
        assert sample.main(["--score=text.txt", f"--stride={stride}"]) == 0
        loss = nats / (len(ids) - 1)
        said = capsys.readouterr().out
        numbers = re.fullmatch(r"tokens 53, loss ([\d.]+), perplexity ([\d.]+), bits per byte [\d.]+\n", said)
        assert numbers and float(numbers[1]) == pytest.approx(loss, abs=1e-4)
        assert float(numbers[2]) == pytest.approx(math.exp(loss), rel=1e-5)
        bits = float(said.rsplit(" ", 1)[1])
        assert bits == pytest.approx(nats / math.log(2) / len(text), abs=1e-4)
    assert sample.main(["--score=text.txt", "--max_tokens=9"]) == 0
    assert capsys.readouterr().out.startswith("tokens 8, ")
    for argv, code in ((["--score=none.txt"], "bad_prompt"), (["--score=dataset:none"], "dataset_missing"),
                       (["--score=dataset:a/b"], "bad_value")):
        with pytest.raises(BadInput) as caught:
            sample.main(argv)
        assert caught.value.code == code


def test_score_of_a_dataset_equals_the_validation_loss(workspace: Path, fork_train: Any, capsys: Any,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """同一模型，训练器随机取窗口估计的损失，与逐个窗口算的相近；别的分词器的数据集不算。"""
    run_ = fork_train("--out_dir=out", "--eval_iters=400")
    monkeypatch.chdir(workspace)
    assert sample.main(["--score=dataset:tiny"]) == 0
    loss = float(capsys.readouterr().out.split("loss ")[1].split(",")[0])
    estimate = float(run_.output.rsplit("val loss ", 1)[1].split()[0])
    assert loss == pytest.approx(estimate, abs=0.05)
    save(Path("out2"), CharTokenizer(LETTERS).to_dict())
    with pytest.raises(BadInput) as caught:
        sample.main(["--score=dataset:tiny", "--out_dir=out2"])
    assert caught.value.code == "tokenizer_mismatch"


def test_stream_never_shows_half_a_character_or_a_stop() -> None:
    """逐字节喂给它：只给出完整的字符，停止串刚出现一半时留着，不是它就放出来。"""
    from nanogpt.tokenizer import ByteTokenizer

    stream = TextStream(ByteTokenizer(), ["好的", "ab!"])
    shown = [stream.push(byte) for byte in "你🙂好ab".encode()]
    assert "".join(shown) == "你🙂好" and shown[:4] == ["", "", "你", ""] and shown[6] == "🙂"
    assert stream.push(ord("c")) == "abc" and stream.push(0xE4) == "" and stream.finish() == "\ufffd"
    stream = TextStream(ByteTokenizer(), ["好的", "ab!"])
    assert "".join(stream.push(byte) for byte in "xa好的".encode()) == "xa" and stream.is_stopped


def test_stream_holds_back_only_what_it_must() -> None:
    """没有停止串时每个 token 立刻显示。"""
    stream = TextStream(CharTokenizer(LETTERS), [])
    assert [stream.push(token) for token in (0, 1, 10)] == ["a", "b", "\n"]
