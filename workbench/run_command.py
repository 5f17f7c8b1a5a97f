"""一个已有的运行是由怎样的命令来的：取自 `run.json`，读不出则用它的 `config.toml`。"""

import json

from nanogpt.rundir import CONFIG, RUN
from workbench.launch import LaunchPlan, python
from workbench.watched_run import WatchedRun

_MAX_BYTES = 1 << 20


def run_command(run: WatchedRun) -> list[str]:
    """可以再跑一遍的命令；分布式的按原来的进程数。"""
    arguments = _recorded_arguments(run)
    if arguments is None:
        return LaunchPlan(str(run.out_dir / CONFIG), str(run.out_dir), {}, run.state.world_size or 1).command()
    ranks = run.state.world_size or 1
    launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--standalone"]
    return python(*launcher, "-m", "nanogpt.train", *arguments)


def _recorded_arguments(run: WatchedRun) -> list[str] | None:
    try:
        with open(run.out_dir / RUN, "rb") as file:
            argv = json.loads(file.read(_MAX_BYTES)).get("argv")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    is_list = isinstance(argv, list) and argv and all(isinstance(item, str) for item in argv)
    return argv[1:] if is_list else None
