"""运行列表的查询：`learning_rate>=1e-3 dataset:shakespeare quick` 是三个都要成立的条件。

运行列表调用 `matches` 与 `wanted_order`。没有运算符的词在名字与备注里找；`键:值` 与比较认得全部配置键、
几个指标、`status`、`name` 与备注里的标签 `tag`；`sort:键` 不筛选，只说按什么排。带空格或冒号的词用双引号括起来。
"""

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from nanogpt.config import TrainConfig
from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.options import coerce, did_you_mean, options_of
from workbench.watched_run import STATUS_WORDS, WatchedRun

OPTIONS = options_of(TrainConfig)
METRICS: dict[str, Callable[[WatchedRun], float]] = {
    "iter": lambda run: math.nan if run.state.last_iter is None else run.state.last_iter,
    "params": lambda run: math.nan if run.state.params is None else run.state.params,
    "best_val_loss": lambda run: run.state.best_val_loss,
    **{name: (lambda run, name=name: run.state.latest(name))  # type: ignore[misc]
       for name in ("loss", "val_loss", "train_loss", "lr", "grad_norm", "tokens_per_second", "mfu", "memory_mib")}}
TEXTS: dict[str, Callable[[WatchedRun], str]] = {"status": lambda run: run.status, "name": lambda run: run.name}
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, "<=": operator.le, "!=": operator.ne, ">": operator.gt, "<": operator.lt,
    "=": operator.eq, ":": operator.eq}
SORT, TAG = "sort", "tag"
_TERM = re.compile(r'([A-Za-z_]\w*)(>=|<=|!=|[<>=:])("[^"]*"?|\S*)|("[^"]*"?|\S+)')


class QueryError(ValueError):
    """查询写错了；文字是给用户看的一句短话。"""


@dataclass(frozen=True)
class Term:
    """一个条件；`key` 为空时是普通的词。`value` 已是键的类型。"""

    key: str
    symbol: str
    value: Any


def matches(query: str, run: WatchedRun, notes: str = "") -> bool:
    """`run` 是否合乎 `query` 的每个条件；空的查询都合。写错时抛出 `QueryError`。"""
    return all(_holds(term, run, notes) for term in parse_query(query))


@lru_cache(maxsize=64)
def parse_query(query: str) -> tuple[Term, ...]:
    """拆成条件。列表对每个运行都要问一遍，所以记住拆好的。"""
    terms = []
    for key, symbol, value, word in _TERM.findall(query):
        text = value if key else word
        if text.startswith('"'):
            if len(text) < 2 or not text.endswith('"'):
                raise QueryError(_("a quote is not closed"))
            text = text[1:-1]
        terms.append(_term(key, symbol, text) if key else Term("", "", text.casefold()))
    return tuple(terms)


def wanted_order(query: str) -> str:
    """`sort:键` 里的键，倒着排的以 `-` 开头；没有则空，有几个就听最后一个的。写错时抛出 `QueryError`。"""
    return next((term.value for term in reversed(parse_query(query)) if term.key == SORT), "")


def value_of(key: str, run: WatchedRun) -> Any:
    """`run` 的指标、配置键、状态或名字；没有则 None。"""
    if key in METRICS:
        number = METRICS[key](run)
        return number if math.isfinite(number) else None
    return TEXTS[key](run) if key in TEXTS else run.state.config.get(key)


def _term(key: str, symbol: str, text: str) -> Term:
    sortable = (*TEXTS, *METRICS, *OPTIONS)
    _check_key(key, (SORT, TAG, *sortable))
    if not text:
        raise QueryError(_("a value is missing after {text}").format(text=f"{key}{symbol}"))
    if key == SORT:
        _check_key(text.removeprefix("-"), sortable)
        return Term(SORT, ":", text)
    if key == TAG:
        return Term(TAG, symbol, text.removeprefix("#").casefold())
    if key in METRICS:
        return Term(key, symbol, _number(key, text))
    option = OPTIONS.get(key)
    if option is None or option.type is str:
        if symbol in ("<", ">", "<=", ">="):
            raise QueryError(_("{key} is text: use : or = or !=").format(key=key))
        if key == "status" and symbol != ":" and text not in STATUS_WORDS:
            raise QueryError(_("legal: {legal}").format(legal=", ".join(STATUS_WORDS)))
        return Term(key, symbol, text.casefold())
    if option.type is bool:
        try:
            return Term(key, symbol, coerce(option, text, ""))
        except BadInput as error:
            raise QueryError(error.what + _("; ") + error.hint) from error
    # 比较的界限不必是键的合法值：`dropout<1` 有意义
    return Term(key, symbol, _number(key, text))


def _check_key(key: str, known: tuple[str, ...]) -> None:
    if key not in known:
        hint = did_you_mean(key, known)
        raise QueryError(_("unknown key {key}").format(key=key) + (_("; ") + hint if hint else ""))


def _number(key: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise QueryError(_("{key} needs a number, not {value}").format(key=key, value=repr(text)[:40])) from error
    if not math.isfinite(number):
        raise QueryError(_("{key} needs a number, not {value}").format(key=key, value=repr(text)[:40]))
    return number


def _holds(term: Term, run: WatchedRun, notes: str) -> bool:
    if not term.key:
        return term.value in f"{run.name}\n{notes}".casefold()
    if term.key == SORT:
        return True
    if term.key == TAG:
        tags = {word.removeprefix("#") for word in notes.casefold().split() if word.startswith("#")}
        return (term.value in tags) != (term.symbol == "!=")
    if term.key in METRICS:
        number = METRICS[term.key](run)
        return math.isfinite(number) and OPERATORS[term.symbol](number, term.value)
    if term.key in TEXTS:
        found: Any = TEXTS[term.key](run)
    else:
        found = run.state.config.get(term.key)
        if found is None:
            return False
    if isinstance(term.value, str):
        text = str(found).casefold()
        # 冒号是「含有」，等号是「就是」
        return term.value in text if term.symbol == ":" else OPERATORS[term.symbol](text, term.value)
    # 日志是别人写的：类型对不上就不合。bool 也是 int，所以先分开
    if isinstance(found, bool) != isinstance(term.value, bool) or not isinstance(found, (int, float)):
        text = str(term.value).casefold()
        return isinstance(term.value, bool) and OPERATORS[term.symbol](str(found).casefold(), text)
    return OPERATORS[term.symbol](found, term.value)
