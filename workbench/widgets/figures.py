"""草稿旁边的数字：参数、每步的 token、要过几遍数据、大约多少内存。

启动界面在每次改动后调用 `figures_text`，数字来自 `workbench.estimate`。
"""

from nanogpt.errors import BadInput
from nanogpt.i18n import _
from nanogpt.text import visible
from workbench.draft import Draft
from workbench.machine import Device
from workbench.terminal import cells

# 估计的内存超过设备的这么多就提醒：其余的留给 `torch` 自己与显示
FULL_SHARE = 0.95


def figures_text(draft: Draft, devices: list[Device]) -> str:
    """两列对齐的几行，下面是要留意的话。"""
    try:
        found = draft.estimate()
    except BadInput as error:
        return visible(error.what)
    rows = [(_("parameters"), _short(found.params) + ("" if found.is_vocab_known else " ?")),
            (_("tokens/iteration"), f"{found.tokens_per_iter:,}"),
            (_("tokens in all"), _short(found.total_tokens)),
            (_("epochs"), "?" if found.epochs is None else f"{found.epochs:,.3g}"),
            (_("memory, about"), f"{found.memory_mib:,.0f} MiB"),
            (_("checkpoint"), f"{found.checkpoint_mib:,.1f} MiB"),
            (_("processes"), f"{draft.world_size}")]
    width = max(cells(name) for name, _value in rows) + 1
    lines = [name + " " * (width - cells(name)) + value for name, value in rows]
    lines += ["", _("Memory is an estimate for each process, without what torch itself takes.")]
    if found.epochs is None:
        unknown = "" if found.is_vocab_known else " " + _("Until then the vocabulary is taken to be GPT-2's.")
        lines += ["", _("The dataset is not prepared.") + unknown]
    device = next((device for device in devices if device.name == _device_name(draft, devices)), None)
    if device is not None and device.memory_mib and found.memory_mib > FULL_SHARE * device.memory_mib:
        lines += ["", _("More than the {n} MiB of {device}: use a smaller batch_size.").format(
            n=f"{device.memory_mib:,.0f}", device=device.name)]
    return "\n".join(lines)


def _device_name(draft: Draft, devices: list[Device]) -> str:
    chosen = draft.train.value("device")
    if chosen == "auto":
        return devices[0].name if devices else ""
    return "cuda:0" if chosen == "cuda" else str(chosen)


def _short(number: int) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:,.2f}{unit}"
    return str(number)
