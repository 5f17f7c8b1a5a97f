"""采样界面背后的一切，对着真的服务进程与真的训练出来的极小模型；不开界面。约 25 秒，多半在导入 torch。"""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import TINY, make_tiny_dataset
from trainer_fork import ROOT, TrainerServer, clean_env

from nanogpt.errors import BadInput
from workbench.playground.comparison import Comparison
from workbench.playground.conversation import CHAT
from workbench.playground.models import ModelChoice, checkpoints_of
from workbench.playground.requests import FAILED, Request
from workbench.playground.server import Server
from workbench.playground.session import Playground
from workbench.playground.status import status
from workbench.watched_run import WatchedRun

LIMIT_S = 60.0
RUN = Path("runs/done")
BROKEN = Path("runs/broken")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, trainer_server: TrainerServer) -> Path:
    """一个工作区：练了六步、每两步留一个检查点的极小模型；另有一个坏了的检查点。"""
    folder = tmp_path_factory.mktemp("space")
    make_tiny_dataset(folder / "data" / "tiny")
    done = trainer_server.train(folder, *TINY, f"--out_dir={RUN}", "--checkpoint_interval=2")
    assert done.returncode == 0, done.output
    (folder / BROKEN).mkdir()
    data = (folder / RUN / "ckpt.pt").read_bytes()
    (folder / BROKEN / "ckpt.pt").write_bytes(data[:len(data) // 2])
    return folder


@pytest.fixture(autouse=True)
def _from_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """服务进程在工作区里启动，包要找得到；离开时回到原来的目录。"""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def shared() -> Iterator[Playground]:
    """整个模块共用一个服务进程。"""
    play = Playground(Path())
    yield play
    play.close()


@pytest.fixture
def play(shared: Playground, trained: Path) -> Playground:
    """干净的一篇，模型是最近的检查点。"""
    os.chdir(trained)
    shared.open()
    for name in list(shared.controls.edits):
        shared.controls.reset(name)
    shared.set_control("max_new_tokens", "40")
    if shared.is_chat:
        shared.use_mode("complete")
    shared.begin_anew()
    shared.choose(ModelChoice("resume", RUN))
    return shared


def until(play: Playground, is_true: Callable[[], object]) -> None:
    end = time.monotonic() + LIMIT_S
    while not is_true():
        play.poll()
        assert time.monotonic() < end, status(play, None, 0.0)
        time.sleep(0.01)


def finish(play: Playground, request: Request | None = None) -> None:
    until(play, lambda: request.has_ended if request is not None else not play.is_busy)
    play.poll()


def text_of(play: Playground) -> str:
    return "".join(play.conversation.turns[index].text for index in play.conversation.path())


def test_the_same_seed_the_same_text_the_next_another(play: Playground) -> None:
    """边写边长；同一种子同样的文字，再来一次换种子成旁枝；往下写接在后面。"""
    seen = set()
    play.set_control("max_new_tokens", "2000")
    play.send("def run")
    until(play, lambda: seen.add(len(text_of(play))) or not play.is_busy)
    assert len(seen) > 5, "it did not grow"
    first = text_of(play)
    assert first.startswith("def run") and len(first) == len("def run") + 2000
    assert play.generation is not None and (play.generation.tokens_per_second or 0) > 1
    assert (play.generation.first_token_ms or 0) > 0 and play.generation.context_tokens == 16
    play.send("def run")
    finish(play)
    assert text_of(play) == first and play.conversation.siblings(play.conversation.leaf) == (2, 2)
    play.set_control("max_new_tokens", "40")
    play.regenerate("def run")
    finish(play)
    assert play.controls.value("seed") == 1338 and text_of(play)[:47] != first[:47]
    before = text_of(play)
    play.go_on()
    finish(play)
    assert text_of(play).startswith(before) and len(text_of(play)) == len(before) + 40


def test_stop_at_once(play: Playground) -> None:
    play.set_control("max_new_tokens", "1000000")
    play.send("x")
    until(play, lambda: len(text_of(play)) > 100)
    began = time.monotonic()
    play.stop()
    finish(play)
    assert time.monotonic() - began < 30 and "cancelled" in status(play, None, 0.0)[0][0]
    written = text_of(play)
    assert len(written) > 100
    # 停在加载时：进程也得让开
    pid = play.engine.pid
    play.choose(ModelChoice("resume", RUN, "ckpt-2.pt"))
    play.set_control("max_new_tokens", "5")
    play.send("x")
    play.stop()
    finish(play)
    play.send("x")
    finish(play)
    assert len(text_of(play)) == 6 and pid is not None


def test_kill_9_is_a_message_and_the_next_prompt_works(play: Playground) -> None:
    play.set_control("max_new_tokens", "1000000")
    play.send("x")
    until(play, lambda: len(text_of(play)) > 50)
    pid = play.engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    finish(play)
    lines, is_bad = status(play, None, 0.0)
    assert is_bad and "SIGKILL" in lines[0] and "next prompt" in lines[-1]
    play.set_control("max_new_tokens", "20")
    play.send("y")
    finish(play)
    assert len(text_of(play)) == 21 and play.engine.pid not in (None, pid)
    # 闲着时被杀也一样
    os.kill(play.engine.pid or 0, signal.SIGKILL)
    until(play, lambda: play.engine.problem_when_idle is not None)
    play.send("z")
    finish(play)
    assert len(text_of(play)) == 21 and play.engine.problem_when_idle is None


def test_a_broken_checkpoint_is_a_message(play: Playground) -> None:
    play.choose(ModelChoice("resume", BROKEN))
    play.send("x")
    finish(play)
    lines, is_bad = status(play, None, 0.0)
    assert is_bad and play.generation is not None and play.generation.problem is not None
    assert play.generation.problem.code == "bad_checkpoint" and len(lines) <= 3, lines
    assert text_of(play) == "x"
    play.choose(ModelChoice("resume", Path("runs/none")))
    with pytest.raises(BadInput, match="no checkpoint"):
        play.send("x")
    play.choose(ModelChoice("resume", RUN, "ckpt-4.pt"))
    play.send("x")
    finish(play)
    assert len(text_of(play)) == 41


def test_a_newer_checkpoint_is_loaded_by_itself(play: Playground) -> None:
    """正在训练的运行又存了一次：下一个提示用新的。"""
    play.send("x")
    finish(play)
    assert play.engine.model is not None and play.engine.model.iter == 6
    latest = RUN / "ckpt.pt"
    data = latest.read_bytes()
    try:
        latest.write_bytes((RUN / "ckpt-4.pt").read_bytes())
        play.send("x")
        finish(play)
        assert play.engine.model is not None and play.engine.model.iter == 4
    finally:
        latest.write_bytes(data)


def test_another_type_is_another_load(play: Playground) -> None:
    """改了 `dtype`：下一个提示用新载入的；界面总看得出载入的是不是选中的那一个。"""
    play.set_control("dtype", "bfloat16")
    play.send("x")
    finish(play)
    assert play.model is not None and play.model.dtype == "bfloat16" and len(text_of(play)) == 41
    assert "dtype" not in play.generation.keys  # type: ignore[union-attr]
    play.controls.reset("dtype")
    play.send("y")
    finish(play)
    assert play.model is not None and play.model.dtype == "float32"
    play.choose(ModelChoice("resume", RUN, "ckpt-2.pt"))
    assert play.model is None
    until(play, lambda: play.model is not None)
    assert play.model.iter == 2


def test_characters_out_of_the_vocabulary(play: Playground) -> None:
    """边打字边数：记号在编辑框里的位置；发出去也只是一句话。"""
    until(play, lambda: play.engine.model is not None and not play.engine.is_busy)
    play.count_tokens("ab\ncé你d")
    assert play.count is not None
    finish(play, play.count)
    assert play.count.problem is not None and play.count.problem.code == "out_of_vocabulary"
    assert play.bad_places()[:1] == [4] and "é" in status(play, None, 0.0)[0][0]
    play.send("ab\ncé你d")
    finish(play)
    assert play.generation is not None and play.generation.status == FAILED
    lines, is_bad = status(play, None, 0.0)
    assert is_bad and "é" in lines[0] and len(lines) <= 3
    for prompt in ("lone \ud800", "FILE:/no/such/file"):
        with pytest.raises(BadInput):
            play.send(prompt)


def test_long_prompts_are_cut_with_a_mark(play: Playground) -> None:
    until(play, lambda: play.engine.model is not None and not play.engine.is_busy)
    text = "0123456789" * 5
    play.count_tokens(text)
    assert play.count is not None
    finish(play, play.count)
    assert play.count.tokens == 50 and play.crop is not None and (play.crop.turn, play.crop.offset) == (-1, 34)
    play.send(text)
    finish(play)
    assert play.crop is not None and play.crop.offset == 34 and play.crop.turn == play.conversation.path()[0]


def test_chat_keeps_turns_and_stops(play: Playground) -> None:
    play.use_mode(CHAT)
    play.begin_anew()
    play.send("Hello")
    finish(play)
    assert play.generation is not None and play.generation.keys["prompt"] == "User: Hello\nAssistant:"
    assert play.generation.keys["stop"] == ["\nUser:"]
    with pytest.raises(BadInput, match="nothing to send"):
        play.send("  ")
    first, reply = play.conversation.path()
    play.editing = first
    play.send("Bye")
    finish(play)
    assert play.conversation.turns[play.conversation.path()[0]].text == "Bye"
    assert play.conversation.turns[reply].text
    play.set_control("num_samples", "3")
    play.regenerate("")
    finish(play)
    texts = {play.conversation.turns[index].text
             for index in play.conversation.turns[play.conversation.path()[0]].children}
    assert len(texts) == 4 and play.conversation.siblings(play.conversation.leaf) == (2, 4)


def test_stop_texts_never_show(play: Playground) -> None:
    play.set_control("max_new_tokens", "2000")
    play.set_control("stop", '["e"]')
    play.send("x")
    shown: list[str] = []
    until(play, lambda: shown.append(text_of(play)) or not play.is_busy)
    finish(play)
    assert "e" not in "".join(shown) and play.conversation.turns[play.conversation.leaf].finish == "stop"


def test_side_by_side_and_the_time_machine(play: Playground) -> None:
    """同样的提示与种子：每个检查点的文字与困惑度，就是单独问它时的。"""
    run = WatchedRun(RUN)
    run.refresh()
    found = checkpoints_of(run)
    assert [choice.checkpoint for choice in found] == ["ckpt.pt", "ckpt-2.pt", "ckpt-4.pt", "ckpt-6.pt"]
    comparison = Comparison(play.engine, [*found[1:3], ModelChoice("resume", BROKEN), found[3]],
                            play.comparison_keys("def "))
    until(play, lambda: comparison.step() or comparison.has_ended)
    rows = comparison.rows()
    assert [row["iter"] for row in rows] == [2, 4, None, 6] and rows[2]["error"]
    assert len({row["text"] for row in rows}) == 4
    assert all(1 < row["perplexity"] < 200 and 1 < row["prompt_perplexity"] < 200 for row in rows if not row["error"])
    play.choose(found[2])
    play.send("def ")
    finish(play)
    assert text_of(play) == "def " + rows[1]["text"]
    stopped = Comparison(play.engine, found, {**play.comparison_keys("x"), "max_new_tokens": 1_000_000})
    until(play, lambda: stopped.step() or stopped.entries[0].text)
    stopped.stop()
    until(play, lambda: not play.engine.is_busy)
    assert stopped.has_ended and stopped.entries[0].text and stopped.entries[1].generation is None


def test_scores_of_texts_files_and_datasets(play: Playground, trained: Path) -> None:
    (trained / "some.txt").write_text("def main():\n    return 1\n", encoding="utf-8")
    assert play.choice is not None
    by_file = play.engine.score(play.choice, {"score": "some.txt"})
    by_text = play.engine.score(play.choice, {"text": "def main():\n    return 1\n", "logprobs": 3})
    dataset = play.engine.score(play.choice, {"score": "dataset:tiny"})
    nothing = play.engine.score(play.choice, {"score": "no-such.txt"})
    for request in (by_file, by_text, dataset, nothing):
        finish(play, request)
    assert by_file.perplexity == by_text.perplexity and by_file.loss is not None and by_file.perplexity is not None
    assert math.isclose(math.exp(by_file.loss), by_file.perplexity, rel_tol=1e-6)
    assert "".join(token.text for token in by_text.tokens) == "def main():\n    return 1\n"
    assert by_text.tokens[0].logprob is None
    known = [token.logprob for token in by_text.tokens[1:] if token.logprob is not None]
    assert math.isclose(-sum(known) / len(known), by_file.loss, rel_tol=1e-4)
    assert all(len(token.top) == 3 for token in by_text.tokens[1:])
    assert dataset.done_tokens > 1000 and dataset.bits_per_byte is None
    assert nothing.problem is not None and "no-such" in " ".join(nothing.problem.lines())


def test_probabilities_of_the_drawing(play: Playground) -> None:
    """参数里要了 `logprobs`：每个 token 都在，拼起来就是文字。"""
    play.set_control("logprobs", "4")
    play.send("def ")
    finish(play)
    turn = play.conversation.turns[play.conversation.leaf]
    assert "".join(token.text for token in turn.tokens) == turn.text and len(turn.tokens) == 40
    assert all(token.rank is not None and len(token.top) == 4 for token in turn.tokens)


def test_saved_and_reopened(play: Playground, trained: Path) -> None:
    play.send("def ")
    finish(play)
    before = text_of(play)
    path = play.save("kept")
    assert path.resolve() == (trained / "transcripts" / "kept.json").resolve()
    play.begin_anew()
    play.set_control("temperature", "0")
    play.reopen(path)
    assert text_of(play) == before and play.draft == "def " and play.controls.value("temperature") == 0.8
    play.go_on()
    finish(play)
    assert text_of(play).startswith(before)


def test_read_only_starts_nothing(trained: Path) -> None:
    os.chdir(trained)
    reader = Playground(Path(), is_read_only=True)
    reader.choose(ModelChoice("resume", RUN))
    with pytest.raises(BadInput, match="read-only"):
        reader.send("x")
    assert reader.engine.pid is None


def test_a_gpt2_that_cannot_be_had(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """没有网：说清楚把本地的一份放在哪；之后换别的模型照样行。"""
    os.chdir(trained)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    play = Playground(Path())
    try:
        play.choose(ModelChoice("gpt2-xl"))
        play.send("x")
        finish(play)
        lines, is_bad = status(play, None, 0.0)
        assert is_bad and play.generation is not None and play.generation.problem is not None
        assert play.generation.problem.code in ("gpt2_unavailable", "bpe_unavailable"), lines
        assert play.generation.problem.hint and len(lines) <= 3
        play.choose(ModelChoice("resume", RUN))
        play.set_control("max_new_tokens", "3")
        play.send("x")
        finish(play)
        assert len(text_of(play)) == 4
    finally:
        play.close()


def test_the_process_dies_with_the_app(trained: Path) -> None:
    """应用被 kill -9：服务进程随即退出，不留孤儿。"""
    code = ("import os, sys, time; from workbench.playground.server import Server; server = Server();"
            "print(server.pid, flush=True); server.take(); time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=trained,
                               env=clean_env())
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    end = time.monotonic() + 20
    while is_alive(pid):
        assert time.monotonic() < end, "the server outlives the app"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


# 真的服务不会这样写，所以由几行脚本来扮
FLOOD = r"""
import sys
out = sys.stdout.buffer
for number in range(200000):
    out.write(b'{"event":"x","text":"' + '你🎉'.encode() * 50 + b'"}\n')
out.write(b'no json\n[1]\n\xff\n{"last":1}\n')
"""


def test_a_flood_of_lines_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """没人取走时只攒这么多，进程等着；取走了它才接着写。坏行跳过，整行才解码。"""
    monkeypatch.setattr("workbench.playground.server.python", lambda *_arguments: [sys.executable, "-c", FLOOD])
    server = Server()
    try:
        time.sleep(1.5)
        assert server._bytes < 17 << 20 and not server.is_gone
        count, last = 0, {}
        end = time.monotonic() + 60
        while not server.is_gone:
            for event in server.take():
                count, last = count + 1, event
                assert event.get("last") or event["text"] == "你🎉" * 50
            assert time.monotonic() < end
        assert count == 200_001 and last == {"last": 1} and server.bad_lines == 3
    finally:
        server.kill()


CHINESE = "你好，世界🎉"


def test_chinese_and_emoji_stream_unbroken(tmp_path: Path, trainer_server: TrainerServer) -> None:
    """以字节为 token、学会了一句话的模型：流出来的每一段都没有半个字符。"""
    import numpy as np

    from nanogpt.dataset import write_dataset
    from nanogpt.tokenizer import ByteTokenizer

    tokenizer = ByteTokenizer()
    ids = np.array(tokenizer.encode(CHINESE * 400), dtype=np.uint16)
    write_dataset(tmp_path / "data" / "chinese", tokenizer, {"train": ids, "val": ids[:2000]}, source="test")
    done = trainer_server.train(tmp_path, *TINY, "--dataset=chinese", "--out_dir=runs/zh", "--max_iters=300",
                                "--lr_decay_iters=300", "--eval_interval=300", "--n_embd=32", "--block_size=32",
                                "--dropout=0", "--learning_rate=1e-2", "--batch_size=8")
    assert done.returncode == 0, done.output
    os.chdir(tmp_path)
    play = Playground(Path())
    try:
        play.choose(ModelChoice("resume", Path("runs/zh")))
        play.set_control("temperature", "0")
        # 提示 6 个字节，一句 19 个：正好写到句末
        play.set_control("max_new_tokens", str(13 + 19 * 30))
        play.send("你好")
        seen: list[str] = []
        until(play, lambda: seen.append(text_of(play)) or not play.is_busy)
        finish(play)
        assert text_of(play) == CHINESE * 31
        assert all(text_of(play).startswith(part) for part in seen)
    finally:
        play.close()
