"""采样：让检查点、GPT-2 或本地目录里的模型接着提示往下写；也量一段文本的困惑度，或长期开着回答请求。

    python -m nanogpt.sample --out_dir=out-quickstart --start="def "
    python -m nanogpt.sample --init_from=gpt2 --start=FILE:prompt.txt --num_samples=3
    python -m nanogpt.sample --out_dir=out-quickstart --score=README.md
    python -m nanogpt.sample --serve

同一种子、同一检查点，CPU 的 float32 上逐 token 与 nanoGPT 的 `sample.py` 相同；几个样本一起算也一样。
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from nanogpt.config import SampleConfig, load_config, wants_debug
from nanogpt.errors import BadInput, run_main
from nanogpt.i18n import N_, _
from nanogpt.listing import check_source
from nanogpt.prompt import read_prompt, read_stops
from nanogpt.text import visible

USAGE = "python -m nanogpt.sample [--key=value ...]"
ABOUT = N_("Continue a prompt with a checkpoint, one of the GPT-2s, or a local Hugging Face folder.")
SEPARATOR = "---------------"
FLUSH_S = 0.05  # 人看得出的流畅，每秒二十次就够


def main(argv: list[str]) -> int:
    """读配置与提示（都不需要 `torch`），载入模型，打印样本、困惑度，或开始服务。"""
    config, explicit = load_config(SampleConfig, argv, USAGE, ABOUT)
    if config.serve:
        from nanogpt.serve import serve

        return serve(config, explicit)
    prompt = "" if config.score else read_prompt(config.start)
    read_stops(config.stop)
    check_source(config)

    from nanogpt.loading import build, read_source

    source = read_source(config)
    ids = source.encode(prompt)  # 词表外的字符在建模型之前就说
    loaded = build(source, config)
    if config.score:
        print_score(loaded, config)
    else:
        print_samples(loaded, prompt, ids, config)
    return 0


def print_samples(loaded: Any, prompt: str, ids: list[int], config: SampleConfig) -> None:
    """第一个没有写完的样本边写边打印，后面的等它写完再接着打印。"""
    from nanogpt.completion import complete

    # 管道得到原文，终端只得到看得见的字符：模型也可能写出转义序列
    show: Callable[[str], str] = visible if sys.stdout.isatty() else str
    waiting = [[show(prompt)] for _number in range(config.num_samples)]
    finished: set[int] = set()
    scores: list[list[dict[str, Any]]] = [[] for _number in waiting]
    shown, flushed = 0, 0.0
    for step in complete(loaded, ids, config):
        number = step.sample.number
        waiting[number].append(show(step.text))
        if step.score is not None:
            scores[number].append(step.score)
        if step.sample.finish:
            finished.add(number)
            waiting[number].append(f"\n{score_table(scores[number])}{SEPARATOR}\n")
        now = time.monotonic()
        if now - flushed < FLUSH_S and not step.sample.finish:
            continue
        flushed = now
        while shown < len(waiting):
            sys.stdout.write("".join(waiting[shown]))
            waiting[shown].clear()
            if shown not in finished:
                break
            shown += 1
        sys.stdout.flush()


def score_table(scores: list[dict[str, Any]]) -> str:
    """`--logprobs`：每个 token 一行，对数概率、名次、文本，其后是最可能的几个备选。"""
    lines = []
    for entry in scores:
        others = "  ".join(f"{visible(repr(other['text']))} {other['logprob']:.3f}" for other in entry["top"])
        lines.append(f"{entry['logprob']:9.4f}  #{entry['rank']:<5} {visible(repr(entry['text'])):12} | {others}\n")
    return "".join(lines)


def print_score(loaded: Any, config: SampleConfig) -> None:
    """打印困惑度；算得久时，终端上有一行进度。"""
    from nanogpt.scoring import Total, figures, read_text, score

    text = read_text(loaded, config.score)
    most = len(text.ids) if not config.max_tokens else min(config.max_tokens, len(text.ids))
    total, began, said = Total(), time.perf_counter(), time.monotonic()
    for total, scores in score(loaded, text.ids, config.stride, config.logprobs, config.max_tokens):
        sys.stdout.write(score_table([entry for entry in scores if entry["logprob"] is not None]))
        if sys.stderr.isatty() and time.monotonic() - said > 0.5:
            said = time.monotonic()
            print(f"\r{total.tokens}/{most}", end="", file=sys.stderr)
    if not total.tokens:
        raise BadInput("bad_prompt", _("the text is too short to score"), config.score, _("two tokens at least"))
    found = figures(total, None if config.max_tokens else text.bytes, began)
    line = f"tokens {found['tokens']:,}, loss {found['loss']:.4f}, perplexity {found['perplexity']:.4f}"
    print(line + (f", bits per byte {found['bits_per_byte']:.4f}" if found["bits_per_byte"] is not None else ""))


if __name__ == "__main__":
    sys.exit(run_main(lambda: main(sys.argv[1:]), wants_debug(sys.argv)))
