"""采样：让检查点、GPT-2 或本地目录里的模型接着提示往下写。

    python -m nanogpt.sample --out_dir=out-quickstart --start="def "
    python -m nanogpt.sample --init_from=gpt2 --start=FILE:prompt.txt --num_samples=3

同一种子、同一检查点，CPU 的 float32 上逐 token 与 nanoGPT 的 `sample.py` 相同。
"""

import sys
import time
from pathlib import Path

from nanogpt.config import SampleConfig, load_config, wants_debug
from nanogpt.dataset import check_dataset_name, open_dataset, open_folder
from nanogpt.errors import BadInput, run_main
from nanogpt.i18n import N_, _
from nanogpt.prompt import TextStream, read_prompt, read_stops
from nanogpt.text import visible
from nanogpt.tokenizer import GPT2Tokenizer, Tokenizer, tokenizer_from_dict

USAGE = "python -m nanogpt.sample [--key=value ...]"
ABOUT = N_("Continue a prompt with a checkpoint, one of the GPT-2s, or a local Hugging Face folder.")
SEPARATOR = "---------------"


def main(argv: list[str]) -> int:
    """读配置与提示（都不需要 `torch`），载入模型，逐个打印样本。"""
    config, _explicit = load_config(SampleConfig, argv, USAGE, ABOUT)
    prompt, stops = read_prompt(config.start), read_stops(config.stop)
    if config.init_from == "scratch":
        raise BadInput("bad_value", _("there is nothing to sample from in an untrained model"), "--init_from",
                       _("resume, gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a Hugging Face folder"))
    path = Path(config.out_dir) / config.checkpoint
    if config.init_from == "resume" and not path.is_file():
        raise BadInput("no_checkpoint", _("there is no checkpoint"), str(path),
                       _("train first, or point --out_dir at a run directory"))

    import torch

    from nanogpt import device as devices
    from nanogpt.checkpoint import load_checkpoint, model_config
    from nanogpt.model import GPT

    device = devices.choose_device(config.device)
    devices.seed(config.seed)
    if config.init_from == "resume":
        checkpoint = load_checkpoint(path)
        tokenizer = checkpoint_tokenizer(checkpoint)
        ids = tokenizer.encode(prompt)  # 词表外的字符在建模型之前就说
        model = GPT(model_config(checkpoint, dropout=0.0))
        model.load_state_dict(checkpoint["model"])
    else:
        tokenizer = GPT2Tokenizer()
        ids = tokenizer.encode(prompt)
        model = GPT.from_pretrained(config.init_from)
    if max(ids) >= model.config.vocab_size:
        raise BadInput("tokenizer_mismatch", _("the tokenizer gives ids up to {n}, but the model knows {v}").format(
            n=max(ids), v=model.config.vocab_size), str(path), _("the checkpoint belongs to another tokenizer"))
    model.eval().to(device)
    if devices.choose_compile(config.compile, device):
        model.forward = torch.compile(model.forward, dynamic=True)  # type: ignore[method-assign]

    x = torch.tensor([ids], dtype=torch.long, device=device)
    with torch.inference_mode(), devices.autocast(device, devices.choose_dtype(config.dtype, device)):
        for _number in range(config.num_samples):
            write_sample(prompt, model, x, tokenizer, stops, config)
    return 0


def write_sample(prompt: str, model, x, tokenizer: Tokenizer, stops: list[str], config: SampleConfig) -> None:  # type: ignore[no-untyped-def]
    """打印一个样本：提示，随后每得一个 token 就打印一段。"""
    from nanogpt.generation import Choice, generate

    # 管道得到原文，终端只得到看得见的字符：模型也可能写出转义序列
    show = visible if sys.stdout.isatty() else str
    sys.stdout.write(show(prompt))
    stream, flushed = TextStream(tokenizer, stops), 0.0
    choice = Choice(config.temperature, config.top_k, config.top_p)
    for token, _logits in generate(model, x, config.max_new_tokens, choice):
        sys.stdout.write(show(stream.push(int(token))))
        # 人看得出的流畅，每秒二十次就够
        if (now := time.monotonic()) - flushed > 0.05:
            sys.stdout.flush()
            flushed = now
        if stream.is_stopped:
            break
    print(show(stream.finish()))
    print(SEPARATOR, flush=True)


def checkpoint_tokenizer(checkpoint: dict) -> Tokenizer:  # type: ignore[type-arg]
    """检查点自带的分词器；nanoGPT 的检查点没有，就看它的数据集目录，再不然是 GPT-2。"""
    description = checkpoint.get("tokenizer")
    if description is not None:
        return tokenizer_from_dict(description)
    name = checkpoint.get("config", {}).get("dataset") if isinstance(checkpoint.get("config"), dict) else None
    vocab_size = checkpoint["model_args"]["vocab_size"]
    if isinstance(name, str):
        try:
            folder = Path("data", check_dataset_name(name))
            # nanoGPT 只看 meta.pkl 在不在；没有 .bin 也读得了
            has_meta = any((folder / meta).is_file() for meta in ("meta.json", "meta.pkl"))
            dataset = open_folder(folder, name) if has_meta else open_dataset(name)
        except BadInput as error:
            # 没有那个目录时与 nanoGPT 一样当作 GPT-2；词表小得不可能是 GPT-2 的，就得有那个目录
            if vocab_size < GPT2Tokenizer.vocab_size:
                raise BadInput("no_tokenizer", _("the checkpoint carries no tokenizer, and its dataset is not here"),
                               visible(name[:80]), error.hint) from error
        else:
            if dataset.tokenizer is not None:
                return tokenizer_from_dict(dataset.tokenizer)
    print(_("no tokenizer in the checkpoint, taking GPT-2's"), file=sys.stderr)
    return GPT2Tokenizer()


if __name__ == "__main__":
    sys.exit(run_main(lambda: main(sys.argv[1:]), wants_debug(sys.argv)))
