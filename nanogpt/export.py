"""检查点与 Hugging Face 的 `GPT2LMHeadModel` 目录互换，分词器也在内。

    python -m nanogpt.export --out_dir=out-quickstart --folder=exports/quickstart
    python -m nanogpt.export --to_checkpoint --folder=exports/quickstart --out_dir=out-back

写出的目录里有 `config.json`、`model.safetensors`、`tokenizer.json`，transformers 直接可用；另有本项目的分词器描述，
读回来时用它。logits 差不过 1e-5。读目录的是 `nanogpt.pretrained`，`--init_from=目录` 也由它读。
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt.atomic import atomic_file, write_atomic
from nanogpt.config import ExportConfig, SampleConfig, load_config, wants_debug
from nanogpt.errors import BadInput, OutOfResources, run_main
from nanogpt.i18n import N_, _
from nanogpt.listing import check_source
from nanogpt.pretrained import TOKENIZER_FILE, TRANSPOSED
from nanogpt.tokenizer_library import tokenizer_files

if TYPE_CHECKING:
    from torch import Tensor

    from nanogpt.loading import Source

USAGE = "python -m nanogpt.export --folder=DIR [--key=value ...]"
ABOUT = N_("Turn a checkpoint into a Hugging Face folder (GPT2LMHeadModel, safetensors, with its tokenizer), or back.")


def main(argv: list[str]) -> int:
    """读配置，查过能不能写，读出模型，写到另一边。"""
    config, _explicit = load_config(ExportConfig, argv, USAGE, ABOUT)
    target = Path(config.out_dir, config.checkpoint) if config.to_checkpoint else Path(config.folder)
    is_taken = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    if is_taken and not config.overwrite:
        raise BadInput("already_there", _("there is something already"), str(target),
                       _("choose another place, or say --overwrite"))
    wanted = SampleConfig(init_from=config.folder if config.to_checkpoint else "resume", out_dir=config.out_dir,
                          checkpoint=config.checkpoint)
    if config.to_checkpoint and not (Path(config.folder) / "config.json").is_file():
        raise BadInput("not_gpt2", _("this is not a Hugging Face folder: it has no config.json"), config.folder,
                       _("point --folder at the folder"))
    check_source(wanted)

    from nanogpt.loading import read_source

    source = read_source(wanted)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        (write_checkpoint if config.to_checkpoint else write_folder)(source, target)
    except OSError as error:
        raise OutOfResources("export_failed", _("cannot write the export: {why}").format(why=error.strerror or error),
                             str(target), _("free some space or choose another place")) from error
    print(_("wrote {path}").format(path=target))
    return 0


def write_folder(source: "Source", folder: Path) -> None:
    """把 `source` 写成 Hugging Face 的目录。权重最后写：有它，目录就是完整的。"""
    from safetensors.torch import save

    if not source.config.is_gpt2():
        raise BadInput("not_exportable", _("Hugging Face's GPT-2 cannot hold this network"), source.where,
                       _("rotary positions, QK norm, squared ReLU, weightless norms and untied heads are ours alone"))
    folder.mkdir(exist_ok=True)
    eot_id = source.tokenizer.eot_id
    c = source.config
    write_json(folder / "config.json", {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": c.vocab_size,
        "n_positions": c.block_size, "n_ctx": c.block_size, "n_embd": c.n_embd, "n_layer": c.n_layer,
        "n_head": c.n_head, "n_inner": None, "activation_function": "gelu_new" if c.gelu_tanh else "gelu",
        "layer_norm_epsilon": 1e-5, "attn_pdrop": c.dropout, "embd_pdrop": c.dropout, "resid_pdrop": c.dropout,
        "scale_attn_weights": True, "tie_word_embeddings": True, "use_cache": True, "torch_dtype": "float32",
        "bos_token_id": eot_id, "eos_token_id": eot_id})
    for name, content in tokenizer_files(source.tokenizer, c.block_size).items():
        write_json(folder / name, content)
    write_json(folder / TOKENIZER_FILE, source.tokenizer.to_dict())
    with atomic_file(folder / "model.safetensors") as file:
        file.write(save(huggingface_weights(source), metadata={"format": "pt"}))


def huggingface_weights(source: "Source") -> "dict[str, Tensor]":
    """参数改成 transformers 的样子：Conv1D 的两轴相反，偏置总在，共用的输出层不写。"""
    import torch

    weights = {}
    for name, tensor in source.weights.items():
        if name != "lm_head.weight":
            weights[name] = (tensor.t() if name.endswith(TRANSPOSED) else tensor).float().contiguous()
    # 没有偏置的模型：transformers 的 GPT-2 总有偏置，写成零，logits 不变
    for name, tensor in list(weights.items()):
        bias = name.removesuffix("weight") + "bias"
        if name.endswith("weight") and not name.endswith(("wte.weight", "wpe.weight")) and bias not in weights:
            weights[bias] = torch.zeros(tensor.size(-1))
    return weights


def write_checkpoint(source: "Source", path: Path) -> None:
    """把 `source` 写成只有权重的检查点：能采样，也能被 nanoGPT 读；要接着训练，用 `--init_from=目录`。"""
    from nanogpt.checkpoint import save_checkpoint, split_model_args

    weights = {name: tensor.contiguous() for name, tensor in source.weights.items()}
    # 与训练器存的一样，两个名字共用一份
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    save_checkpoint(path, {"model": weights, **split_model_args(source.config), "iter_num": 0, "best_val_loss": 1e9,
                           "config": {"init_from": source.where}, "tokenizer": source.tokenizer.to_dict()})


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(run_main(lambda: main(sys.argv[1:]), wants_debug(sys.argv)))
