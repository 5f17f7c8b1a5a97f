"""nanoGPT 的一边：用它没有改动的 `model.py`，照它的 `sample.py` 载入 `out/ckpt.pt`，一直开着，一行请求生成一次。

`benchmarks/sample.py` 在 nanoGPT 的工作目录里启动它：`python nanogpt_sampler.py DEVICE DTYPE`。
请求是一个数，要多少个 token；回答是一行 JSON 的文本。每次都从载入之后的随机数开始，所以文本总相同。
"""

import contextlib
import json
import pickle
import sys

import torch
from model import GPT, GPTConfig  # type: ignore[import-not-found]  # nanoGPT 的，在它的工作目录里


def main() -> None:
    device, dtype = sys.argv[1], sys.argv[2]
    torch.manual_seed(1337)
    checkpoint = torch.load("out/ckpt.pt", map_location=device)
    with contextlib.redirect_stdout(sys.stderr):
        model = GPT(GPTConfig(**checkpoint["model_args"]))
    model.load_state_dict(checkpoint["model"])
    model.eval().to(device)
    with open(f"data/{checkpoint['config']['dataset']}/meta.pkl", "rb") as file:
        meta = pickle.load(file)
    # 它在 CPU 上不用混合精度，不论 `dtype` 说什么
    context = contextlib.nullcontext() if device == "cpu" else torch.amp.autocast("cuda", getattr(torch, dtype))
    x = torch.tensor([[meta["stoi"]["\n"]]], device=device)
    state = torch.get_rng_state()
    print("ready", flush=True)
    for line in sys.stdin:
        torch.set_rng_state(state)
        if device != "cpu":
            torch.cuda.manual_seed(1337)
        with torch.no_grad(), context:
            y = model.generate(x, int(line), temperature=0.8, top_k=200)
        print(json.dumps("".join(meta["itos"][i] for i in y[0].tolist()[1:])), flush=True)


if __name__ == "__main__":
    main()
