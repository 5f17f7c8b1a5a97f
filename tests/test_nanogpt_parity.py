"""与 nanoGPT 逐位相比：同样的数学、同样的文件、同样的命令行。

有 nanoGPT 的检出时（环境变量 `NANOGPT`）真的运行它的 `model.py`、`train.py`、`sample.py`；
没有时仍与它产生过一次的数字相比。有检出约 60 秒，没有约 15 秒。
"""

import importlib.util
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED, slow
from trainer_fork import clean_env

from nanogpt import sample
from nanogpt.config import TrainConfig, load_config
from nanogpt.errors import BadInput
from nanogpt.model import GPT, GPTConfig

CHECKOUT = Path(os.environ.get("NANOGPT", "/nowhere"))
needs_nanogpt = pytest.mark.skipif(not (CHECKOUT / "model.py").is_file(), reason="set NANOGPT to a nanoGPT checkout")

WORDS = "the cat sat on a mat and saw one small dog run by \n but then it hid under two old red chairs . \n".split(" ")  # noqa: SIM905
SETTINGS = ("--dataset=golden", "--n_layer=2", "--n_head=2", "--n_embd=32", "--block_size=16", "--batch_size=8",
            "--gradient_accumulation_steps=1", "--dropout=0.0", "--eval_iters=4", "--eval_interval=10",
            "--max_iters=30", "--warmup_iters=5", "--lr_decay_iters=30", "--learning_rate=1e-2", "--min_lr=1e-3",
            "--device=cpu", "--dtype=float32", "--compile=False")
SAMPLING = ("--num_samples=2", "--max_new_tokens=60", "--device=cpu", "--dtype=float32", "--start=the")

# 由 nanoGPT（提交 3adf61e）在 torch 2.13、一个线程的 CPU 上产生，数据为 `golden_dataset` 所写：
#   python train.py SETTINGS --out_dir=out-golden; python sample.py --out_dir=out-golden SAMPLING
GOLDEN_LOSSES = (3.0951, 3.0054, 2.9108, 2.8527, 2.8145, 2.7648, 2.7139, 2.6731, 2.6431, 2.7001, 2.6521, 2.6315,
                 2.7125, 2.5929, 2.5627, 2.4776, 2.4893, 2.4781, 2.4292, 2.4262)
GOLDEN_EVALS = {0: (3.0957, 3.0913), 10: (2.6496, 2.6031), 20: (2.3520, 2.3875), 30: (2.1586, 2.2042)}
GOLDEN_SAMPLE = """\
thee  t
n smaeld scat san bbnn tne h ree chln ln oonmrdeo\x20
 she
---------------
the innt tht stt
 hind cmbn hnnendnd mclw matrn eo e nd h ahi s
---------------
"""
# 别的处理器上求和的次序不同，最后一位会变；印出来的只有四位小数
LOSS_TOLERANCE = 2e-3


def golden_dataset(folder: Path) -> None:
    """一份到处都一样的字符数据集，只有 nanoGPT 的三个文件：两份 `.bin` 与 `meta.pkl`。"""
    state, words = 1, []
    for _number in range(4000):
        state = (state * 1103515245 + 12345) % 2**31  # C 标准附录里的线性同余
        words.append(WORDS[(state >> 16) % len(WORDS)])
    text = " ".join(words)
    chars = sorted(set(text))
    stoi = {char: i for i, char in enumerate(chars)}
    ids = np.array([stoi[char] for char in text], dtype="<u2")
    folder.mkdir(parents=True)
    ids[: len(ids) * 9 // 10].tofile(folder / "train.bin")
    ids[len(ids) * 9 // 10 :].tofile(folder / "val.bin")
    meta = {"vocab_size": len(chars), "stoi": stoi, "itos": dict(enumerate(chars))}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def loss_lines(output: str) -> list[str]:
    """印出的损失，去掉随机器而变的时间。"""
    return re.findall(r"^(?:step|iter) \d+: .*?loss [\d.]+(?:, val loss [\d.]+)?", output, re.M)


def ours_says(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """我们的 `nanogpt.sample` 打印的全部。"""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert sample.main(list(argv)) == 0
    finally:
        torch.set_num_threads(threads)
    return capsys.readouterr().out


@pytest.fixture
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """只有 `data/golden` 的工作目录。"""
    golden_dataset(tmp_path / "data" / "golden")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def checkout(golden: Path) -> Path:
    """nanoGPT 的脚本，未经改动，与 `data/golden` 在一处。"""
    for name in ("model.py", "train.py", "sample.py", "configurator.py"):
        shutil.copy(CHECKOUT / name, golden)
    return golden


def theirs(folder: Path, *argv: str) -> str:
    """在 `folder` 里运行 nanoGPT 的一个脚本。"""
    env = {key: value for key, value in clean_env().items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, *argv], cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- 没有检出也要成立的


def test_losses_equal_nanogpts_numbers(golden: Path, fork_train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """同样的设置，印出的损失与样本同 nanoGPT 产生过的一样。"""
    run = fork_train(*SETTINGS, "--out_dir=out", tiny=False, cwd=golden)
    assert run.returncode == 0, run.output
    losses = [float(x) for x in re.findall(r"^iter \d+: loss ([\d.]+)", run.output, re.M)]
    evals = {int(i): (float(a), float(b)) for i, a, b in
             re.findall(r"^step (\d+): train loss ([\d.]+), val loss ([\d.]+)", run.output, re.M)}
    assert losses[:20] == pytest.approx(GOLDEN_LOSSES, abs=LOSS_TOLERANCE)
    assert evals.keys() == GOLDEN_EVALS.keys()
    for step, expected in GOLDEN_EVALS.items():
        assert evals[step] == pytest.approx(expected, abs=LOSS_TOLERANCE)
    text = ours_says(capsys, "--out_dir=out", *SAMPLING)
    # 采样把末位的差放大成另一个字符，所以只有损失一位不差时才要求文本一字不差
    if losses[:20] == list(GOLDEN_LOSSES) and evals == GOLDEN_EVALS:
        assert text == GOLDEN_SAMPLE
    assert text.count("---------------\n") == 2 and text.startswith("the")


# ---- 与检出并排运行


@pytest.fixture(scope="module")
def their_model() -> ModuleType:
    """nanoGPT 的 `model.py`，换一个模块名。"""
    spec = importlib.util.spec_from_file_location("nanogpt_checkout_model", CHECKOUT / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclass 要在这里找到它
    spec.loader.exec_module(module)
    return module


@needs_nanogpt
@pytest.mark.parametrize("bias", [True, False])
def test_same_function_gradients_and_step(their_model: ModuleType, bias: bool) -> None:
    """logits、损失、每个梯度差不过 1e-5，走一步优化器后的权重差不过 1e-6。"""
    shape = {"block_size": 32, "vocab_size": 65, "n_layer": 3, "n_head": 4, "n_embd": 64, "dropout": 0.0, "bias": bias}
    torch.manual_seed(5)
    a = their_model.GPT(their_model.GPTConfig(**shape))
    torch.manual_seed(5)
    b = GPT(GPTConfig(**shape))
    assert list(a.state_dict()) == list(b.state_dict())
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    # 初始的偏置是零：换成别的值，用错一处才看得出来
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        p.data += 0.1 * torch.randn_like(p)
        q.data.copy_(p.data)
    x, y = torch.randint(65, (2, 4, 32))
    y[0, :5] = -1
    (logits_a, loss_a), (logits_b, loss_b) = a(x, y), b(x, y)
    torch.testing.assert_close(logits_b, logits_a, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss_b, loss_a, atol=1e-5, rtol=0)
    torch.testing.assert_close(b(x)[0], a(x)[0], atol=1e-5, rtol=1e-5)
    loss_a.backward()
    loss_b.backward()
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, atol=1e-5, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    for model in (a, b):
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu").step()
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(q, p, atol=1e-6, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


@needs_nanogpt
def test_same_generation_and_mfu(their_model: ModuleType) -> None:
    """同一种子生成同样的 token，剪短上下文之后也是；MFU 的公式相同。"""
    shape = {"block_size": 16, "vocab_size": 40, "n_layer": 2, "n_head": 2, "n_embd": 32, "dropout": 0.0, "bias": True}
    a, b = their_model.GPT(their_model.GPTConfig(**shape)).eval(), GPT(GPTConfig(**shape)).eval()
    b.load_state_dict(a.state_dict())
    assert a.get_num_params() == b.get_num_params()
    assert b.estimate_mfu(24, 0.5) == pytest.approx(a.estimate_mfu(24, 0.5), rel=1e-12)
    for block_size in (16, 8):
        a.crop_block_size(block_size)
        b.crop_block_size(block_size)
        for options in ({}, {"temperature": 0.7, "top_k": 5}, {"top_k": 1000}):
            idx = torch.randint(40, (2, 3))
            torch.manual_seed(3)
            expected = a.generate(idx, 30, **options)
            torch.manual_seed(3)
            assert torch.equal(b.generate(idx, 30, **options), expected)


@needs_nanogpt
def test_its_runs_go_on_here(checkout: Path, fork_train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """印出的损失一位不差；我们从它的检查点采样得到同样的文本，也能续训，数据目录只有它的三个文件。"""
    printed = loss_lines(theirs(checkout, "train.py", *SETTINGS, "--out_dir=out-theirs"))
    run = fork_train(*SETTINGS, "--out_dir=out-ours", tiny=False, cwd=checkout)
    assert run.returncode == 0, run.output
    assert len(printed) == 35 and loss_lines(run.output) == printed

    text = ours_says(capsys, "--out_dir=out-theirs", *SAMPLING)
    assert theirs(checkout, "sample.py", "--out_dir=out-theirs", *SAMPLING).endswith(text)

    more = fork_train(*SETTINGS, "--out_dir=out-theirs", "--init_from=resume", "--max_iters=33", tiny=False,
                      cwd=checkout)
    assert more.returncode == 0, more.output
    losses = [float(x) for x in re.findall(r"^iter 3\d: loss ([\d.]+)", more.output, re.M)]
    assert len(losses) == 4 and max(losses) < 2.5  # 从头训练则是 3.09


@needs_nanogpt
def test_our_runs_go_on_there(checkout: Path, fork_train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """它的 `sample.py` 从我们的检查点采出同样的文本，它的 `train.py --init_from=resume` 接着训练。"""
    run = fork_train(*SETTINGS, "--out_dir=out-ours", tiny=False, cwd=checkout)
    assert run.returncode == 0, run.output
    text = ours_says(capsys, "--out_dir=out-ours", *SAMPLING)
    assert theirs(checkout, "sample.py", "--out_dir=out-ours", *SAMPLING).endswith(text)
    output = theirs(checkout, "train.py", *SETTINGS, "--out_dir=out-ours", "--init_from=resume", "--max_iters=33")
    losses = [float(x) for x in re.findall(r"^iter 3\d: loss ([\d.]+)", output, re.M)]
    assert "Resuming training" in output and len(losses) == 4 and max(losses) < 2.5
    assert sample.main(["--out_dir=out-ours", *SAMPLING]) == 0  # 它又存的检查点，我们照样读


# ---- 它的 README 与配置文件里的每一行

SCALED = ("--max_iters=2", "--eval_iters=1", "--device=cpu", "--compile=False", "--n_layer=1", "--n_head=1",
          "--n_embd=8", "--block_size=8", "--batch_size=2", "--gradient_accumulation_steps=2", "--log_interval=1",
          "--eval_interval=2", "--always_save_checkpoint=True", "--warmup_iters=1", "--lr_decay_iters=2")
CPU_LINE = ("config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 "
            "--block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 "
            "--lr_decay_iters=2000 --dropout=0.0")
TRAIN_LINES = ("config/train_shakespeare_char.py", CPU_LINE, "config/train_gpt2.py", "",
               "--batch_size=32 --compile=False", "config/finetune_shakespeare.py", "config/eval_gpt2.py",
               "config/eval_gpt2_medium.py", "config/eval_gpt2_large.py", "config/eval_gpt2_xl.py")


@pytest.fixture
def readers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """三个数据集都在（内容是小的）。没有 `config/`：那几个名字要由随包的预设答应。"""
    golden_dataset(tmp_path / "data" / "shakespeare_char")
    for name in ("openwebtext", "shakespeare"):
        golden_dataset(tmp_path / "data" / name)
        (tmp_path / "data" / name / "meta.pkl").unlink()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("has_config", [pytest.param(True, marks=needs_nanogpt), False])
@pytest.mark.parametrize("line", [line for line in TRAIN_LINES if "gpt2_" not in line and "eval" not in line])
def test_train_lines(readers_folder: Path, fork_train: Any, line: str, has_config: bool) -> None:
    """训练的每一行缩小之后都跑得完；需要 GPT-2 权重的，没有网络时以退出码 2 说清楚。"""
    if has_config:
        shutil.copytree(CHECKOUT / "config", readers_folder / "config")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(readers_folder / "hf")}
    run = fork_train(*line.split(), *SCALED, "--out_dir=out", tiny=False, cwd=readers_folder, env=offline)
    if "finetune" in line:
        assert run.returncode == 2, run.output
        message = run.output[run.output.index("error:"):]
        assert "gpt2-xl" in message and "hf download gpt2-xl" in message and len(message.splitlines()) <= 3
    else:
        assert run.returncode == 0, run.output
        assert "iter 2: loss" in run.output and (readers_folder / "out" / "ckpt.pt").is_file()


@pytest.mark.parametrize("line", [line for line in TRAIN_LINES if line.startswith("config/")])
@needs_nanogpt
def test_config_files_mean_the_same_with_and_without(readers_folder: Path, line: str) -> None:
    """`config/x.py` 在与不在，得到同一份配置（实验名里的时间除外）。"""
    without, _keys = load_config(TrainConfig, line.split(), "", "")
    shutil.copytree(CHECKOUT / "config", readers_folder / "config")
    given, _keys = load_config(TrainConfig, line.split(), "", "")
    if "finetune" in line:
        assert re.fullmatch(r"ft-\d+\.\d+", given.wandb_run_name)
        given.wandb_run_name = without.wandb_run_name
    assert given == without


@slow
def test_several_nodes(readers_folder: Path) -> None:
    """README 的两节点写法，两个节点都在本机，各一个进程。"""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1", "--nnodes=2",
               "--master_addr=127.0.0.1", f"--master_port={29500 + os.getpid() % 2000}"]
    nodes = []
    for rank in (0, 1):
        argv = [*command, f"--node_rank={rank}", "-m", "nanogpt.train", *SCALED, "--out_dir=out"]
        nodes.append(subprocess.Popen(argv, cwd=readers_folder, env=clean_env(), text=True, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT))
    outputs = [node.communicate(timeout=100)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(outputs)
    assert "iter 2: loss" in outputs[0] and "iter" not in re.sub(r".*W\d+ .*", "", outputs[1])


SAMPLE_LINES = ("--out_dir=out-shakespeare-char", "--out_dir=out-shakespeare-char --device=cpu", "",
                "--out_dir=out-shakespeare --start=FILE:prompt.txt")


@pytest.mark.parametrize("line", SAMPLE_LINES)
def test_sample_lines(readers_folder: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    """`sample.py` 的几种写法，接在字符级的检查点上。"""
    (readers_folder / "prompt.txt").write_text("the cat", encoding="utf-8")
    out = readers_folder / (line.split()[0].partition("=")[2] if line else "out")
    model = GPT(GPTConfig(block_size=8, vocab_size=21, n_layer=1, n_head=1, n_embd=8))
    out.mkdir()
    args = {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 8, "bias": True, "vocab_size": 21, "dropout": 0.0}
    torch.save({"model": model.state_dict(), "model_args": args, "iter_num": 1, "best_val_loss": torch.tensor(1.5),
                "config": {"dataset": "shakespeare_char"}}, out / "ckpt.pt")
    assert sample.main([*line.split(), "--num_samples=2", "--max_new_tokens=5"]) == 0
    text = capsys.readouterr().out
    assert text.count("---------------") == 2 and ("the cat" in text) == ("FILE" in line)


def test_sample_line_of_gpt2_xl(readers_folder: Path) -> None:
    """README 的 `--init_from=gpt2-xl`：离线时是一句话，不是调用栈。"""
    argv = ["--init_from=gpt2-xl", "--start=What is the answer to life, the universe, and everything?",
            "--num_samples=5", "--max_new_tokens=100"]
    env = clean_env(HF_HUB_OFFLINE="1", HF_HOME=str(readers_folder), TIKTOKEN_CACHE_DIR=str(SHARED / "tiktoken_cache"))
    done = subprocess.run([sys.executable, "-m", "nanogpt.sample", *argv], cwd=readers_folder, env=env, text=True,
                          capture_output=True, timeout=60)
    message = done.stderr[done.stderr.index("error:"):]
    assert done.returncode == 2 and len(message.splitlines()) <= 3
    assert "hf download gpt2-xl" in message or "TIKTOKEN_CACHE_DIR" in message


@needs_nanogpt
def test_every_key_of_its_scripts_is_known() -> None:
    """它的三个脚本开头的每个变量都是我们的键。"""
    from nanogpt.config import BenchConfig, SampleConfig
    from nanogpt.options import options_of

    for name, cls in (("train.py", TrainConfig), ("sample.py", SampleConfig), ("bench.py", BenchConfig)):
        head = (CHECKOUT / name).read_text(encoding="utf-8").split("exec(open")[0]
        keys = set(re.findall(r"^(\w+) = ", head, re.M)) - {"config_keys"}
        assert len(keys) >= 9 and keys <= options_of(cls).keys()


def test_its_own_spelling_of_an_unknown_key_is_refused() -> None:
    with pytest.raises(BadInput, match="unknown key"):
        load_config(TrainConfig, ["--n_layers=4"], "", "")


# ---- 整个例子，空闲的两核上一两分钟


@slow
@pytest.mark.timeout(900)
def test_shakespeare_on_a_cpu_reaches_nanogpts_loss(tmp_path: Path) -> None:
    """README 的 CPU 例子一字不改地跑 2000 步：验证损失 1.88 ± 0.03。"""
    text = SHARED / "tinyshakespeare" / "input.txt"
    if not text.is_file():
        pytest.skip("no shared tiny Shakespeare")
    env = {**clean_env(), "OMP_NUM_THREADS": "2"}

    def run(*argv: str) -> str:
        done = subprocess.run([sys.executable, *argv], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    folder = tmp_path / "data" / "shakespeare_char"
    run("-m", "nanogpt.prepare", "shakespeare_char", f"--input={text}", f"--out={folder}")
    output = run("-m", "nanogpt.train", *CPU_LINE.split())
    val_loss = float(re.findall(r"^step 2000: .*val loss ([\d.]+)", output, re.M)[0])
    print(f"validation loss {val_loss}")
    assert val_loss == pytest.approx(1.88, abs=0.03)
