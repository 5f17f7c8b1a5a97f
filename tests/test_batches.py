"""取批：随机的窗口与 nanoGPT 相同，洗过牌的窗口不重复、不遗漏，续训接得上，内存不长。约 12 s。"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, make_tiny_dataset, slow
from fault_campaign import events_of, load, same

from nanogpt.batches import RandomWindows, ShuffledWindows, permuted
from nanogpt.dataset import open_dataset, write_dataset
from nanogpt.errors import BadInput
from nanogpt.tokenizer import ByteTokenizer


def dataset_of(tmp_path, train, val=100):
    """每个位置的 id 都由位置决定，看得出窗口从哪里来。"""
    ids = (np.arange(train) % 251).astype("<u2")
    write_dataset(tmp_path / "data" / "mine", ByteTokenizer(), {"train": ids, "val": ids[:val]})
    return open_dataset("mine", tmp_path)


def test_random_windows_are_nanogpts(tmp_path):
    """与 nanoGPT 的 `get_batch` 同样的随机数、同样的批。"""
    dataset = dataset_of(tmp_path, 5000)
    data = np.memmap(dataset.path("train"), dtype=np.uint16, mode="r")
    torch.manual_seed(7)
    ix = torch.randint(len(data) - 32, (6,))
    expected = torch.stack([torch.from_numpy(data[i : i + 32].astype(np.int64)) for i in ix])
    torch.manual_seed(7)
    windows = RandomWindows(dataset, 6, 32, 257, "cpu")
    x, y = windows.load("train", windows.next())
    assert torch.equal(x, expected) and torch.equal(x[:, 1:], y[:, :-1])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100, 1000, 4097])
def test_permutation(size):
    """真的是排列，换了钥匙就换一个，整个与逐个给出的相同。"""
    keys = [np.array([key], dtype=np.uint64) for key in (1, 2)]
    one, two = (permuted(np.arange(size), size, key) for key in keys)
    assert sorted(one) == list(range(size)) and (size < 100 or (one != two).any())
    assert [int(permuted(np.array([place]), size, keys[0])[0]) for place in range(min(size, 20))] == list(one[:20])
    if size >= 1000:
        # 看不出次序：与原来的位置几乎不相关
        assert abs(np.corrcoef(np.arange(size), one)[0, 1]) < 0.1
        assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.1


def epoch(windows, count):
    return torch.cat([windows.next() for _ in range(count)]).tolist()


@pytest.mark.parametrize(("tokens", "block_size", "world_size"), [(1000, 8, 1), (1000, 8, 2), (4096, 64, 3),
                                                               (65, 64, 1)])
def test_each_window_once_an_epoch(tokens, block_size, world_size, tmp_path):
    """一轮之内各 rank 合起来：窗口互不重叠，每个 token 至多做一次目标，只漏掉首尾不足一个窗口的。"""
    dataset = dataset_of(tmp_path, tokens)
    ranks = [ShuffledWindows(dataset, 1, block_size, 257, "cpu", seed=5, rank=rank, world_size=world_size)
             for rank in range(world_size)]
    one = ranks[0].windows
    draws = [[windows.next().item() for windows in ranks] for _ in range(2 * one)]
    starts = [start for draw in draws for start in draw]
    first, second = sorted(starts[:one]), sorted(starts[one : 2 * one])
    for some in (first, second):
        assert all(b - a == block_size for a, b in itertools.pairwise(some))
        assert some[0] >= 0 and some[-1] + block_size < tokens
        assert tokens - len(some) * block_size <= 2 * block_size
    assert starts[:one] != starts[one : 2 * one] or one == 1
    assert len({windows.position for windows in ranks}) == 1


def test_position_alone_resumes(tmp_path):
    """接着走只要 `position`；不碰全局的随机数。"""
    dataset = dataset_of(tmp_path, 3000)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    whole = ShuffledWindows(dataset, 4, 16, 257, "cpu")
    expected = epoch(whole, 100)
    again = ShuffledWindows(dataset, 4, 16, 257, "cpu")
    epoch(again, 37)
    resumed = ShuffledWindows(dataset, 4, 16, 257, "cpu")
    resumed.position = again.position
    assert epoch(resumed, 63) == expected[37 * 4 :]
    assert torch.equal(torch.get_rng_state(), state)
    other = ShuffledWindows(dataset, 4, 16, 257, "cpu", seed=2)
    assert epoch(other, 100) != expected


def test_bad_id_is_named(tmp_path):
    dataset = dataset_of(tmp_path, 3000)
    windows = ShuffledWindows(dataset, 4, 16, 100, "cpu")
    with pytest.raises(BadInput) as caught:
        windows.load("train", torch.tensor([0, 90, 0, 0]))
    assert "token id 100" in caught.value.what and "token 100" in caught.value.where


def test_the_file_changes_during_the_run(tmp_path):
    """换上另一份（改名）：接着读原来的那份；原地截短：说出来，而不是一串数组的错误。"""
    dataset = dataset_of(tmp_path, 3000)
    windows = RandomWindows(dataset, 4, 16, 257, "cpu")
    torch.manual_seed(3)
    ix = windows.draw("train")
    expected = windows.load("train", ix)[0]
    path = dataset.path("train")
    (tmp_path / "new.bin").write_bytes(bytes(5000))
    held = path.open("r+b")
    (tmp_path / "new.bin").replace(path)
    assert torch.equal(windows.load("train", ix)[0], expected)
    held.truncate(40)
    with held, pytest.raises(BadInput) as caught:
        windows.load("train", ix)
    assert caught.value.code == "data_shrunk" and caught.value.where == str(path)


@pytest.mark.parametrize("cls", [pytest.param(RandomWindows, marks=slow), ShuffledWindows])
def test_memory_does_not_grow(cls, tmp_path):
    """nanoGPT #287：走遍 200 MB 的数据，常驻内存不增。"""
    if not Path("/proc/self/statm").is_file():
        pytest.skip("no /proc")
    folder = tmp_path / "data" / "mine"
    write_dataset(folder, ByteTokenizer(), {"train": np.zeros(100 << 20, dtype="<u2"), "val": np.zeros(9, dtype="<u2")})
    windows = cls(open_dataset("mine", tmp_path), 64, 1024, 257, "cpu")

    def resident():
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096

    for _ in range(5):
        windows.load("train", windows.next())
    before = resident()
    for _ in range(1600):  # 1600 批共 1.05 亿个 token
        windows.load("train", windows.next())
    assert resident() - before < 10 << 20


SHUFFLE = ("--out_dir=out", "--sampling=shuffle", "--max_iters=8", "--lr_decay_iters=8", "--eval_interval=3")


def test_resumed_run_is_the_same(trainer_server, tmp_path_factory):
    """整个训练器：停下再续，与不间断的逐位相同。"""
    whole, halted = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("halted")
    for folder in (whole, halted):
        make_tiny_dataset(folder / "data" / "tiny")
    assert trainer_server.train(whole, *TINY, *SHUFFLE).returncode == 0
    assert trainer_server.train(halted, *TINY, *SHUFFLE, inject={"kind": "stop_file", "at": 5}).returncode == 0
    assert load(halted / "out" / "ckpt.pt")["iter_num"] == 5
    assert trainer_server.train(halted, "--init_from=resume", "--out_dir=out").returncode == 0
    a, b = load(whole / "out" / "ckpt.pt"), load(halted / "out" / "ckpt.pt")
    for key in ("model", "optimizer", "rank_states"):
        assert same(a[key], b[key]), key
    assert a["rank_states"][0]["position"] > 0
    seen = {e["iter"]: e["loss"] for e in events_of(halted / "out") if e["event"] == "iter"}
    assert seen == {e["iter"]: e["loss"] for e in events_of(whole / "out") if e["event"] == "iter"}
    assert json.dumps(a["config"]["sampling"]) == '"shuffle"'
