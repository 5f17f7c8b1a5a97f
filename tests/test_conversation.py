"""对话的树、模板、存取的文件、可选的模型、折行：都不需要服务进程。约 2 秒。"""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from pilot import write_run

from nanogpt.errors import BadInput
from workbench.playground.controls import PRESETS, apply_preset, new_controls, request_keys, summary
from workbench.playground.conversation import CHAT, COMPLETE, FORMAT, Conversation
from workbench.playground.models import all_models, checkpoints_of, local_folders, matching
from workbench.playground.requests import Generation, Load, Score, tokens_of
from workbench.playground.store import Store
from workbench.playground.template import TEMPLATES, Template, read_template
from workbench.terminal import cells
from workbench.watched_run import WatchedRun
from workbench.widgets.segment_view import wrap_spans

DIALOGUE = TEMPLATES["dialogue"]


def written(keys: dict[str, Any], *texts: str) -> Generation:
    """写完了的一次生成，由真的事件折叠成。"""
    found = Generation({"num_samples": len(texts), **keys})
    for number, text in enumerate(texts):
        found.apply_event({"event": "delta", "sample": number, "text": text[:2]})
        found.apply_event({"event": "delta", "sample": number, "text": text[2:]})
    found.apply_event({"event": "done", "samples": [{"text": text, "finish": "length"} for text in texts]})
    return found


def answer(talk: Conversation, after: int, *texts: str) -> list[int]:
    generation = written({"seed": 7}, *texts)
    found = talk.begin(generation, after, "tiny")
    talk.take()
    return found


def test_a_chat_is_written_by_its_template() -> None:
    talk = Conversation(CHAT)
    first = talk.say("Hi", 0)
    assert talk.prompt(DIALOGUE, upto=first)[0] == "User: Hi\nAssistant:"
    (reply,) = answer(talk, first, " Hello")
    # 接着回答写：前后都不添
    assert talk.prompt(DIALOGUE)[0] == "User: Hi\nAssistant: Hello"
    text, spans = talk.prompt(DIALOGUE, more="And?")
    assert text == "User: Hi\nAssistant: Hello\nUser: And?\nAssistant:"
    assert [text[span.start:span.end] for span in spans] == ["Hi", " Hello", "And?"]
    assert [span.turn for span in spans] == [first, reply, -1]
    # 接着写的一段与前一段是同一次回答
    answer(talk, reply, " there")
    assert talk.prompt(DIALOGUE, more="x")[0] == "User: Hi\nAssistant: Hello there\nUser: x\nAssistant:"
    system = Template("<u>{text}", "<a>{text}", "Be brief.\n")
    assert talk.prompt(system)[0] == "Be brief.\n<u>Hi<a> Hello there"


def test_a_text_is_joined_as_it_is() -> None:
    talk = Conversation(COMPLETE)
    first = talk.say("def ", 0)
    (found,) = answer(talk, first, "run(")
    answer(talk, found, "x):")
    assert talk.prompt(DIALOGUE)[0] == "def run(x):"
    assert talk.prompt(DIALOGUE, upto=first)[0] == "def "


def test_branches_lose_nothing() -> None:
    """再来一次、几个样本、改一轮都是旁枝；来回换得到。"""
    talk = Conversation(CHAT)
    first = talk.say("one", 0)
    a, b = answer(talk, first, "A", "B")
    assert talk.leaf == a and talk.siblings(a) == (1, 2) and talk.siblings(b) == (2, 2)
    (c,) = answer(talk, first, "C")
    assert talk.leaf == c and talk.siblings(c) == (3, 3)
    assert not talk.move_branch(c, 1) and talk.move_branch(c, -1) and talk.leaf == b
    other = talk.edit(first, "two")
    assert talk.path() == [other] and talk.edit(other, "two") == other
    assert talk.move_branch(other, -1) and talk.path() == [first, b]
    assert talk.say("one", 0) == first
    assert talk.turns[a].text == "A" and talk.turns[a].seed == 7 and talk.turns[a].model == "tiny"


def test_an_attempt_without_a_word_is_pruned() -> None:
    talk = Conversation(CHAT)
    first = talk.say("x", 0)
    generation = Generation({"num_samples": 2})
    talk.begin(generation, first, "tiny")
    generation.apply_event({"event": "delta", "sample": 1, "text": "kept"})
    talk.take()
    assert talk.live is not None
    generation.apply_event({"event": "error", "code": "server_gone", "message": "killed"})
    assert talk.take() and talk.live is None
    assert [talk.turns[index].text for index in talk.path()] == ["x", "kept"] and talk.siblings(talk.leaf) == (1, 1)


def test_json_and_back() -> None:
    talk = Conversation(CHAT)
    first = talk.say("你好 🎉\x1b[0m", 0)
    answer(talk, first, "A", "B")
    text = json.dumps(talk.to_json())
    again = Conversation.from_json(json.loads(text))
    assert json.dumps(again.to_json()) == text and again.prompt(DIALOGUE) == talk.prompt(DIALOGUE)


def broken_transcripts() -> list[Any]:
    talk = Conversation(CHAT)
    answer(talk, talk.say("x", 0), "y")
    good = talk.to_json()
    def changed(index: int, **values: Any) -> Any:
        rows = [dict(row) for row in good["turns"]]
        rows[index] |= values
        return {**good, "turns": rows}
    return [None, [], "x", {}, {**good, "format": "other"}, {**good, "mode": "sing"}, {**good, "turns": []},
            {**good, "turns": [1]}, changed(1, role="root"), changed(1, text=None), changed(1, parent=None),
            changed(1, children=[1]), changed(1, children=[0]), changed(1, children=[9]), changed(0, children=[1, 1]),
            changed(0, chosen=3), changed(0, parent=2), changed(2, parent=0), changed(1, seed="x"),
            changed(1, children=[True])]


@pytest.mark.parametrize("found", broken_transcripts(), ids=str)
def test_a_broken_transcript_is_refused(found: Any, tmp_path: Path) -> None:
    """环、断枝、错的类型：一句话，不是崩溃。"""
    with pytest.raises(BadInput, match="not a transcript"):
        Conversation.from_json(found)
    path = tmp_path / "x.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(BadInput):
        Store(tmp_path).read_transcript(path)


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_round_trip(name: str) -> None:
    assert read_template(TEMPLATES[name].to_toml()) == TEMPLATES[name]


@pytest.mark.parametrize("text, said", [
    ("user =", "not TOML"), ("stopp = []", "unknown key stopp"), ("user = 1", "are texts"),
    ('user = "U"\nassistant = "{text}"', "user needs {text} exactly once"),
    ('user = "{text}"\nassistant = "{text}{text}"', "assistant needs"),
    ('user = "{text}"\nassistant = "{text}"\nstop = [""]', "list of texts")])
def test_a_bad_template_says_why(text: str, said: str) -> None:
    with pytest.raises(BadInput) as error:
        read_template(text)
    assert said in error.value.what


def test_files_of_the_workspace(tmp_path: Path) -> None:
    """历史、参数组、模板、对话：写下、读回、只有自己可读；只读时什么也不写。"""
    store = Store(tmp_path)
    for prompt in ("one", "two\nlines", "one", "\udcff", "x" * 30_000, "  "):
        store.remember(prompt)
    store.save_preset("mine", {"temperature": "0.3"})
    store.save_template("tale", TEMPLATES["play"])
    talk = Conversation(COMPLETE)
    talk.say("def", 0)
    path = store.save_transcript(talk, "first", model={"init_from": "gpt2"})
    assert path == tmp_path / "transcripts" / "first.json" and path.stat().st_mode & 0o777 == 0o600
    again = Store(tmp_path)
    assert again.prompts == ["two\nlines", "one", "\udcff"]
    assert again.read_presets() == {"mine": {"temperature": "0.3"}}
    assert again.read_templates() == {"tale": TEMPLATES["play"]}
    assert again.list_transcripts() == [path] and again.read_transcript(path)[1]["model"] == {"init_from": "gpt2"}
    for name in ("../x", "a/b", "-x", "x\ny", "\x1b", "y" * 99):
        with pytest.raises(BadInput):
            store.save_transcript(talk, name)
    before = sorted(tmp_path.rglob("*"))
    reader = Store(tmp_path, is_read_only=True)
    reader.remember("three")
    for write in (lambda: reader.save_preset("x", {}), lambda: reader.save_transcript(talk, "x")):
        with pytest.raises(BadInput, match="read-only"):
            write()
    assert sorted(tmp_path.rglob("*")) == before and Store(tmp_path).prompts == again.prompts


def test_broken_files_are_passed_over(tmp_path: Path) -> None:
    folder = Store(tmp_path).folder
    folder.mkdir(parents=True)
    for name in ("history.jsonl", "presets.json", "templates.json"):
        (folder / name).write_bytes(b'\xff"ok"\n{]\n5\n"fine"\n' + b"[" * 100_000)
    store = Store(tmp_path)
    assert store.read_presets() == {} and store.read_templates() == {}
    (folder / "history.jsonl").write_text('{]\n5\n"fine"\n' + "[" * 100_000, encoding="utf-8")
    assert Store(tmp_path).prompts == ["fine"]


def test_presets_of_the_settings() -> None:
    """一组换上，长度与种子不动；不合法的一组，一个键也不换。"""
    controls = new_controls()
    controls.set("seed", "5")
    controls.set("top_p", "0.5")
    apply_preset(controls, PRESETS["greedy"])
    assert controls.value("temperature") == 0 and controls.value("seed") == 5 and controls.value("top_p") == 1.0
    with pytest.raises(BadInput):
        apply_preset(controls, {"top_k": "5", "temperature": "-1"})
    assert controls.value("top_k") == 200
    apply_preset(controls, {"stop": '["a", "b"]', "no_such": "1"}, is_whole=True)
    keys = request_keys(controls, ("\nUser:",))
    assert keys["stop"] == ["\nUser:", "a", "b"] and keys["seed"] == 1337 and keys["num_samples"] == 1
    assert ("stop", '["a", "b"]', True) in summary(controls)
    for values in PRESETS.values():
        apply_preset(new_controls(), values)


def test_models_to_choose_from(tmp_path: Path) -> None:
    """运行的检查点从早到晚、目录与 GPT-2；打字筛选；打一个目录的路径也行。"""
    write_run(tmp_path / "runs" / "alpha", 20)
    for number in (10, 2, 100):
        (tmp_path / f"runs/alpha/ckpt-{number}.pt").write_bytes(b"x")
    (tmp_path / "runs/alpha/ckpt-x.pt").write_bytes(b"x")
    folder = tmp_path / "exports" / "tale"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"x")
    run = WatchedRun(tmp_path / "runs" / "alpha")
    run.refresh()
    found = checkpoints_of(run)
    assert [choice.checkpoint for choice in found] == ["ckpt.pt", "ckpt-2.pt", "ckpt-10.pt", "ckpt-100.pt"]
    assert found[0].iter == 20 and found[2].iter == 10 and not found[0].is_live
    models = all_models([run], local_folders(tmp_path))
    assert [model.name for model in models[4:]] == [str(folder), "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
    assert [model.name for model in matching(models, "774 gpt2")] == ["gpt2-large"]
    assert [model.name for model in matching(models, "alpha 100")] == ["alpha ckpt-100.pt"]
    assert matching(models, str(folder))[0].load_keys() == {"init_from": str(folder)}
    before = found[0].stamp()
    (run.out_dir / "ckpt.pt").write_bytes(b"newer")
    assert before != found[0].stamp() is not None
    os.remove(run.out_dir / "ckpt.pt")
    assert found[0].stamp() is None and "ckpt.pt" not in [choice.checkpoint for choice in checkpoints_of(run)]


def test_events_of_a_wrong_shape_do_no_harm() -> None:
    """服务进程写出什么都不至于崩溃。"""
    rng = random.Random(3)
    values: list[Any] = [None, True, -1, 1.5, 10**400, "x", [], [1], [{}], {"text": 5}, {}, [[None]]]
    names = ["event", "text", "tokens", "sample", "samples", "model", "context_tokens", "cropped_chars", "loss",
             "first_token_ms", "is_cancelled", "total_tokens", "indices", "index", "code", "message"]
    for _turn in range(3000):
        event = {name: rng.choice(values) for name in rng.sample(names, 5)}
        event["event"] = rng.choice(["begin", "delta", "done", "error", "ready", "progress", "x"])
        for request in (Generation({"num_samples": 2}), Score({}), Load({})):
            request.apply_event(event)
            request.apply_event({"event": "done"})
            assert request.has_ended
    assert tokens_of([{"text": "a", "top": [{"text": "b", "logprob": -1}], "rank": 2, "offset": 3, "logprob": -2.0}])[
        0].top == (("b", -1.0),)


def test_wrapping_goes_on_where_it_was() -> None:
    """接着折与从头折一样；每行放得下；一个字也不丢。"""
    rng = random.Random(5)
    for _turn in range(200):
        text = "".join(rng.choice("ab  \n你🎉e\u0301") for _char in range(rng.randrange(200)))
        width = rng.randrange(4, 30)
        whole = wrap_spans(text, width)
        cut = rng.randrange(len(text) + 1)
        part = wrap_spans(text[:cut], width)
        start, _end = part.pop()
        assert part + wrap_spans(text, width, start) == whole
        assert all(cells(text[start:end]) <= width for start, end in whole)
        assert "".join(text[start:end] for start, end in whole) == text.replace("\n", "")


def test_the_format_is_described() -> None:
    root = Path(__file__).resolve().parents[1]
    for page in ("playground.md", "playground.zh-CN.md"):
        text = (root / "docs" / page).read_text(encoding="utf-8")
        assert FORMAT in text and all(f"`{key}`" in text for key in Conversation().to_json()["turns"][0])
