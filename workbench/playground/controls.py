"""采样的参数：从 `SampleConfig` 的元数据来，加上几组现成的。表单改它，`Playground` 由它得到请求的键。"""

from typing import Any

from nanogpt.config import SampleConfig
from nanogpt.i18n import N_
from nanogpt.options import coerce, options_of
from nanogpt.prompt import read_stops
from workbench.draft import EditedValues

ORDER = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens", "num_samples", "seed",
         "stop", "end_of_text", "window", "logprobs", "device", "dtype")
# 载入时的键：改了就重新载入
LOADING = ("device", "dtype")
_ALL = options_of(SampleConfig)
OPTIONS = {name: _ALL[name] for name in ORDER if name in _ALL}
# 与命令行不同的起始值：界面上先看一个短的
STARTING = {"max_new_tokens": 200, "num_samples": 1}
# 现成的几组：名字 → 改动；没写到的回到起始值。长度、个数、种子、停止串不属于它们
PRESETS: dict[str, dict[str, str]] = {
    "balanced": {},
    "greedy": {"temperature": "0"},
    "focused": {"temperature": "0.5", "top_p": "0.9"},
    "wild": {"temperature": "1.3", "top_k": "0", "min_p": "0.02"},
}
PRESET_TITLES = {"balanced": N_("balanced"), "greedy": N_("greedy"), "focused": N_("focused"), "wild": N_("wild")}
KEPT = ("max_new_tokens", "num_samples", "seed", "stop", "end_of_text", "window", "logprobs", *LOADING)


def new_controls() -> EditedValues:
    base = {name: STARTING.get(name, option.default) for name, option in OPTIONS.items()}
    return EditedValues(OPTIONS, base)


def apply_preset(controls: EditedValues, values: dict[str, str], *, is_whole: bool = False) -> None:
    """换成这一组：它没说的回到起始值，`KEPT` 里的不动（`is_whole` 时也换）。不合法的抛出 `BadInput`，什么也不变。"""
    wanted = {name: text for name, text in values.items() if name in controls.options}
    for name, text in wanted.items():
        coerce(controls.options[name], text, "")
    for name in controls.options:
        if is_whole or name not in KEPT:
            controls.reset(name)
    for name, text in wanted.items():
        controls.set(name, text)


def request_keys(controls: EditedValues, more_stops: tuple[str, ...] = ()) -> dict[str, Any]:
    """`generate` 请求的键；停止串不合法则 `BadInput`。"""
    keys = {name: value for name, value in controls.values().items() if name not in LOADING}
    stops = [*more_stops, *read_stops(keys.pop("stop", ""))]
    if stops:
        keys["stop"] = stops
    return keys


def load_keys(controls: EditedValues) -> dict[str, Any]:
    """`load` 请求的键；没改过的由服务自己定。"""
    return {name: controls.value(name) for name in LOADING if name in controls.edits}


def summary(controls: EditedValues) -> list[tuple[str, str, bool]]:
    """（键, 值, 改过没有），按次序；没有改过的次要的键不写。"""
    always = ("temperature", "top_k", "max_new_tokens", "seed")
    return [(name, controls.text(name), name in controls.edits) for name in controls.options
            if name in always or name in controls.edits]
