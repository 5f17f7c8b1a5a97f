"""保存途中的故障、坏检查点、磁盘与内存不够（故障表第 1 到 9、26、37、38 行）。约 40 s。

全部次数由 `python tests/fault_campaign.py` 跑；这里是同一批函数的样本。
"""

import random

import pytest
from conftest import TINY
from fault_campaign import SavePoints, corruption_campaign, random_kills


@pytest.fixture(scope="module")
def points(trainer_server, tmp_path_factory):
    """注入点是数出来的：三次短的训练。"""
    from conftest import make_tiny_dataset

    folder = tmp_path_factory.mktemp("points")
    make_tiny_dataset(folder / "data" / "tiny")
    return SavePoints(trainer_server, folder, TINY)


def test_order_of_syncs(points):
    """数据先落盘，再改名，再让目录落盘。"""
    names = points.names
    assert names[0] == "open" and names[-3:] == ["fsync file", "rename", "fsync folder"]
    assert set(names[1:-3]) == {"write"} and len(names) > 10
    print(len(names))


def test_kill_at_every_call(points):
    for kind, at, phase in points.all_points("SIGKILL"):
        points.check(kind, at, phase)


@pytest.mark.parametrize("kind", ["SIGINT", "SIGTERM", "ENOSPC", "EIO", "EFBIG"])
def test_fault_at_sampled_calls(points, kind):
    """首尾的调用全试，中间的写抽样。"""
    every = points.all_points(kind)
    edges = [p for p in every if p[1] < 3 or p[1] >= len(points.names) - 4]
    for point in edges + random.Random(kind).sample(every, 6):
        points.check(*point)
