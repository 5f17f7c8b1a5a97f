"""命令、草稿与预设文件：显示的命令真的被训练器读懂，粘贴到 shell 里得到同样的运行。约二十秒。"""

import os
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from conftest import TINY, clean_env, slow

from nanogpt.config import TrainConfig, load_config
from nanogpt.errors import BadInput
from nanogpt.events import EventWriter
from nanogpt.i18n import language, use_language
from nanogpt.text import visible
from workbench import launch
from workbench.draft import Draft
from workbench.launch import LaunchPlan, command_line
from workbench.machine import cuda_devices, list_devices
from workbench.preparation import Preparation
from workbench.preset_file import save_preset
from workbench.watched_run import WatchedRun

ROOT = Path(__file__).resolve().parents[1]
TINY_VALUES = dict(arg.removeprefix("--").split("=", 1) for arg in TINY)


@pytest.fixture
def here(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """以工作区为当前目录，同应用一样；里面有一个极小的预设 `tiny`。"""
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (workspace / "presets").mkdir()
    lines = [f"{key} = {value!r}" if key in ("dataset", "device", "dtype") else f"{key} = {value.lower()}"
             for key, value in TINY_VALUES.items()]
    lines = ["# kept", 'out_dir = "out-tiny"', *lines, "[about]", 'title = "Tiny"']
    (workspace / "presets" / "tiny.toml").write_text("\n".join(lines), encoding="utf-8")
    return workspace


def parsed(command: list[str]) -> TrainConfig:
    return load_config(TrainConfig, command[command.index("nanogpt.train") + 1:], "", "")[0]


def wait_for(process: "subprocess.Popen[bytes]", out_dir: Path) -> None:
    assert process.wait(timeout=120) == 0, launch.console_tail(out_dir)


def config_of(out_dir: Path) -> dict[str, object]:
    found = tomllib.loads((out_dir / "config.toml").read_text(encoding="utf-8"))
    del found["out_dir"]
    return found


@pytest.mark.usefixtures("here")
def test_commands_parse() -> None:
    """单进程、多进程、多机器的命令，`nanogpt.train` 之后的部分都读得懂，而且值都在。"""
    values = {"learning_rate": "1e3", "wandb_run_name": "a b=[c] 'd' $HOME", "bias": "True", "seed": "7"}
    for plan in (LaunchPlan("tiny", "runs/x", values), LaunchPlan("tiny", "runs/x", values, ranks=2),
                 LaunchPlan("tiny", "runs/x", values, ranks=8, nodes=2, master_addr="10.0.0.1", master_port=1234)):
        for node in range(plan.nodes):
            config = parsed(shlex.split(command_line(plan.command(node))))
            assert config.learning_rate == 1000 and config.wandb_run_name == values["wandb_run_name"]
            assert config.bias is True and config.seed == 7 and config.out_dir == "runs/x" and config.n_embd == 16


ODD_VALUES = ("a b", "it's", 'say "hi"', "a=b=c", "--flag=1", "-x", "$HOME `id` $(id) \\ !!", "*?[a]{b,c}~",
              "# no; & | < >", "tab\there", "two\nlines\n", "\x1b[31m\x9b2J\a", "\u202eevil\u2066",
              "汉字 é 👩\u200d👩", "\udcff\udc80", "", "\\", "'", "\\'\x01'", "$'x'", "\r07")


@pytest.mark.usefixtures("here")
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_odd_values_survive_the_shell() -> None:
    """显示的每一行只含看得见的字符，粘贴到 shell 里得到的参数一个字节不差；几台机器、几个 rank 的也是。"""
    dump = "import os, sys; os.write(1, b'\\0'.join(map(os.fsencode, sys.argv[1:])))"
    for value in ODD_VALUES:
        values = {"wandb_run_name": value, "wandb_project": f"p{value}", "out": value}
        for plan in (LaunchPlan("my preset's", f"runs/{value}x", values), LaunchPlan("tiny", "runs/x", values, ranks=2),
                     LaunchPlan("tiny", "runs/x", values, ranks=2, nodes=2, has_infiniband=False, cuda_devices="0,1")):
            for node, line in enumerate(plan.node_lines()):
                assert visible(line, keep="") == line, value
                words = line.partition(sys.executable)
                pasted = words[0] + f"{sys.executable} -c {shlex.quote(dump)}" + words[2]
                done = subprocess.run(["bash", "-c", pasted], capture_output=True, check=True)
                assert done.stdout.split(b"\0") == [os.fsencode(word) for word in plan.command(node)[1:]], value


@pytest.mark.usefixtures("here")
def test_lines_for_each_node() -> None:
    plan = LaunchPlan("tiny", "runs/x", ranks=4, nodes=3, master_addr="10.0.0.1", master_port=1234,
                      has_infiniband=False, cuda_devices="0,1,2,3")
    lines = plan.node_lines()
    assert len(lines) == 3
    for number, line in enumerate(lines):
        assert line.startswith("CUDA_VISIBLE_DEVICES=0,1,2,3 NCCL_IB_DISABLE=1 ")
        for part in ("--nnodes=3", f"--node_rank={number}", "--nproc_per_node=4", "--master_addr=10.0.0.1",
                     "--master_port=1234"):
            assert part in line.split()
    assert "NCCL_IB_DISABLE" not in LaunchPlan("tiny", "x", nodes=2).node_lines()[0]
    # 单机用不着 InfiniBand
    assert LaunchPlan("tiny", "x", has_infiniband=False).environment() == {}
    done = subprocess.run(["sh", "-c", lines[0].split(sys.executable)[0] + "env"], capture_output=True, text=True,
                          check=True)
    assert "NCCL_IB_DISABLE=1" in done.stdout and "CUDA_VISIBLE_DEVICES=0,1,2,3" in done.stdout


def test_the_shown_command_pasted_gives_the_same_run(here: Path) -> None:
    """与启动的一次相比，`config.toml` 除 `out_dir` 外相同。"""
    draft = Draft(here)
    draft.choose_preset("tiny")
    draft.train.set("wandb_run_name", "it's a \"run\" $(x)")
    draft.train.set("learning_rate", "3e-3")
    draft.check()
    shown = draft.plan().node_lines()
    out_dir = draft.make_out_dir()
    assert str(out_dir) in shown[0] and oct(out_dir.stat().st_mode & 0o777) == "0o700"
    wait_for(launch.start(draft.start_command(), out_dir), out_dir)
    pasted = shown[0].replace(str(out_dir), "runs/pasted")
    subprocess.run(pasted, shell=True, check=True, env=clean_env(), capture_output=True, timeout=120)
    assert config_of(out_dir) == config_of(here / "runs" / "pasted")
    assert config_of(out_dir)["learning_rate"] == 3e-3
    # 照着它再来一次：同样的配置，另一个目录，不是续训
    again = Draft(here)
    run = WatchedRun(out_dir)
    run.refresh()
    again.choose_run(run)
    config = again.check_keys()
    assert again.train.value("out_dir") not in (str(out_dir), "runs/pasted") and config.init_from == "scratch"
    assert {**vars(config), "out_dir": ""} == {**vars(parsed(draft.start_command())), "out_dir": ""}


@slow
def test_two_cpu_ranks(here: Path) -> None:
    """两个进程经 gloo 训练；累积步数自己取了倍数，撤回两个进程也就撤回它。"""
    draft = Draft(here)
    draft.choose_preset("tiny")
    draft.train.set("gradient_accumulation_steps", "3")
    draft.machine.set("ranks", "2")
    draft.fit_accumulation()
    assert draft.train.value("gradient_accumulation_steps") == 4
    draft.train.set("wandb_run_name", "a=b 'c' \"d\" $HOME\n\x1b[31m 汉")
    draft.check()
    out_dir = draft.make_out_dir()
    (shown,) = draft.plan().node_lines()
    wait_for(launch.start(draft.start_command(), out_dir), out_dir)
    pasted = shown.replace(str(out_dir), "runs/pasted")
    subprocess.run(["bash", "-c", pasted], check=True, env=clean_env(), capture_output=True, timeout=120)
    assert config_of(out_dir) == config_of(here / "runs" / "pasted")
    assert config_of(out_dir)["wandb_run_name"] == "a=b 'c' \"d\" $HOME\n\x1b[31m 汉"
    run = WatchedRun(out_dir)
    run.refresh()
    assert run.status == "finished" and run.state.world_size == 2
    draft.machine.reset("ranks")
    draft.fit_accumulation()
    assert draft.world_size == 1 and draft.train.value("gradient_accumulation_steps") == 2


def test_checks_before_starting(here: Path) -> None:
    draft = Draft(here)
    draft.choose_preset("tiny")
    for key, text, said in (("n_head", "3", "n_head"), ("warmup_iters", "6", "warmup_iters"),
                            ("dataset", "absent", "no dataset"), ("block_size", "100000", "block_size"),
                            ("device", "tpu", "device"), ("init_from", "gpt3", "init_from"),
                            ("init_from", "resume", "no checkpoint")):
        draft.train.set(key, text)
        with pytest.raises(BadInput) as caught:
            draft.check()
        assert said in str(caught.value) and len(str(caught.value).splitlines()) <= 3
        draft.train.reset(key)
    for key, text in (("master_addr", "a b"), ("master_addr", "-x"), ("cuda_devices", "0;rm"), ("cuda_devices", "٣")):
        draft.machine.set(key, text)
        with pytest.raises(BadInput, match=key):
            draft.check()
        draft.machine.reset(key)
    draft.check()
    with pytest.raises(BadInput):
        draft.train.set("n_layer", "many")
    assert draft.train.value("n_layer") == 2 and not draft.train.edits


def test_an_occupied_directory_is_refused(here: Path) -> None:
    folder = here / "out-old"
    folder.mkdir()
    EventWriter(folder / "events.jsonl").close()
    draft = Draft(here)
    draft.choose_preset("tiny")
    draft.train.set("out_dir", "out-old")
    with pytest.raises(BadInput, match="already a run"):
        draft.check()
    draft.train.set("overwrite", "true")
    draft.check()


def test_planned_directories_never_collide(here: Path) -> None:
    draft, other = Draft(here), Draft(here)
    draft.choose_preset("tiny")
    other.choose_preset("tiny")
    assert draft.make_out_dir() != other.make_out_dir()


def test_checking_keeps_the_language(here: Path) -> None:
    """读配置会按环境设语言；应用里切换过的不能被它换回去。"""
    use_language("zh")
    try:
        draft = Draft(here)
        draft.choose_preset("tiny")
        draft.check()
        assert language() == "zh"
    finally:
        use_language("en")


def test_presets_saved(here: Path) -> None:
    """只写不同于默认值的；已有文件的注释与标题留着；读回来就是那些值。"""
    draft = Draft(here)
    draft.choose_preset("tiny")
    draft.train.set("learning_rate", "3e-3")
    draft.train.set("dropout", "0")
    draft.train.set("wandb_log", "true")
    values = draft.train.values()
    values.pop("out_dir")
    save_preset("tiny", values, here)
    text = (here / "presets" / "tiny.toml").read_text(encoding="utf-8")
    found = tomllib.loads(text)
    assert "# kept" in text and found["out_dir"] == "out-tiny" and found["about"] == {"title": "Tiny"}
    assert found["learning_rate"] == 3e-3 and found["wandb_log"] is True and "dropout" not in found
    path = save_preset("mine", values, here)
    fresh = tomllib.loads(path.read_text(encoding="utf-8"))
    assert fresh.pop("about") == {"title": "mine"} and "max_iters" in fresh and "beta1" not in fresh
    assert fresh == {key: found[key] for key in fresh}
    again = Draft(here)
    again.choose_preset("mine")
    assert {**again.train.values(), "out_dir": ""} == {**draft.train.values(), "out_dir": ""}
    for name in ("../x", "", "-x", "a/b", "a.b", "x\n"):
        with pytest.raises(BadInput):
            save_preset(name, values, here)
    (here / "presets" / "broken.toml").write_text("a = = 1", encoding="utf-8")
    with pytest.raises(BadInput, match="cannot be read"):
        save_preset("broken", values, here)
    assert (here / "presets" / "broken.toml").read_text(encoding="utf-8") == "a = = 1"


def test_devices_are_listed_without_torch(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU 总在最后。`nvidia-smi` 是替身：这里没有 GPU，也要试它的输出与它的毛病。"""
    assert list_devices()[-1].name == "cpu" and (list_devices()[-1].memory_mib or 0) > 100
    tool = here / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho '0, GPU-aaaa, 81559, NVIDIA H100, \x1b[31m80GB'\necho '1, GPU-bbbb, 40960, A100'\n"
                    "echo garbage\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [(d.name, d.memory_mib) for d in cuda_devices()] == [("cuda:0", 81559), ("cuda:1", 40960)]
    assert cuda_devices()[0].title.startswith("NVIDIA H100, ")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [(d.name, d.title) for d in cuda_devices()] == [("cuda:0", "A100")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cuda_devices() == []
    tool.write_text("#!/bin/sh\nexit 9\n", encoding="utf-8")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert cuda_devices() == []


def wait_until(condition: object, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_preparing_survives_and_is_found_again(here: Path) -> None:
    """准备不属于起它的应用：另一个应用认得出、看得到日志、也能取消；再起一次被拒绝。"""
    folder = here / "data" / "slow"
    folder.mkdir()
    (folder / "prepare.py").write_text("import time\nprint('half \\x1b[2J way')\ntime.sleep(60)\n", encoding="utf-8")
    first = Preparation("slow", here)
    first.start()
    other = Preparation("slow", here)
    wait_until(lambda: any("half" in line for line in other.tail()))
    assert other.is_running() and first.is_running() and "\x1b" not in "".join(other.tail())
    with pytest.raises(BadInput, match="already"):
        other.start()
    assert oct(other.log.stat().st_mode & 0o777) == "0o600"
    assert other.cancel()
    wait_until(lambda: not first.is_running())
    assert not other.is_running() and not other.cancel() and first.exit_code != 0
    first.process.wait()  # type: ignore[union-attr]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_trainer_speaks_the_language_of_the_app(here: Path, lang: str) -> None:
    """界面此刻是哪种语言，它起的训练器的日志就是哪种；约 3 s。"""
    from nanogpt.i18n import use_language

    out_dir = here / "runs" / lang
    out_dir.mkdir(parents=True)
    use_language(lang)
    try:
        process = launch.start(launch.python("-m", "nanogpt.train", "--n_head=3", "--n_embd=4"), out_dir)
    finally:
        use_language("en")
    assert process.wait(60) == 2
    console = (out_dir / "console.log").read_text(encoding="utf-8")
    assert console.startswith("error:") == (lang == "en") and "n_head" in console
    assert any("\u4e00" <= char <= "\u9fff" for char in console) == (lang == "zh"), console
