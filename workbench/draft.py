"""还没启动的一次训练：预设、改动、怎样铺在机器上；由此得到命令、检查与估算。

启动界面持有一个 `Draft`，只改它、只显示它；本模块不导入 `textual`，所以不用界面就能测。
"""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanogpt.config import TrainConfig, check_world_size, load_config
from nanogpt.dataset import Dataset, check_dataset, open_dataset
from nanogpt.errors import BadInput
from nanogpt.i18n import _, language
from nanogpt.options import Option, coerce, options_of, unknown_key
from nanogpt.presets import find_preset, list_presets, read_preset
from nanogpt.rundir import CHECKPOINT, CONFIG, EVENTS
from nanogpt.shipped import shipped_dir
from workbench.estimate import Estimate, estimate, shape_of
from workbench.launch import LaunchPlan
from workbench.machine import MachineOptions, has_infiniband
from workbench.watched_run import WatchedRun

# 没有网络与 GPU 也能跑的那个，列在随包预设的最前
FIRST_PRESET = "quickstart"
GPUS = re.compile(r"([0-9]{1,3}(,[0-9]{1,3})*)?")
TRAIN_OPTIONS, MACHINE_OPTIONS = options_of(TrainConfig), options_of(MachineOptions)


class EditedValues:
    """一组键：`base` 是没有改过的值，`edits` 是改动的文字（命令行上的写法）。表单显示并修改它。

    `search`、`cursor`、`pending` 是表单的样子：换语言时部件重建，这些要留下。
    """

    def __init__(self, options: Mapping[str, Option], base: Mapping[str, Any]):
        self.options, self.base = dict(options), dict(base)
        self.edits: dict[str, str] = {}
        self.search = ""
        self.cursor: str | None = None
        self.pending: str | None = None

    def set(self, name: str, text: str) -> None:
        """改成 `text`；与没改过的一样就不算改动。不合法时抛出 `BadInput`，什么也不变。"""
        option = self.options[name]
        text = text if option.type is str else text.strip()
        if coerce(option, text, "") == self.base[name]:
            self.edits.pop(name, None)
        else:
            self.edits[name] = text

    def reset(self, name: str) -> None:
        self.edits.pop(name, None)

    def value(self, name: str) -> Any:
        return coerce(self.options[name], self.edits[name], "") if name in self.edits else self.base[name]

    def text(self, name: str) -> str:
        """现在的值，写成可以再改的文字。"""
        return self.edits[name] if name in self.edits else str(self.base[name])

    def values(self) -> dict[str, Any]:
        return {name: self.value(name) for name in self.options}


class Draft:
    """一次训练的草稿。`train` 与 `machine` 由表单直接修改，其余经方法。"""

    def __init__(self, workspace: Path):
        self.workspace = workspace
        self.preset = ""
        self.train = EditedValues(TRAIN_OPTIONS, {name: opt.default for name, opt in TRAIN_OPTIONS.items()})
        self.machine = EditedValues(MACHINE_OPTIONS, {
            **{name: opt.default for name, opt in MACHINE_OPTIONS.items()}, "has_infiniband": has_infiniband()})
        self.has_cuda = False
        self._name = "run"
        self._fitted: str | None = None
        self._datasets: dict[str, Dataset | None] = {}
        self._plan_out_dir()

    # ---- 改 ----

    def choose_preset(self, preset: str) -> None:
        """换预设，改动留着。读不了的预设抛出 `BadInput`，什么也不变。"""
        path = find_preset(preset, self.workspace)
        base = {name: opt.default for name, opt in TRAIN_OPTIONS.items()}
        for name, (value, where) in read_preset(path, TRAIN_OPTIONS).items():
            if name not in TRAIN_OPTIONS:
                raise unknown_key(name, TRAIN_OPTIONS, where)
            base[name] = coerce(TRAIN_OPTIONS[name], value, where)
        self.preset = preset
        self._rebase(base, path.parent.name if path.name == CONFIG else path.stem)

    def rest_on(self, preset: str) -> None:
        """改动都存进了 `preset`：从它重新开始，只留下运行目录的改动。"""
        kept = self.train.edits.get("out_dir")
        self.train.edits = {}
        self.choose_preset(preset)
        if kept is not None:
            self.train.set("out_dir", kept)

    def choose_run(self, run: WatchedRun) -> None:
        """照着一个运行再来一次：它的 `config.toml` 就是预设；没有（nanoGPT 的）就用日志里的配置。"""
        saved = run.out_dir / CONFIG
        if saved.is_file():
            self.choose_preset(os.path.relpath(saved) if saved.resolve().is_relative_to(Path.cwd()) else str(saved))
        else:
            self._rebase({name: opt.default for name, opt in TRAIN_OPTIONS.items()}, run.out_dir.resolve().name)
            for name, value in run.state.config.items():
                if name in TRAIN_OPTIONS and name != "out_dir":
                    self.train.set(name, str(value))
        if self.train.base["init_from"] == "resume":
            self.train.set("init_from", "scratch")
        if run.state.world_size and run.state.world_size <= 1024:
            self.machine.set("ranks", str(run.state.world_size))

    def _rebase(self, base: dict[str, Any], name: str) -> None:
        # 运行目录叫 `<名字>-<时间>`，再来一次时换掉时间
        self._name = re.sub(r"(-\d{8}-\d{6}(-\d+)?)+$", "", re.sub(r"[^\w.-]+", "-", name)).lstrip("-.") or "run"
        edits, self.train.edits, self.train.base = self.train.edits, {}, base
        self._plan_out_dir()
        for key, text in edits.items():
            self.train.set(key, text)

    def _plan_out_dir(self) -> None:
        """先想好运行目录的名字，显示的命令才与要跑的一字不差。"""
        wanted = f"runs/{self._name}-{time.strftime('%Y%m%d-%H%M%S')}"
        taken = (f"{wanted}-{n}" for n in range(2, 1000))
        self.train.base["out_dir"] = next(
            (name for name in (wanted, *taken) if not (self.workspace / name).exists()), wanted)

    def fit_accumulation(self) -> None:
        """累积步数要能平分给各进程：不能就取下一个倍数；进程又少了，自己加上的就撤回。"""
        key = "gradient_accumulation_steps"
        if self._fitted is not None and self.train.edits.get(key) == self._fitted:
            self.train.reset(key)
        self._fitted = None
        steps = self.train.value(key)
        if steps % self.world_size:
            self._fitted = str((steps // self.world_size + 1) * self.world_size)
            self.train.set(key, self._fitted)

    def toggle_gpu(self, number: int) -> None:
        """选上或放下一块 GPU：每块一个进程。设备明说了别的，就交还给自动。"""
        chosen = sorted(self.gpus ^ {number})
        self.machine.set("cuda_devices", ",".join(map(str, chosen)))
        self.machine.set("ranks", str(max(1, len(chosen))))
        if chosen and self.train.value("device") not in ("auto", "cuda"):
            self.train.set("device", "auto")

    def forget_datasets(self) -> None:
        """数据集可能变了（刚准备好），下次重新打开。"""
        self._datasets.clear()

    # ---- 看 ----

    @property
    def world_size(self) -> int:
        return self.machine.value("ranks") * self.machine.value("nodes")

    @property
    def gpus(self) -> set[int]:
        """明说了要用的 GPU；写法不对时为空，检查时再说。"""
        text = self.machine.value("cuda_devices")
        return {int(part) for part in text.split(",")} if GPUS.fullmatch(text) and text else set()

    def plan(self) -> LaunchPlan:
        values = {name: text for name, text in self.train.edits.items() if name != "out_dir"}
        return LaunchPlan(self.preset, self.train.value("out_dir"), values, **self.machine.values())

    def trainer_argv(self) -> list[str]:
        """命令里归 `nanogpt.train` 的那部分。"""
        command = self.plan().command()
        return command[command.index("nanogpt.train") + 1:]

    def config(self) -> TrainConfig:
        """不经跨键检查的配置，给估算用。"""
        return TrainConfig(**self.train.values())

    def dataset(self) -> Dataset | None:
        """所选的数据集；还没准备或打不开则 None。"""
        name = self.train.value("dataset")
        if name not in self._datasets:
            try:
                dataset = open_dataset(name, self.workspace)
                dataset.tokens("train")
                self._datasets[name] = dataset
            except BadInput:
                self._datasets[name] = None
        return self._datasets[name]

    def estimate(self) -> Estimate:
        """`init_from` 的目录不合法时抛出 `BadInput`。"""
        return estimate(self.config(), self.dataset(), self.world_size, self.has_cuda)

    def check_keys(self) -> TrainConfig:
        """用将要执行的参数走一遍训练器读配置的路；不合法时抛出 `BadInput`。约几毫秒。"""
        # `load_config` 会按环境换语言，所以明说现在的语言
        config, _explicit = load_config(TrainConfig, [*self.trainer_argv(), f"--lang={language()}"], "", "")
        check_world_size(config, self.world_size)
        gpus = self.machine.value("cuda_devices")
        if not GPUS.fullmatch(gpus):
            raise _bad("cuda_devices", gpus, _("numbers with commas between, such as 0,2"))
        if gpus and len(gpus.split(",")) < self.machine.value("ranks"):
            raise _bad("ranks", self.machine.value("ranks"), _("only {n} GPUs are chosen").format(
                n=len(gpus.split(","))))
        address = self.machine.value("master_addr")
        if not re.fullmatch(r"[\w.:\[\]%-]{1,253}", address, re.ASCII) or address.startswith("-"):
            raise _bad("master_addr", address, _("a host name or an IP address"))
        return config

    def check(self) -> None:
        """启动之前的全部检查；不合法时抛出 `BadInput`。会读数据集（至多 128 MB），放在线程里调用。"""
        config = self.check_keys()
        folder = self.workspace / config.out_dir
        is_taken = any((folder / name).exists() for name in (CHECKPOINT, EVENTS))
        if config.init_from == "resume" and not (folder / CHECKPOINT).is_file():
            raise BadInput("no_checkpoint", _("there is no checkpoint to resume from"), str(folder / CHECKPOINT),
                           _("fix --out_dir, or leave out --init_from=resume"))
        if is_taken and not (config.overwrite or config.eval_only or config.init_from == "resume"):
            raise BadInput("out_dir_occupied", _("there is already a run here"), config.out_dir,
                           _("choose another out_dir, or set overwrite to delete it"))
        dataset = open_dataset(config.dataset, self.workspace)
        if config.init_from != "resume":
            check_dataset(dataset, config.block_size, shape_of(config, dataset).vocab_size)

    def make_out_dir(self) -> Path:
        """建好运行目录，0700；自己起的名字若已被占就换一个，返回它。"""
        if "out_dir" not in self.train.edits and Path(self.train.value("out_dir")).exists():
            self._plan_out_dir()
        out_dir = Path(self.train.value("out_dir"))
        try:
            for folder in [path for path in (*reversed(out_dir.parents), out_dir) if not path.exists()]:
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise BadInput("out_dir_unusable", _("cannot make the run directory: {why}").format(why=error.strerror),
                           str(out_dir), _("choose another out_dir")) from error
        return out_dir

    def start_command(self) -> list[str]:
        """在这台机器上要跑的命令，环境变量由 `env` 设好。"""
        plan = self.plan()
        settings = [f"{name}={value}" for name, value in plan.environment().items()]
        return [*(["env", *settings] if settings else []), *plan.command()]


def ordered_presets(workspace: Path) -> dict[str, Path]:
    """工作区自己的在前，随包的在后，快速开始居首。"""
    found, shipped = list_presets(workspace), shipped_dir("presets").resolve()
    return dict(sorted(found.items(), key=lambda item: (
        item[1].parent.resolve() == shipped, item[0] != FIRST_PRESET, item[0])))


def first_draft(workspace: Path, preset: str | None, clone_of: WatchedRun | None) -> tuple[Draft, BadInput | None]:
    """照着一个运行，或照着预设（没说就取最前的）填好的草稿；做不到时还是空的，附上原因。"""
    draft = Draft(workspace)
    try:
        if clone_of is not None:
            draft.choose_run(clone_of)
        else:
            names = list(ordered_presets(workspace))
            if chosen := preset or (FIRST_PRESET if FIRST_PRESET in names else next(iter(names), None)):
                draft.choose_preset(chosen)
    except BadInput as error:
        return draft, error
    return draft, None


def _bad(name: str, value: Any, hint: str) -> BadInput:
    return BadInput("bad_value", _("{key} cannot be {value}").format(key=name, value=repr(value)[:80]), "", hint)
