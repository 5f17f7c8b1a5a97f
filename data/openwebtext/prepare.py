"""GPT-2 BPE 的 OpenWebText，由 Hugging Face `datasets` 读取；与 nanoGPT 对同一输入的结果逐字节相同。

全量约 800 万篇文档、90 亿 token：下载与展开约 55 GB，写出 17 GB，中途另需 17 GB。
内存只占每个进程的一小批。被杀死之后再运行同样的命令就接着做：语料在 `datasets` 的缓存里，
编码好的每一份在输出目录的 `.parts-*` 里（完整的才有正式的名字），只有没做完的那几份重来；
最后的拼接总是从头写，写完才换上 `train.bin` 与 `val.bin` 并删去 `.parts-*`。
"""

import argparse
import hashlib
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

if (Path(__file__).resolve().parents[2] / "nanogpt").is_dir():
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from nanogpt import prepare_script as prepare
from nanogpt.dataset import write_dataset
from nanogpt.dataset_write import TOKEN_TYPE, check_free_space, explain_os_error, make_folder, replace_together
from nanogpt.errors import BadInput, OutOfResources, UserError
from nanogpt.i18n import _
from nanogpt.tokenizer import GPT2Tokenizer, load_gpt2_encoding

SCRIPT = Path(__file__)
HUB_NAME, HUB_DOCUMENTS = "Skylion007/openwebtext", 8_013_769
HUB_BYTES = 55_000_000_000
# 本地副本的样子：后缀到 `load_dataset` 的读法。文本文件一个就是一篇文档。
KINDS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".txt": "text"}
# 划分与 nanoGPT 相同。
VAL_SHARE, SEED = 0.0005, 2357
# 一份多少篇：全量约 400 份，一份几十秒，被杀死时至多白做每个进程一份。
PART_DOCUMENTS = 20_000
BATCH_DOCUMENTS = 500
STREAM_TOKENS = 4 << 20

_worker: dict[str, Any] = {}


def main(arguments: list[str]) -> int:
    """载入、划分、分份编码、拼接。"""
    options = parse(arguments)
    load_gpt2_encoding()
    folder = prepare.output_folder(SCRIPT, options.out)
    documents = load_documents(options.input)
    check_documents(documents, options.input)
    # 英文约 4.4 字节一个 token，一个 token 两字节，份与成品各一套：与文本等大的空间够用。
    check_free_space(folder, documents.data.nbytes)
    halves = documents.train_test_split(test_size=VAL_SHARE, seed=SEED, shuffle=True)
    splits = {"train": halves["train"], "val": halves["test"]}
    parts_folder = folder / f".parts-{fingerprint(documents)}"
    make_folder(parts_folder)
    parts = tokenize(splits, parts_folder, options.num_proc)
    total = sum(path.stat().st_size for paths in parts.values() for path in paths) // TOKEN_TYPE.itemsize
    streams = {split: read_parts(paths) for split, paths in parts.items()}
    source = HUB_NAME if options.input is None else options.input.name
    meta = write_dataset(
        folder, GPT2Tokenizer(), streams, expected_tokens=total, source=source, documents=len(documents)
    )
    shutil.rmtree(parts_folder)
    prepare.report(meta, folder)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """参数；`--input` 是同样形式的本地副本。"""
    description = _(
        "OpenWebText in GPT-2 BPE tokens (about 90 GB of disk). --input takes a local copy: a file or folder of "
        "parquet or JSON lines with a text column, or of .txt files with one document each."
    )
    parser = prepare.script_parser(SCRIPT, description)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "--num-proc", type=int, default=cores, metavar="N", help=_("processes that tokenize (default: %(default)s)")
    )
    options = parser.parse_args(arguments)
    if not 1 <= options.num_proc <= 1024:
        raise BadInput("bad_argument", _("--num-proc must be from 1 to 1024"))
    return options


def load_documents(source: Path | None) -> Any:
    """全部文档，一个 `datasets.Dataset`（内存映射，不占内存）。"""
    # 老版本的 `datasets` 会运行数据集自带的脚本；只要数据，不要别人的代码。
    os.environ["HF_DATASETS_TRUST_REMOTE_CODE"] = "0"
    try:
        import datasets
    except ImportError as error:
        what = _("openwebtext needs the datasets package, which is not installed")
        raise BadInput("datasets_missing", what, "", _("pip install datasets")) from error
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    if source is None:
        return load_from_hub(datasets)
    kind, files = local_files(source)
    extra = {"sample_by": "document"} if kind == "text" else {}
    try:
        return datasets.load_dataset(kind, data_files={"train": files}, split="train", **extra)
    # `datasets` 把读不懂的文件报成许多种异常，原因在异常链的底端。
    except Exception as error:
        raise _explain(error, Path(datasets.config.HF_DATASETS_CACHE), _unreadable(error, source)) from error


def load_from_hub(datasets: Any) -> Any:
    """从 Hugging Face 下载；主分支仍是脚本的时候读它自动转成 parquet 的分支。"""
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    failure: Exception | None = None
    for revision in (None, "refs/convert/parquet"):
        try:
            builder = datasets.load_dataset_builder(HUB_NAME, revision=revision)
            if not Path(builder.cache_dir).exists():
                make_folder(cache)
                check_free_space(cache, builder.info.size_in_bytes or HUB_BYTES)
            documents = datasets.load_dataset(HUB_NAME, revision=revision, split="train")
        except UserError:
            raise
        except Exception as error:
            failure = error
            if not any(word in str(error) for word in ("script", "trust_remote_code", "custom code")):
                break
            continue
        if len(documents) != HUB_DOCUMENTS:
            print(
                _("warning: {count:,} documents instead of {expected:,}; the result will differ from nanoGPT's").format(
                    count=len(documents), expected=HUB_DOCUMENTS
                ),
                file=sys.stderr,
            )
        return documents
    assert failure is not None
    what = _("cannot download {name}: {why}").format(name=HUB_NAME, why=" ".join(str(failure).split())[:300])
    hint = _("run the same command again to go on, or give a local copy with --input PATH")
    raise _explain(failure, cache, UserError("download_failed", what, "", hint)) from failure


def local_files(source: Path) -> tuple[str, list[str]]:
    """`source` 里的数据文件（按路径排序）与读法；隐藏文件不算。"""
    if not source.exists():
        raise BadInput("bad_text", _("{path} does not exist").format(path=source), "", _input_hint())
    found = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    by_kind: dict[str, list[str]] = {}
    for path in found:
        suffix = Path(path.name.removesuffix(".gz").removesuffix(".zst")).suffix
        hidden = path != source and any(part.startswith(".") for part in path.relative_to(source).parts)
        if suffix in KINDS and not hidden:
            by_kind.setdefault(KINDS[suffix], []).append(str(path.resolve()))
    if len(by_kind) != 1:
        what = _("{path} mixes kinds of files") if by_kind else _("{path} holds no parquet, JSON lines or text files")
        raise BadInput("bad_text", what.format(path=source), "", _input_hint())
    return next(iter(by_kind.items()))


def check_documents(documents: Any, source: Path | None) -> None:
    """要有字符串的 `text` 列、没有空值、至少两篇；读的只是列的元数据。"""
    where = HUB_NAME if source is None else str(source)
    columns = documents.column_names
    if "text" not in columns:
        what = _("there is no column named text; the columns are: {columns}").format(columns=", ".join(columns))
        raise BadInput("no_text_column", what, where, _("rename the column that holds the documents to text"))
    column = documents.data.column("text")
    if getattr(documents.features["text"], "dtype", "") not in ("string", "large_string"):
        what = _("the column text holds {type} instead of strings").format(type=documents.features["text"])
        raise BadInput("no_text_column", what, where, _input_hint())
    if column.null_count:
        what = _("{count} documents have no text").format(count=column.null_count)
        raise BadInput("bad_text", what, where, _("drop those rows first"))
    if len(documents) < 2:
        what = _("{count} documents; training and validation need one each").format(count=len(documents))
        raise BadInput("text_too_short", what, where, _input_hint())


def fingerprint(documents: Any) -> str:
    """语料与做法的指纹：换了任何一样，上次留下的份就不再作数。"""
    recipe = f"{documents._fingerprint} {len(documents)} {VAL_SHARE} {SEED} {PART_DOCUMENTS} gpt2+eot"
    return hashlib.sha256(recipe.encode("utf-8")).hexdigest()[:16]


def tokenize(splits: dict[str, Any], folder: Path, num_proc: int) -> dict[str, list[Path]]:
    """把每个划分分成几份并行编码，已有的份跳过；返回各划分按次序的份。"""
    parts: dict[str, list[Path]] = {}
    todo: list[tuple[str, int, int, Path]] = []
    for split, documents in splits.items():
        count = -(-len(documents) // PART_DOCUMENTS)
        parts[split] = [folder / f"{split}-{index:05d}-of-{count:05d}.bin" for index in range(count)]
        todo += [(split, index, count, path) for index, path in enumerate(parts[split]) if not path.exists()]
    total = sum(map(len, parts.values()))
    if len(todo) < total:
        print(_("going on: {done} of {total} parts are already tokenized").format(done=total - len(todo), total=total))
    if not todo:
        return parts
    # `fork` 让工作进程直接继承已打开的语料，不必序列化洗牌后的下标（全量时 64 MB）。
    pool = ProcessPoolExecutor(num_proc, multiprocessing.get_context("fork"), _start_worker, (splits,))
    try:
        for done, future in enumerate(as_completed([pool.submit(tokenize_part, *part) for part in todo])):
            future.result()
            prepare.progress(_("tokenizing"), total - len(todo) + done + 1, total)
    except BrokenProcessPool as error:
        what = _("a tokenizing process was killed, perhaps for want of memory")
        hint = _("run it again to go on, with a smaller --num-proc")
        raise OutOfResources("worker_killed", what, "", hint) from error
    finally:
        pool.shutdown(cancel_futures=True)
    return parts


def _start_worker(splits: dict[str, Any]) -> None:
    """工作进程的开头：Ctrl-C 时安静地结束，父进程被杀死时自己也结束。"""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    _worker.update(splits=splits, encoding=load_gpt2_encoding())


def tokenize_part(split: str, index: int, count: int, path: Path) -> None:
    """编码一份文档写进 `path`：每篇后面接一个 50256，次序不变。整份写完才有正式的名字。"""
    encoding = _worker["encoding"]
    documents = _worker["splits"][split].shard(num_shards=count, index=index, contiguous=True)
    with replace_together(path.parent) as open_new:
        file = open_new(path.name)
        for batch in documents.iter(batch_size=BATCH_DOCUMENTS):
            ids = [[*encoding.encode_ordinary(text), encoding.eot_token] for text in batch["text"]]
            file.write(np.concatenate(ids).astype(TOKEN_TYPE).data)


def read_parts(paths: list[Path]) -> Iterator[np.ndarray]:
    """依次读回各份，一次至多 8 MiB。"""
    for number, path in enumerate(paths, 1):
        with open(path, "rb") as file:
            while (ids := np.fromfile(file, dtype=TOKEN_TYPE, count=STREAM_TOKENS)).size:
                yield ids
        prepare.progress(_("writing"), number, len(paths))


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _unreadable(error: Exception, source: Path) -> BadInput:
    what = _("the documents cannot be read: {why}").format(why=_cause(error))
    return BadInput("bad_text", what, str(source), _input_hint())


def _explain(error: BaseException, folder: Path, otherwise: UserError) -> UserError:
    """异常链里有磁盘已满时说磁盘，否则是 `otherwise`。"""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and isinstance(found := explain_os_error(link, folder), OutOfResources):
            return found
        link = link.__cause__ or link.__context__
    return otherwise


def _input_hint() -> str:
    return _("--input takes parquet or JSON lines with a text column, or .txt files, one document each")


if __name__ == "__main__":
    prepare.run_script(main)
