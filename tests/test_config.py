"""配置：键与默认值、写法、报错、预设文件的读法。约 20 秒，多半是看「两秒内答复」的真进程。"""

import os
import random
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from trainer_fork import clean_env

from nanogpt.config import BenchConfig, SampleConfig, TrainConfig, check_world_size, load_config, saved_values
from nanogpt.errors import BadInput
from nanogpt.i18n import use_language
from nanogpt.options import options_of, parse
from nanogpt.presets import read_preset

# nanoGPT 的 train.py 的全部键与默认值；device、dtype、compile 三项按约定改成 auto
NANOGPT_DEFAULTS = {
    "out_dir": "out", "eval_interval": 2000, "log_interval": 1, "eval_iters": 200, "eval_only": False,
    "always_save_checkpoint": True, "init_from": "scratch", "wandb_log": False, "wandb_project": "owt",
    "wandb_run_name": "gpt2", "dataset": "openwebtext", "gradient_accumulation_steps": 40, "batch_size": 12,
    "block_size": 1024, "n_layer": 12, "n_head": 12, "n_embd": 768, "dropout": 0.0, "bias": False,
    "learning_rate": 6e-4, "max_iters": 600000, "weight_decay": 1e-1, "beta1": 0.9, "beta2": 0.95, "grad_clip": 1.0,
    "decay_lr": True, "warmup_iters": 2000, "lr_decay_iters": 600000, "min_lr": 6e-5, "backend": "nccl",
    "device": "auto", "dtype": "auto", "compile": "auto"}


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    use_language("en")


def load(*argv: str) -> TrainConfig:
    return load_config(TrainConfig, list(argv), "", "")[0]


def refusal(*argv: str, cls: type = TrainConfig) -> str:
    """被拒绝时给用户看的全文，至多三行。"""
    with pytest.raises(BadInput) as caught:
        load_config(cls, list(argv), "", "")
    text = str(caught.value)
    assert caught.value.exit_code == 2 and len(text.splitlines()) <= 3, text
    return text


def preset(content: str | bytes, suffix: str = ".toml") -> str:
    path = Path(f"mine{suffix}")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_defaults_are_nanogpts() -> None:
    defaults = asdict(TrainConfig())
    assert {key: defaults[key] for key in NANOGPT_DEFAULTS} == NANOGPT_DEFAULTS
    assert {key: type(value) for key, value in defaults.items() if key in NANOGPT_DEFAULTS} \
        == {key: type(value) for key, value in NANOGPT_DEFAULTS.items()}
    sampling = asdict(SampleConfig())
    for key, value in {"init_from": "resume", "out_dir": "out", "start": "\n", "num_samples": 10, "compile": False,
                       "max_new_tokens": 500, "temperature": 0.8, "top_k": 200, "seed": 1337}.items():
        assert sampling[key] == value
    bench = asdict(BenchConfig())
    for key, value in {"batch_size": 12, "block_size": 1024, "bias": False, "real_data": True, "seed": 1337,
                       "profile": False, "n_layer": 12, "n_embd": 768}.items():
        assert bench[key] == value


@pytest.mark.parametrize("argv, key, value", [
    (["--batch_size=8"], "batch_size", 8), (["--batch_size", "8"], "batch_size", 8),
    (["--batch-size=8"], "batch_size", 8), (["--batch_size=1e3"], "batch_size", 1000),
    (["--max_iters=2_000"], "max_iters", 2000), (["--batch_size=64.0"], "batch_size", 64),
    (["--dropout=0"], "dropout", 0.0), (["--learning_rate=1"], "learning_rate", 1.0),
    (["--learning_rate", "6e-4"], "learning_rate", 6e-4), (["--eval_only"], "eval_only", True),
    (["--no-decay_lr"], "decay_lr", False), (["--no_decay_lr"], "decay_lr", False),
    (["--no-decay-lr"], "decay_lr", False), (["--bias=true"], "bias", True), (["--bias=True"], "bias", True),
    (["--bias", "False"], "bias", False), (["--bias=0"], "bias", False), (["--compile=False"], "compile", False),
    (["--compile"], "compile", True), (["--compile=auto"], "compile", "auto"),
    (["--compile", "auto"], "compile", "auto"),
    (["--wandb_run_name=a=b"], "wandb_run_name", "a=b"), (["--wandb_run_name="], "wandb_run_name", ""),
    (["--wandb_run_name='x'"], "wandb_run_name", "x"), (["--wandb_run_name=1e3"], "wandb_run_name", "1e3"),
    (["--out_dir", "runs/a b"], "out_dir", "runs/a b"), (["--dtype=bfloat16"], "dtype", "bfloat16"),
    (["--batch_size=1", "--batch_size=2"], "batch_size", 2), (["--eval_only", "--bias"], "bias", True)])
def test_spellings(argv: list[str], key: str, value: Any) -> None:
    found = getattr(load(*argv), key)
    assert found == value and type(found) is type(value)


# faults.md 第 33、34 行：参数、必须说到的每一段
BAD = [
    (["--n_layers=4"], ["unknown key --n_layers", "did you mean", "--n_layer"]),
    (["--xyzzy=4"], ["unknown key --xyzzy", "--help"]),
    (["--no-n_layer"], ["unknown key"]),
    (["--batch_size=abc"], ["batch_size cannot be 'abc'", "whole number >= 1"]),
    (["--batch_size=1.5"], ["batch_size cannot be '1.5'", "whole number"]),
    (["--batch_size=0"], ["batch_size cannot be '0'", ">= 1"]),
    (["--batch_size=-3"], ["batch_size cannot be '-3'", ">= 1"]),
    (["--batch_size=nan"], ["batch_size", "whole number"]), (["--batch_size=inf"], ["batch_size"]),
    (["--batch_size=" + "9" * 5000], ["batch_size", "whole number"]),
    (["--batch_size="], ["batch_size cannot be ''"]),
    (["--batch_size"], ["--batch_size needs a value", "whole number"]),
    (["--batch_size", "--bias"], ["--batch_size needs a value"]),
    (["--learning_rate=fast"], ["learning_rate cannot be 'fast'", "number >= 0"]),
    (["--learning_rate=nan"], ["learning_rate"]), (["--learning_rate=-1"], ["learning_rate", ">= 0"]),
    (["--bias=maybe"], ["bias cannot be 'maybe'", "true or false"]), (["--compile=maybe"], ["compile", "auto"]),
    (["--dropout=1"], ["dropout cannot be '1'", "0 <= dropout < 1"]), (["--beta2=1.0"], ["beta2", "0 <= beta2 < 1"]),
    (["--eval_interval=0"], ["eval_interval", ">= 1"]), (["--log_interval=0"], ["log_interval", ">= 1"]),
    (["--eval_iters=0"], ["eval_iters", ">= 1"]), (["--block_size=0"], ["block_size", ">= 1"]),
    (["--n_embd=100", "--n_head=6"], ["n_head cannot be 6", "n_embd=100", "5"]),
    (["--gradient_accumulation_steps=0"], ["gradient_accumulation_steps", ">= 1"]),
    (["--warmup_iters=100", "--lr_decay_iters=100"], ["warmup_iters cannot be 100", "lr_decay_iters=100"]),
    (["--device=gpu"], ["device cannot be 'gpu'", "auto, cpu, mps, cuda"]),
    (["--device=cuda:x"], ["device cannot be"]), (["--dtype=fp16"], ["dtype cannot be 'fp16'", "float16"]),
    (["--dtype=bf16"], ["dtype", "bfloat16"]), (["--backend=tcp"], ["backend", "nccl, gloo, mpi"]),
    (["--init_from=gpt3"], ["init_from cannot be 'gpt3'", "gpt2"]), (["--init_from=resum"], ["init_from", "resume"]),
    (["--init_from=no/such/folder"], ["init_from", "existing Hugging Face folder"]),
    (["--out_dir="], ["out_dir cannot be ''"]), (["--out_dir=-x"], ["out_dir"]), (["--out_dir=a\nb"], ["out_dir"]),
    (["--out_dir=a\0b"], ["out_dir"]), (["--init_from=resume", "--overwrite"], ["overwrite"]),
    (["-x"], ["cannot use the argument '-x'", "--key=value"]), (["quickstart", "again"], ["'again'", "one preset"]),
    (["batch_size=8"], ["there is no preset 'batch_size=8'"]),
    (["quikstart"], ["quikstart", "did you mean quickstart"]),
    (["../../etc/passwd"], ["there is no preset"]), (["missing.toml"], ["there is no preset"]),
    (["config/nothing.py"], ["there is no preset"]), (["a\0b.toml"], ["there is no preset"]), ([""], ["no preset"]),
    (["x" * 5000], ["there is no preset"]), (["--lang=fr"], ["lang cannot be 'fr'", "en, zh"]),
    (["--batch_size=\x1b[31m8"], ["batch_size cannot be '\\x1b[31m8'"]), (["--\x1b]0;x=1"], ["unknown key"])]


@pytest.mark.parametrize("argv, says", BAD, ids=lambda _value: None)
def test_bad_arguments(argv: list[str], says: list[str]) -> None:
    text = refusal(*argv)
    for part in says:
        assert part in text
    assert "\x1b" not in text and "\0" not in text


SAMPLE_BAD = [
    (["--temperature=-1"], ["temperature", ">= 0"]), (["--temperature=hot"], ["temperature", "number"]),
    (["--temperature=inf"], ["temperature"]), (["--top_k=-1"], ["top_k", ">= 0"]), (["--top_k=1.5"], ["top_k"]),
    (["--top_p=0"], ["top_p", "0.0001 <= top_p <= 1"]), (["--top_p=1.1"], ["top_p", "<= 1"]),
    (["--num_samples=0"], ["num_samples", ">= 1"]), (["--max_new_tokens=0"], ["max_new_tokens", ">= 1"]),
    (["--checkpoint=../x.pt"], ["checkpoint", "file name inside out_dir"]), (["--device=tpu"], ["device"]),
    (["--init_from=gpt5"], ["init_from", "gpt2"]), (["--temprature=1"], ["did you mean", "--temperature"])]


@pytest.mark.parametrize("argv, says", SAMPLE_BAD, ids=lambda _value: None)
def test_bad_sampling_arguments(argv: list[str], says: list[str]) -> None:
    text = refusal(*argv, cls=SampleConfig)
    assert all(part in text for part in says)


def test_bad_bench_arguments() -> None:
    assert "n_head cannot be 5" in refusal("--n_head=5", cls=BenchConfig)
    assert "device" in refusal("--device=abacus", cls=BenchConfig)


def test_accumulation_must_divide_by_the_ranks() -> None:
    check_world_size(load("--gradient_accumulation_steps=40"), 8)
    with pytest.raises(BadInput, match="gradient_accumulation_steps cannot be 5") as caught:
        check_world_size(load("--gradient_accumulation_steps=5"), 2)
    assert "6" in caught.value.hint


@pytest.mark.parametrize("module, argv", [
    ("train", ["--n_layers=4"]), ("train", ["--n_embd=7"]), ("train", ["--dataset=none_such"]),
    ("train", ["bad.toml"]), ("sample", ["--temperature=-1"]), ("sample", ["--start=FILE:none.txt"]),
    ("bench", ["--device=x"])])
def test_answers_before_torch_is_imported(module: str, argv: list[str]) -> None:
    """真的命令：退出码 2，至多三行，没有调用栈，没有导入 `torch`，CPU 时间在两秒之内（忙的机器上挂钟不作数）。"""
    Path("bad.toml").write_text("a = [", encoding="utf-8")
    # `torch` 一被导入就崩溃：证明答复不靠它
    Path("torch").mkdir()
    Path("torch/__init__.py").write_text("raise SystemExit('torch was imported')", encoding="utf-8")
    env = clean_env(PYTHONPATH=f"{Path.cwd()}{os.pathsep}{clean_env()['PYTHONPATH']}")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", f"nanogpt.{module}", *argv], env=env, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("error: "), done.stderr
    assert len(done.stderr.splitlines()) <= 3 and seconds < 2


def test_debug_shows_the_traceback() -> None:
    done = subprocess.run([sys.executable, "-m", "nanogpt.train", "--n_layers=4", "--debug"], env=clean_env(),
                          capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" in done.stderr


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("cls", [TrainConfig, SampleConfig, BenchConfig])
def test_help_lists_every_key(cls: type, lang: str, capsys: pytest.CaptureFixture[str]) -> None:
    """每个键都有默认值、含义与合法范围，单位若有也在。"""
    from nanogpt.i18n import _

    with pytest.raises(SystemExit) as caught:
        load_config(cls, ["--help", f"--lang={lang}"], "command", "about")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    for name, opt in options_of(cls).items():
        row = next(i for i, line in enumerate(lines) if line.startswith(f"  --{name}="))
        assert str(opt.default).replace("\n", "\\n") in lines[row] and opt.legal in lines[row]
        assert opt.help and lines[row + 1].strip() == _(opt.help)
        assert not opt.unit or _(opt.unit) in lines[row]
    assert "--debug" in text and "--lang" in text
    if lang == "zh":
        catalogue = Path(sys.modules["nanogpt"].__path__[0]) / "locale" / "zh_CN" / "LC_MESSAGES" / "nanogpt.mo"
        if not catalogue.exists():
            pytest.skip("no zh_CN catalogue yet")
        assert _(options_of(cls)["device"].help) != options_of(cls)["device"].help


# ---- nanoGPT 的 config/*.py


def test_python_config_arithmetic() -> None:
    path = preset('"""about"""\nimport time\n# note\n'
                  "n_embd = 2 * 8 * 4\nn_head = n_embd // 16\nlearning_rate = -(-6) / 1e4\n"
                  "heads = 5\ngradient_accumulation_steps = heads * 8 # five\nmax_iters = 2 ** 10 % 1000\nbias = True\n"
                  "out_dir = 'out-' + 'x'\nwandb_run_name = 'run' + str(time.time())\r\nbeta1 = +0.5\n", ".py")
    config = load(path)
    assert (config.n_embd, config.n_head, config.learning_rate, config.gradient_accumulation_steps) == (64, 4, 6e-4, 40)
    assert (config.max_iters, config.bias, config.out_dir, config.beta1) == (24, True, "out-x", 0.5)
    assert config.wandb_run_name.startswith("run1")
    assert load(path, "--n_head=8").n_head == 8


CANARY = "open('canary', 'w').write('x')"
REFUSED = [
    "import os", "import os, time", "from time import time", "import time as t", f"batch_size = {CANARY}",
    "__import__('os').system('touch canary')", "for i in range(3):\n    pass", "while True: pass", "if True: bias = 1",
    "batch_size = [1, 2]", "batch_size = (8)[0]", "out_dir = f'{1}'", "out_dir = 'a'.upper()", "out_dir = 'a' * 10**9",
    "batch_size = 9 ** 9 ** 9 ** 9", "batch_size = 2 ** 100000000", "batch_size = 'a' % 3",
    "batch_size = [i for i in (1,)]",
    "batch_size = (lambda: 8)()", "batch_size = unknown_name", "batch_size, block_size = 1, 2", "batch_size += 1",
    "batch_size: int = 8", "def f(): pass", "class A: pass", "batch_size = 8 if True else 4", "batch_size = 1 < 2",
    "batch_size = not 1", "batch_size = 1 << 40", "batch_size = 1j", "batch_size = b'x'", "batch_size = None",
    "batch_size = ...", "batch_size = str.__class__", "out_dir = str(open('canary', 'w'))", "out_dir = str('a', 'b')",
    "batch_size = time.time", "time.sleep(9)", "batch_size = exec('1')", "del batch_size", "assert True", "print(1)",
    "batch_size = (x := 8)", "globals()['a'] = 1", "a.b = 1", "a[0] = 1", "x = y = 1", "batch_size = 1 / 0",
    "batch_size = 10 ** -400 / 10 ** -400", "batch_size = 'x' + 1", "batch_size = -'x'", "batch_size = 1e999",
    "batch_size = 10 ** 60", "x = 9 ** 40 * 9 ** 40", "seed = 2 ** 63"]


@pytest.mark.parametrize("line", REFUSED)
def test_python_config_refuses(line: str) -> None:
    """行号说得对，什么都没有执行。"""
    began = time.monotonic()
    text = refusal(preset(f"# a config\nblock_size = 8\n{line}\n", ".py"))
    assert "mine.py:3" in text and not Path("canary").exists() and time.monotonic() - began < 1


def test_python_config_that_doubles() -> None:
    """每行翻一倍：三十行就是几 GB，要在那之前拒绝。"""
    for start, line in (("x = 9 ** 9", "x = x * x"), ("x = 'abcdefgh'", "x = x + x")):
        began = time.monotonic()
        text = refusal(preset("\n".join([start, *[line] * 60]), ".py"))
        assert "only assignments" in text and time.monotonic() - began < 1


def test_canary_would_run() -> None:
    """若真的执行，上面的金丝雀就会出现。"""
    exec(f"batch_size = {CANARY}")
    assert Path("canary").exists()


@pytest.mark.parametrize("content, says", [
    ("n_layers = 4\n", ["mine.py:1", "unknown key n_layers", "did you mean n_layer"]),
    ("batch_size = 8\nbatch_size = 'x'\n", ["mine.py:2", "batch_size cannot be 'x'"]),
    ("batch_size = (\n", ["mine.py:", "not valid Python"]), ("a b\n", ["mine.py:1", "not valid Python"]),
    ("batch_size = " + "(" * 5000 + "1" + ")" * 5000, ["mine.py"]), ("x = " + "-" * 20000 + "1", ["mine.py"]),
    ("batch_size = " + "+".join(["1"] * 20000), ["mine.py"]), ("batch_size = 8\0\n", ["mine.py"]),
    ("dropout = True\n", ["mine.py:1", "dropout cannot be True"])])
def test_python_config_faults(content: str, says: list[str]) -> None:
    text = refusal(preset(content, ".py"))
    assert all(part in text for part in says)


# ---- TOML


def test_toml_bom_and_crlf() -> None:
    config = load(preset(b"\xef\xbb\xbfbatch_size = 8\r\nbias = true\r\n[about]\r\ntitle = \"x\"\r\n"))
    assert config.batch_size == 8 and config.bias


@pytest.mark.parametrize("content, says", [
    ("batch_size = ", ["mine.toml", "not valid TOML"]), ("batch_size = 8 8", ["not valid TOML", "line 1"]),
    ("\n\nbatch_size = True", ["not valid TOML", "line 3"]), ("a = 1\na = 2", ["not valid TOML"]),
    ("# x\nbatch_size = \"eight\"", ["mine.toml:2", "batch_size cannot be 'eight'"]),
    ("batch_size = true", ["mine.toml:1", "batch_size cannot be True"]), ("batch_size = 1.5", ["batch_size"]),
    ("bias = 2", ["bias cannot be 2"]), ("batch_size = [8]", ["batch_size cannot be [8]"]),
    ("out_dir = 5", ["out_dir cannot be 5"]),
    ("dropout = nan", ["dropout"]), ("learning_rate = inf", ["learning_rate"]),
    ("batch_size = 1979-05-27", ["batch_size"]), ("[train]\nbatch_size = 8", ["mine.toml:1", "unknown key train"]),
    ("[batch_size]\nx = 1", ["batch_size"]), ("\"batch\\nsize\" = 1", ["unknown key batch\\x0asize"]),
    ("n_layers=2", ["did you mean n_layer"]),
    (b"out_dir = \"\xff\xfe\"", ["not UTF-8 (byte 11)"]), (b"\x00", ["mine.toml"]),
    (b"#" * (2 << 20), ["larger than 1 MiB"]),
    ("a = " + "[" * 3000 + "]" * 3000, ["mine.toml"]), ("a." * 3000 + "b = 1", ["mine.toml"]),
    ("batch_size = 0x" + "f" * 4000, ["batch_size"]), ("batch_size = " + "9" * 5000, ["mine.toml"]),
    ("batch_size = 8\rbias = true", ["mine.toml"]), (b"out_dir = \"\xed\xa0\x80\"", ["not UTF-8"])],
    ids=lambda value: repr(value)[:30])
def test_toml_faults(content: str | bytes, says: list[str]) -> None:
    text = refusal(preset(content))
    assert all(part in text for part in says)


def test_folder_named_like_a_preset() -> None:
    Path("mine.toml").mkdir()
    assert "there is no preset" in refusal("mine.toml")


def test_unreadable_preset() -> None:
    if os.getuid() == 0:
        path = Path("/proc/self/mem.toml")  # root 读得了一切；换一个谁也打不开的
        os.symlink("/proc/self/task/0/none", "mine.toml")
        assert not path.exists() and "there is no preset" in refusal("mine.toml")
        return
    os.chmod(preset("batch_size = 8"), 0)
    assert "cannot read the preset" in refusal("mine.toml")


def test_random_files() -> None:
    """三百份随机的预设：只有成功与 `BadInput` 两种结局。一半是在像样的文件上改几个字节。"""
    rng = random.Random(20240607)
    seeds = [b'out_dir = "a"\nbatch_size = 8\n[about]\ntitle = "x"\n',
             b"import time\nn_embd = 8 * 8\nout_dir = 'x' + 'y'\n"]
    options = options_of(TrainConfig)
    outcomes = {"read": 0, "refused": 0}
    for number in range(300):
        suffix = (".toml", ".py")[number % 2]
        data = bytearray(rng.randbytes(rng.randrange(200)) if number % 4 < 2 else seeds[number % 2])
        for _change in range(rng.randrange(4)):
            if data:
                data[rng.randrange(len(data))] = rng.choice(b"=\"'[](){}*\\\n\r\0\xff#.-+01aZ ")
        path = Path(preset(bytes(data), suffix))
        try:
            read_preset(path, options)
            load(str(path))
            outcomes["read"] += 1
        except BadInput as error:
            assert len(str(error).splitlines()) <= 3, str(error)
            outcomes["refused"] += 1
    assert outcomes["refused"] > 150 and outcomes["read"] > 5, outcomes


def test_random_arguments() -> None:
    """随机的命令行也是。"""
    rng = random.Random(5)
    options = options_of(TrainConfig)
    pieces = ["--", "-", "=", "batch_size", "no-", "1e3", "nan", "", "\0", "\udc80", "é", "auto", "compile", "lang",
              "9" * 400]
    for _number in range(500):
        argv = ["".join(rng.choices(pieces, k=rng.randrange(1, 5))) for _arg in range(rng.randrange(1, 4))]
        try:
            parse(options, argv)
        except BadInput as error:
            str(error).encode()


def test_precedence_and_saved_values() -> None:
    """默认值 < 预设 < 命令行；只对一次调用有意义的键不存。"""
    path = preset("batch_size = 8\nblock_size = 32\n")
    config, explicit = load_config(TrainConfig, [path, "--block_size=64", "--overwrite"], "", "")
    assert (config.batch_size, config.block_size, config.n_layer) == (8, 64, 12)
    assert explicit == {"batch_size", "block_size", "overwrite"} and "overwrite" not in saved_values(config)


def test_resume_reads_the_runs_own_config() -> None:
    Path("old").mkdir()
    Path("old/config.toml").write_text("batch_size = 3\n", encoding="utf-8")
    assert load("--init_from=resume", "--out_dir=old").batch_size == 3
    assert load("--out_dir=old").batch_size == 12
