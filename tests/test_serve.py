"""采样服务：真的进程、真的管道、真的检查点。约 40 秒，多半在各进程导入 `torch`。"""

import json
import math
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_fork import clean_env

from nanogpt import sample
from nanogpt.config import SampleConfig
from nanogpt.model import GPT, GPTConfig
from nanogpt.requests import BadRequest, parse_request
from nanogpt.tokenizer import ByteTokenizer, CharTokenizer

LETTERS = [*"abcdefghij", "\n", " "]
SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "bias": False, "vocab_size": 12, "dropout": 0.0}


def save(out: Path, tokenizer: dict[str, Any], scale: float = 10, **shape: Any) -> None:
    torch.manual_seed(4)
    args = {**SHAPE, **shape}
    model = GPT(GPTConfig(**args))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    out.mkdir(exist_ok=True, parents=True)
    torch.save({"model": model.state_dict(), "model_args": args, "iter_num": 3, "best_val_loss": 1.5, "config": {},
                "tokenizer": tokenizer}, out / "ckpt.pt")


class Client:
    """一个服务进程与它的管道。"""

    def __init__(self, folder: Path, *argv: str, **env: str):
        self.errors = open(folder / "stderr", "wb")  # noqa: SIM115
        self.process = subprocess.Popen([sys.executable, "-m", "nanogpt.sample", "--serve", *argv], cwd=folder,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        env=clean_env(**env))
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout, self._rest = self.process.stdin, self.process.stdout, b""
        self.hello = self.read()

    def send(self, **request: Any) -> None:
        self.stdin.write(json.dumps(request).encode() + b"\n")
        self.stdin.flush()

    def read(self, timeout: float = 60) -> dict[str, Any]:
        """下一行；到了结尾则 EOFError。"""
        while b"\n" not in self._rest:
            assert select.select([self.stdout], [], [], timeout)[0], "the server is silent"
            chunk = os.read(self.stdout.fileno(), 1 << 16)
            if not chunk:
                raise EOFError
            self._rest += chunk
        line, _newline, self._rest = self._rest.partition(b"\n")
        event = json.loads(line, parse_constant=pytest.fail)
        assert isinstance(event, dict)
        return event

    def until_end(self, id: Any) -> list[dict[str, Any]]:
        """某个请求的全部事件，直到 `done` 或 `error`。"""
        events = []
        while True:
            event = self.read()
            if event.get("id") == id:
                events.append(event)
                if event["event"] in ("done", "error"):
                    return events

    def ask(self, id: Any, op: str, **keys: Any) -> list[dict[str, Any]]:
        self.send(id=id, op=op, **keys)
        return self.until_end(id)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.stdin, self.stdout, self.errors):
            stream.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "out", CharTokenizer(LETTERS).to_dict())
    return tmp_path


@pytest.fixture
def client(folder: Path) -> Iterator[Client]:
    client = Client(folder)
    yield client
    client.close()


def text_of(events: list[dict[str, Any]], number: int = 0) -> str:
    return "".join(event["text"] for event in events if event["event"] == "delta" and event["sample"] == number)


def test_load_and_generate_as_the_command_does(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """握手、阶段、模型的样子；各样本的文本与命令行打印的相同，各 `delta` 接起来就是它。"""
    assert client.hello["event"] == "hello" and client.hello["pid"] == client.process.pid
    assert client.ask(0, "generate", prompt="abc")[-1]["code"] == "no_model"
    events = client.ask("load it", "load", out_dir="out")
    assert [event.get("stage") for event in events[:3]] == ["starting", "reading", "building"]
    model = events[3]["model"]
    assert events[3]["event"] == "ready" and events[4]["load_ms"] > 0
    assert {"iter": 3, "best_val_loss": 1.5, "val_loss": None, "block_size": 8, "tokenizer": "char", "dtype": "float32",
            "end_of_text": None, "tokenizer_vocab_size": 12}.items() <= model.items()

    assert sample.main(["--start=abc", "--num_samples=3", "--max_new_tokens=40", "--seed=7"]) == 0
    printed = capsys.readouterr().out.split("\n---------------\n")[:-1]
    events = client.ask(1, "generate", prompt="abc", num_samples=3, max_new_tokens=40, seed=7, interval_ms=0)
    assert events[0] == {"id": 1, "event": "begin", "seed": 7, "prompt_tokens": 3, "context_tokens": 3,
                         "cropped_tokens": 0, "cropped_chars": 0}
    done = events[-1]
    assert ["abc" + one["text"] for one in done["samples"]] == printed
    assert [text_of(events, number) for number in range(3)] == [one["text"] for one in done["samples"]]
    assert len(events) == 2 + 3 * 40 and events[4]["new_tokens"] == 2
    assert {one["finish"] for one in done["samples"]} == {"length"} and done["samples"][0]["context_tokens"] == 8
    assert done["new_tokens"] == 120 and 0 < done["first_token_ms"] < done["generate_ms"]
    # 攒着发的也接得上，条数少得多
    fewer = client.ask(1, "generate", prompt="abc", num_samples=3, max_new_tokens=40, seed=7, interval_ms=1000)
    assert len(fewer) < 20 and text_of(fewer) == text_of(events)
    long = client.ask(2, "generate", prompt="abcdefghij", max_new_tokens=1, stop=["zz"])
    assert long[0]["cropped_tokens"] == long[0]["cropped_chars"] == 2 and long[0]["context_tokens"] == 8


def test_bad_requests_and_recovery(client: Client, folder: Path) -> None:
    """坏的行、坏的键、坏的检查点各有一条消息，下一个请求照常。"""
    client.stdin.write(b'not json\n[1]\n{"id":1}\n{"id":{},"op":"load"}\n{"id":true,"op":"load"}\n"\xff"\n\n')
    client.stdin.write(b"[" * 100_000 + b'\n{"id":9,"op":"load","x":NaN}\n')
    client.send(id=2, op="lod")
    client.send(id=3, op="generate", prompt="a", temprature=1)
    client.send(id=4, op="generate", prompt="a", temperature=-1)
    client.send(id=5, op="generate")
    client.send(id=6, op="load", init_from="gpt3")
    client.send(id=7, op="load", out_dir="nowhere")
    answers = [client.read() for _answer in range(14)]
    assert all(answer["event"] == "error" for answer in answers)
    assert [answer["id"] for answer in answers] == [None, None, 1, None, None, None, None, None, 2, 3, 4, 5, 6, 7]
    assert {answer["code"] for answer in answers[:8]} == {"bad_request"}
    assert [answer["code"] for answer in answers[8:]] == ["unknown_op", "unknown_key", "bad_value", "missing_value",
                                                          "bad_value", "no_checkpoint"]
    assert "load" in answers[8]["hint"] and "temperature" in answers[9]["hint"] and "gpt2" in answers[12]["hint"]

    (folder / "broken").mkdir()
    raw = bytearray((folder / "out" / "ckpt.pt").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "broken" / "ckpt.pt").write_bytes(raw)
    assert client.ask(10, "load", out_dir="out")[-1]["event"] == "done"
    assert client.ask(11, "load", out_dir="broken")[-1]["code"] == "bad_checkpoint"
    assert client.ask(12, "generate", prompt="a")[-1]["code"] == "no_model"
    assert client.ask(13, "load", out_dir="out", device="cuda:9")[-1]["code"] == "no_device"
    assert client.ask(14, "load", out_dir="out")[-1]["event"] == "done"
    error = client.ask(15, "generate", prompt="abzc\x1bz")[-1]
    assert error["code"] == "out_of_vocabulary" and error["index"] == 2 and error["indices"] == [2, 4, 5]
    assert "\x1b" not in "".join(error[key] for key in ("message", "where", "hint"))
    assert client.ask(16, "generate", prompt="")[-1]["code"] == "bad_prompt"
    assert client.ask(17, "tokenize", text="ab\ud800")[-1]["code"] == "out_of_vocabulary"
    assert client.ask(18, "generate", prompt="a", lang="zh", max_new_tokens=0)[-1]["message"] != \
        client.ask(19, "generate", prompt="a", lang="en", max_new_tokens=0)[-1]["message"]
    assert client.ask(20, "generate", prompt="a", max_new_tokens=3)[-1]["samples"][0]["tokens"] == 3
    assert client.ask(21, "unload")[-1]["event"] == "done"
    assert client.ask(22, "generate", prompt="a")[-1]["code"] == "no_model"


def test_a_model_that_does_not_fit(client: Client, folder: Path) -> None:
    """载入过 torch 之后，进程只许再占 100 MB：200 MB 的模型是一句话，小的照样载入、照样写。"""
    save(folder / "big", CharTokenizer(LETTERS).to_dict(), n_layer=4, n_embd=1024, n_head=8)
    keys = {"prompt": "a", "num_samples": 64, "max_new_tokens": 1}
    assert client.ask(1, "load", out_dir="out")[-1]["event"] == "done"
    assert client.ask(2, "generate", **keys)[-1]["event"] == "done"
    status = Path(f"/proc/{client.process.pid}/status").read_text(encoding="ascii")
    taken = int(status.split("VmData:")[1].split()[0]) << 10
    resource.prlimit(client.process.pid, resource.RLIMIT_DATA, (taken + (100 << 20), resource.RLIM_INFINITY))
    error = client.ask(3, "load", out_dir="big")[-1]
    assert error["event"] == "error" and error["code"] == "out_of_memory" and error["hint"], error
    assert client.ask(4, "generate", **keys)[-1]["code"] == "no_model"
    assert client.ask(5, "load", out_dir="out")[-1]["event"] == "done"
    assert client.ask(6, "generate", **keys)[-1]["event"] == "done"


def test_cancel_within_a_token(client: Client) -> None:
    """取消立刻生效，已写出的留着；排队的当场了结；下一个请求照常。"""
    client.ask(0, "load", out_dir="out")
    client.send(id=1, op="generate", prompt="abc", max_new_tokens=10_000_000, interval_ms=0)
    assert client.read()["event"] == "begin"  # 已经在跑：退回的同编号请求不能把它当作了结
    client.send(id=2, op="generate", prompt="abc")
    client.send(id=3, op="score", text="abc")
    client.send(id=1, op="tokenize", text="a")
    seen = [client.read() for _event in range(30)]
    assert any(event["event"] == "error" and event["code"] == "bad_request" for event in seen)  # 编号正在使用
    client.send(id=4, op="cancel", target=2)
    client.send(id=5, op="cancel", target=3)
    client.send(id=6, op="cancel", target="nobody")
    client.send(id=7, op="cancel", target=1)
    began = time.monotonic()
    ends: dict[Any, dict[str, Any]] = {}
    text = text_of([event for event in seen if event.get("id") == 1])
    while len(ends) < 7:
        event = client.read()
        if event["event"] == "delta":
            text += event["text"]
        elif event["event"] in ("done", "error"):
            ends[event["id"]] = event
    assert time.monotonic() - began < 20  # 一千万个 token 要几小时
    assert ends[2]["samples"] == [] and ends[3]["is_cancelled"] and [ends[id]["is_found"] for id in (4, 5, 6, 7)] == [
        True, True, False, True]
    (one,) = ends[1]["samples"]
    assert one["finish"] == "cancelled" and one["text"] == text and 0 < one["tokens"] < 10_000_000
    assert client.ask(8, "cancel", target=1)[-1]["is_found"] is False
    assert client.ask(9, "generate", prompt="abc", max_new_tokens=5)[-1]["samples"][0]["finish"] == "length"


def test_score_and_logprobs(client: Client, folder: Path) -> None:
    """每个 token 的得分合起来就是损失；生成时给的得分与给同一段文本打分相同。"""
    client.ask(0, "load", out_dir="out")
    written = client.ask(1, "generate", prompt="abc", max_new_tokens=5, logprobs=3, temperature=1.3)
    entries = [entry for event in written if event["event"] == "delta" for entry in event["tokens"]]
    text = written[-1]["samples"][0]["text"]
    assert "".join(entry["text"] for entry in entries) == text and [e["offset"] for e in entries] == [0, 1, 2, 3, 4]
    scored = client.ask(2, "score", text="abc" + text, logprobs=3)
    theirs = [entry for event in scored if event["event"] == "delta" for entry in event["tokens"]]
    assert theirs[0]["logprob"] is None and theirs[0]["text"] == "a"
    for ours, their in zip(entries, theirs[3:], strict=True):
        assert ours["logprob"] == pytest.approx(their["logprob"], abs=1e-4) and ours["rank"] == their["rank"]
        assert [one["token"] for one in ours["top"]] == [one["token"] for one in their["top"]]
    done = scored[-1]
    assert done["tokens"] == 7 and done["bytes"] == 8
    assert done["loss"] == pytest.approx(-sum(entry["logprob"] for entry in theirs[1:]) / 7, rel=1e-5)
    assert done["perplexity"] == pytest.approx(math.exp(done["loss"]))
    (folder / "text.txt").write_text("abc" + text, encoding="utf-8")
    assert client.ask(3, "score", score="text.txt")[-1]["loss"] == done["loss"]
    for text in ("", "a"):
        assert client.ask(4, "score", text=text)[-1]["perplexity"] is None
    assert client.ask(5, "score", text="ab", score="x")[-1]["code"] == "missing_value"
    assert client.ask(6, "tokenize", text="abcdefghijab")[-1] == {
        "id": 6, "event": "done", "tokens": 12, "cropped_tokens": 4, "cropped_chars": 4}


def test_utf8_streams_whole(folder: Path) -> None:
    """逐字节的模型胡乱写：每个 `delta` 都是完整的字符，半个字符的 token 有 `hex`。"""
    save(folder / "bytes", ByteTokenizer().to_dict(), vocab_size=257, scale=1)
    client = Client(folder, "--top_k=0")
    try:
        assert client.ask(0, "load", out_dir="bytes")[-2]["model"]["end_of_text"] == "<|endoftext|>"
        prompt = "你好🙂" * 4
        events = client.ask(1, "generate", prompt=prompt, max_new_tokens=300, logprobs=1, interval_ms=0)
        assert events[0]["cropped_tokens"] == 40 - 8 and events[0]["cropped_chars"] == 9
        entries = [entry for event in events if event["event"] == "delta" for entry in event["tokens"]]
        raw = b"".join(bytes.fromhex(e["hex"]) if "hex" in e else e["text"].encode() for e in entries)
        assert len(entries) == 300 and raw.decode("utf-8", "replace") == text_of(events)
        assert any("hex" in entry for entry in entries) and "\ufffd" in text_of(events)
        # 每个字符都被看见：拿一段文字打分，各 token 的字节接回原文
        scored = client.ask(2, "score", text=prompt, logprobs=1)
        entries = [entry for event in scored if event["event"] == "delta" for entry in event["tokens"]]
        assert [e["offset"] for e in entries[:10]] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    finally:
        client.close()


@pytest.mark.parametrize("network", ["none", "silent"])
def test_a_gpt2_that_cannot_be_downloaded(folder: Path, network: str) -> None:
    """没有网络立刻说，网络不出声也在期限之内说：本地的一份放在哪里；随后的请求照常。

    不出声的网络是假的：一个只接受连接、从不回答的端口。
    """
    env = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if network == "silent":
            env |= {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        client = Client(folder, **env)
        try:
            began = time.monotonic()
            error = client.ask(1, "load", init_from="gpt2")[-1]
            assert time.monotonic() - began < 60
            assert error["code"] == "gpt2_unavailable" and "hf download gpt2 --local-dir ./gpt2" in error["hint"]
            assert client.ask(2, "load", out_dir="out")[-1]["event"] == "done"
        finally:
            client.close()


def test_list(client: Client, folder: Path, workspace: Path, fork_train: Any) -> None:
    """各运行的检查点、它们的步数与验证损失；不必载入模型。"""
    assert workspace == folder
    assert fork_train("--out_dir=runs/first", "--checkpoint_interval=3").returncode == 0
    (folder / "exports" / "tale").mkdir(parents=True)
    (folder / "exports" / "tale" / "config.json").write_text('{"model_type":"gpt2"}', encoding="utf-8")
    (folder / "exports" / "tale" / "model.safetensors").touch()
    (done,) = client.ask(1, "list")
    runs = {run["out_dir"]: run["checkpoints"] for run in done["runs"]}
    assert set(runs) == {"runs/first", "out"} and runs["out"][0]["iter"] is None
    assert [(one["checkpoint"], one["iter"]) for one in runs["runs/first"]] == [
        ("ckpt-3.pt", 3), ("ckpt-6.pt", 6), ("ckpt.pt", 6)]
    assert isinstance(runs["runs/first"][2]["val_loss"], float) and runs["runs/first"][0]["val_loss"] is None
    assert [one["init_from"] for one in done["gpt2"]] == ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
    assert done["folders"] == ["exports/tale"]
    model = client.ask(2, "load", out_dir="runs/first")[-2]["model"]
    assert model["iter"] == 6 and model["val_loss"] == runs["runs/first"][2]["val_loss"]
    shutil.rmtree(folder / "runs")


def is_alive(pid: int) -> bool:
    """没有人收尸的也算死了。"""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("way", ["eof", "shutdown", "parent", "sigterm"])
def test_it_ends(folder: Path, way: str) -> None:
    """stdin 到头、`shutdown`、父进程被杀：正在写的时候也立刻结束。"""
    if way != "parent":
        client = Client(folder)
        client.ask(0, "load", out_dir="out")
        client.send(id=1, op="generate", prompt="abc", max_new_tokens=10_000_000, interval_ms=5000)
        assert client.read()["event"] == "begin"
        if way == "eof":
            client.stdin.close()
        elif way == "shutdown":
            client.send(id=2, op="shutdown")
        else:
            client.process.send_signal(signal.SIGTERM)
        assert client.process.wait(5) == (-signal.SIGTERM if way == "sigterm" else 0)
        client.close()
        return
    # 父进程是个中间人，管道握在本测试手里：它死了，管道还通
    middle = ("import subprocess, sys, time\n"
              "p = subprocess.Popen([sys.executable, '-m', 'nanogpt.sample', '--serve'])\ntime.sleep(60)")
    parent = subprocess.Popen([sys.executable, "-c", middle], cwd=folder, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, env=clean_env())
    assert parent.stdout is not None and parent.stdin is not None
    pid = json.loads(parent.stdout.readline())["pid"]
    parent.kill()
    parent.wait()
    until = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_alive(pid)
    parent.stdin.close()
    parent.stdout.close()


def test_nothing_else_on_stdout(folder: Path) -> None:
    """别的库往 1 号文件写的东西到了 stderr。"""
    code = ("import os, sys, threading, time\n"
            "from nanogpt import sample\n"
            "def noise():\n"
            "    while True:\n"
            "        os.write(1, b'noise\\n'); print('more'); time.sleep(0.01)\n"
            "def start():\n"
            "    time.sleep(0.5); noise()\n"
            "threading.Thread(target=start, daemon=True).start()\n"
            "sample.main(['--serve'])\n")
    requests = '{"id":1,"op":"load","out_dir":"out"}\n{"id":2,"op":"generate","prompt":"a"}\n'
    process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=clean_env(), text=True)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(requests)
    process.stdin.flush()
    while True:
        event = json.loads(process.stdout.readline())
        if event.get("id") == 2 and event["event"] == "done":
            break
    process.kill()
    assert "noise" in process.stderr.read()
    process.wait()


def test_parse_request() -> None:
    """默认值来自命令行；文本里的引号就是引号；停止串收一段文字或一张表。"""
    defaults = SampleConfig(temperature=0.5, num_samples=1)

    def parse(**fields: Any) -> Any:
        return parse_request(json.dumps({"id": 1, **fields}).encode(), defaults)

    request = parse(op="generate", start="'x'", stop=["a", "b"], top_k=5.0, seed=None)
    assert request.config.start == "'x'" and request.config.stop == '["a", "b"]' and request.config.top_k == 5
    assert request.config.temperature == 0.5 and request.config.num_samples == 1 and request.config.seed == 1337
    assert parse(op="generate", prompt="x", stop="[ab").config.stop == '["[ab"]'
    for fields in ({"stop": [1]}, {"stop": [""]}, {"top_p": 1.5}, {"min_p": -1}, {"window": "x"}, {"interval_ms": -1},
                   {"end_of_text": "maybe"}, {"repetition_penalty": 0}, {"lang": "fr"}, {"seed": 1.5}):
        with pytest.raises(BadRequest) as caught:
            parse(op="generate", prompt="x", **fields)
        assert caught.value.error.code == "bad_value"
