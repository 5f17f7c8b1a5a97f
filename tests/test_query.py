"""运行列表的查询，对着真的日志文件。不到一秒。"""

from pathlib import Path

import pytest

from nanogpt.events import EventWriter
from workbench.query import QueryError, matches, wanted_order
from workbench.run_order import ORDERS, ordered, ordered_by
from workbench.watched_run import WatchedRun


@pytest.fixture
def run(tmp_path: Path) -> WatchedRun:
    """一个练完的运行：损失 1.4，验证 1.6，学习率 1e-3。"""
    out_dir = tmp_path / "runs" / "baby-GPT-[red]"
    out_dir.mkdir(parents=True)
    writer = EventWriter(out_dir / "events.jsonl")
    config = {"dataset": "shakespeare_char", "learning_rate": 1e-3, "n_layer": 6, "bias": False, "dropout": 0.2,
              "compile": "auto", "init_from": "scratch", "max_iters": 100}
    writer.emit("start", config=config, resumed_from_iter=None, params=1000, tokens_per_iter=64, world_size=1,
                 device_name="CPU", peak_flops=None)
    writer.emit("iter", iter=100, loss=1.4, lr=1e-4, grad_norm=0.5, iter_ms=10.0, tokens_per_second=6400.0, mfu=None,
                 memory_mib=100.0)
    writer.emit("eval", iter=100, train_loss=1.39, val_loss=1.6, best_val_loss=1.55)
    writer.emit("end", status="finished", iter=100)
    writer.close()
    found = WatchedRun(out_dir)
    found.refresh()
    return found


@pytest.mark.parametrize("query", [
    "", "   ", "baby", "GPT", "[red]", "baby gpt", '"baby-gpt"', "learning_rate>=1e-3", "learning_rate=0.001",
    "learning_rate<=1e-3 dataset:shakespeare", "dataset=shakespeare_char", "dataset!=openwebtext", "n_layer:6",
    "n_layer>5", "dropout<1", "bias:false", "bias=no", "val_loss<1.7", "loss<1.5", "best_val_loss<=1.55", "iter>99",
    "tokens_per_second>6e3", "params=1000", "status:finished", "status:fin", "status!=failed", "name:baby",
    'init_from:"scratch"', "finetune-notes", "lr<1e-3",
])
def test_holds(run: WatchedRun, query: str) -> None:
    assert matches(query, run, notes="Finetune-Notes to self")


@pytest.mark.parametrize("query", [
    "absent", "baby absent", "learning_rate>1e-3", "dataset=shakespeare", "n_layer:7", "bias:true", "val_loss<1.5",
    "mfu>0", "mfu<1", "iter>100", "status:running", "compile:true", "batch_size>0", "finetune-notes",
])
def test_does_not_hold(run: WatchedRun, query: str) -> None:
    """没有的指标（`mfu` 为 null）、日志里没有的键都不合，不论怎样比。"""
    assert not matches(query, run)


@pytest.mark.parametrize(("query", "said"), [
    ("learning_rat>=1e-3", "did you mean learning_rate?"), ("learning_rate>=", "a value is missing"),
    ("n_layer>six", "needs a number"), ("loss<nan", "needs a number"), ('"open', "a quote is not closed"),
    ('dataset:"open', "a quote is not closed"), ("dataset>a", "use : or = or !="), ("bias:maybe", "bias cannot be"),
    ("status=done", "legal: starting"), ("http://x", "unknown key http"),
])
def test_says_what_is_wrong(run: WatchedRun, query: str, said: str) -> None:
    with pytest.raises(QueryError, match="(?i)" + said.replace("?", r"\?")) as caught:
        matches(query, run)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 160


def test_foreign_values_never_crash(run: WatchedRun) -> None:
    """日志是别人写的：键的类型可以全不对。"""
    run.state.config.update(learning_rate="fast", bias="yes", dataset=7, n_layer=True, dropout=None)
    for query in ("learning_rate>1", "bias:true", "dataset:7", "n_layer>0", "dropout<1", "dataset!=7"):
        assert matches(query, run) in (True, False)
    assert matches("dataset:7", run) and not matches("learning_rate>1", run)


def test_tags_and_the_wanted_order(run: WatchedRun) -> None:
    """标签是备注里 `#` 开头的词；`sort:` 不筛选。"""
    notes = "a try #Baseline #b"
    assert matches("tag:baseline tag:#b", run, notes) and not matches("tag:try", run, notes)
    assert matches("tag!=other", run, notes) and not matches("tag:base", run, notes)
    assert matches("sort:val_loss", run) and wanted_order("sort:loss quick sort:-n_layer") == "-n_layer"
    assert wanted_order("quick") == ""
    with pytest.raises(QueryError, match="did you mean"):
        wanted_order("sort:vall_loss")
    with pytest.raises(QueryError, match="missing"):
        wanted_order("sort:")


def test_runs_are_ordered_by_any_key(tmp_path: Path) -> None:
    """指标、配置键、名字；没有这个值的总在最后，倒着排也一样。"""
    runs = []
    for name, loss, layers in (("a", 2.0, 6), ("b", 1.0, 12), ("c", None, 4)):
        out_dir = tmp_path / name
        out_dir.mkdir()
        writer = EventWriter(out_dir / "events.jsonl")
        writer.emit("start", config={"n_layer": layers}, resumed_from_iter=None, params=1, tokens_per_iter=1,
                    world_size=1, device_name="CPU", peak_flops=None)
        if loss is not None:
            writer.emit("iter", iter=1, loss=loss, lr=1e-4, grad_norm=0.5, iter_ms=1.0, tokens_per_second=1 / loss,
                        mfu=None, memory_mib=1.0)
        writer.close()
        runs.append(WatchedRun(out_dir))
        runs[-1].refresh()

    def names(found: list[WatchedRun]) -> str:
        return "".join(run.name for run in found)

    assert names(ordered_by(runs, "loss")) == "bac" and names(ordered_by(runs, "-loss")) == "abc"
    assert names(ordered_by(runs, "-n_layer")) == "bac" and names(ordered_by(runs, "-name")) == "cba"
    orders = [title for title, _key in ORDERS]
    assert names(ordered(runs, orders.index("speed"))) == "bac"
    assert names(ordered(runs, orders.index("name"), True)) == "cba"
