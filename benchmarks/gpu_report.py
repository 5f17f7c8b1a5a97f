"""把 `gpu.sh` 各部分的 JSON 合成 `results.json` 与 `report.txt`，并打印。"""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from report import print_table

ORDER = ("environment", "correctness", "warm", "speed", "modern", "sampling", "xl", "batches")


def load(out: Path) -> dict[str, dict[str, Any]]:
    parts = {}
    for name in ORDER:
        path = out / f"part-{name}.json"
        try:
            parts[name] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            parts[name] = {"part": name, "status": f"no result: {error}"}
    return parts


def speed_cell(found: dict[str, Any] | None) -> str:
    if not found:
        return "not measured"
    if found.get("tokens_per_second") is None:
        return "out of memory" if found.get("out_of_memory") else "failed"
    mfu = f", MFU {found['mfu']:.1%}" if found.get("mfu") is not None else ""
    return f"{found['tokens_per_second']:,.0f} tok/s{mfu}"


def ratio_cell(ours: dict[str, Any] | None, nanogpt: dict[str, Any] | None) -> str:
    if not (ours or {}).get("tokens_per_second") or not (nanogpt or {}).get("tokens_per_second"):
        return "-"
    assert ours is not None and nanogpt is not None
    return f"{ours['tokens_per_second'] / nanogpt['tokens_per_second']:.2f}"


def speed_rows(parts: dict[str, dict[str, Any]]) -> list[list[str]]:
    rows = []
    for i, found in enumerate(parts["speed"].get("rounds", []), 1):
        ours, nanogpt = found.get("ours"), found.get("nanogpt")
        rows.append([f"train, batch {parts['speed'].get('batch_size')}, round {i}", speed_cell(ours),
                     speed_cell(nanogpt), ratio_cell(ours, nanogpt)])
    curve = parts["speed"].get("curve")
    if curve:
        rows.append([f"loss curves over {curve['steps']} steps, mean difference",
                     f"{curve['mean_difference']:.4f}", "-",
                     "within noise" if curve["ok"] else "TOO FAR"])
    modern = parts["modern"]
    last = (modern.get("ours") or {}).get("last_loss")
    rows.append([f"train, modern recipe, batch {modern.get('batch_size')}", speed_cell(modern.get("ours"))
                 + (f", loss {last:.3f}" if last else ""), "-", "-"])
    measured = parts["batches"].get("measured", {})
    best: dict[str, tuple[str, dict[str, Any]]] = {}
    for batch_size in sorted({size for runs in measured.values() for size in runs}, key=int):
        pair = {side: measured.get(side, {}).get(batch_size) for side in ("ours", "nanogpt")}
        rows.append([f"train, batch {batch_size}", speed_cell(pair["ours"]), speed_cell(pair["nanogpt"]),
                     ratio_cell(pair["ours"], pair["nanogpt"])])
    same = {str(parts["speed"].get("batch_size")): found for found in parts["speed"].get("rounds", [])}
    for side in ("ours", "nanogpt"):
        runs = {**{size: found.get(side, {}) for size, found in same.items()}, **measured.get(side, {})}
        usable = {size: found for size, found in runs.items() if "tokens_per_second" in found}
        if usable:
            size = max(usable, key=lambda size: usable[size]["tokens_per_second"])
            best[side] = size, usable[size]
    if best:
        cells = {side: f"{speed_cell(best[side][1])} (batch {best[side][0]})" if side in best else "not measured"
                 for side in ("ours", "nanogpt")}
        pair = {side: best[side][1] if side in best else None for side in ("ours", "nanogpt")}
        rows.append(["train, each one's best", cells["ours"], cells["nanogpt"],
                     ratio_cell(pair["ours"], pair["nanogpt"])])
    for found in parts["sampling"].get("measured", {"": {"title": "GPT-2 124M", "error": "not measured"}}).values():
        if "error" in found:
            rows.append([f"sample: {found['title']}", found["error"].splitlines()[0], "-", "-"])
        for variant, one in found.get("variants", {}).items():
            rows.append([f"sample: {found['title']}, {variant}", speed_cell(one), speed_cell(found["nanogpt"]),
                         ratio_cell(one, found["nanogpt"])])
    xl = parts["xl"]
    memory = f"{xl['memory_mib']:,.0f} MiB" if xl.get("memory_mib") else "not measured"
    rows.append(["gpt2-xl shape, batch 1, two steps", memory, "-", "-"])
    return rows


def print_report(parts: dict[str, dict[str, Any]], seconds: int, failed: int) -> None:
    environment = parts["environment"]
    torch = environment.get("torch", {})
    host = environment.get("machine", {})
    print(f"device: {torch.get('device')}, torch {torch.get('torch')}, CUDA {torch.get('cuda')}, "
          f"python {host.get('python')}, commit {host.get('commit')}")
    if environment.get("limits"):
        limits = environment["limits"]
        print(f"measured limits: {limits['bfloat16_flops'] / 1e12:,.1f} TFLOP/s in bfloat16, "
              f"{limits['read_bytes_per_second'] / 1e9:,.0f} GB/s read")
    if environment.get("dry_run"):
        print("DRY RUN on the CPU with toy shapes: the numbers mean nothing")
    print_table(f"parts ({seconds} s in all, {failed} failed)", ["part", "status", "s"],
                [[name, str(part["status"]), str(part.get("seconds", "-"))] for name, part in parts.items()])
    checks = parts["correctness"].get("checks", [])
    if checks:
        print_table("correctness", ["check", "", "seen"],
                    [[check["name"], "ok" if check["ok"] else "FAIL", check["said"]] for check in checks])
    print_table("speed", ["", "ours", "nanoGPT", "ours / nanoGPT"], speed_rows(parts))


def main() -> int:
    out, seconds, failed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    parts = load(out)
    (out / "results.json").write_text(
        json.dumps({"seconds": seconds, "failed": failed, "parts": parts}, indent=1, ensure_ascii=False) + "\n",
        encoding="utf-8")
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        print_report(parts, seconds, failed)
    (out / "report.txt").write_text(text.getvalue(), encoding="utf-8")
    print(text.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main())
