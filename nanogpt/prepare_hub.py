"""Hugging Face 上的数据集 `hf:名字`（可写成 `hf:名字:配置`）：由 `datasets` 下载，给出它缓存里的 Arrow 文件。

`nanogpt.prepare_build` 使用。已经下载过的不再碰网络；数据集自带的脚本一律不运行。
"""

import os
import sys
from pathlib import Path

from nanogpt.errors import BadInput, UserError
from nanogpt.i18n import _
from nanogpt.prepare_sources import SourceFile


def hub_sources(name: str) -> list[SourceFile]:
    """`name` 的 `train` 部分的文件。"""
    name, _colon, config = name.partition(":")
    # 老版本的 `datasets` 会运行数据集自带的脚本；只要数据，不要别人的代码
    os.environ["HF_DATASETS_TRUST_REMOTE_CODE"] = "0"
    try:
        import datasets
    except ImportError as error:
        raise BadInput("datasets_missing", _("hf:NAME needs the datasets package, which is not installed"), "",
                       _("pip install datasets")) from error
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        documents = datasets.load_dataset(name, config or None, split="train")
    # `datasets` 把网络、名字、格式的错报成许多种异常，没有共同的基类
    except Exception as error:
        raise UserError("download_failed", _("cannot load {name} from Hugging Face: {why}").format(
            name=name, why=" ".join(str(error).split())[:300]), "",
            _("run the same command again to go on, or give a local copy with --input PATH")) from error
    files = [Path(entry["filename"]) for entry in documents.cache_files]
    return [SourceFile(str(path), "arrow", "utf-8", path.stat().st_size, path.stat().st_mtime_ns) for path in files]
