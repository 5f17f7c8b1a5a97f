"""下载 GPT-2：断在半路而不出声的，在期限之内是一句话，下了的留着。约 15 秒，多半在导入 transformers。

Hugging Face 是假的：一个本机的 HTTP 服务器，照它的样子回答，权重发了一段就再也不出声。
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from trainer_fork import clean_env

CONFIG = json.dumps({"model_type": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257,
                     "n_positions": 1024}).encode()
SENT, SIZE = 300_000, 500_000_000
CODE = """
import nanogpt.pretrained as pretrained
from nanogpt.errors import BadInput
pretrained.STALL_S = 3.0
try:
    pretrained.load_gpt2("gpt2", lambda: print("downloading", flush=True))
except BadInput as error:
    print(error.code)
    print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """只认得 `gpt2` 的两个文件。"""

    is_over = threading.Event()

    def do_HEAD(self) -> None:
        self.answer(b"")

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/gpt2"):
            self.answer(json.dumps({"id": "gpt2", "sha": "0" * 40, "siblings": []}).encode())
        elif self.path.endswith("config.json"):
            self.answer(CONFIG)
        else:
            self.answer(b"\0" * SENT)
            self.is_over.wait(60)

    def answer(self, body: bytes) -> None:
        is_known = self.path.endswith(("config.json", "model.safetensors")) or self.path.startswith("/api/")
        size = SIZE if self.path.endswith(".safetensors") else len(CONFIG if "resolve" in self.path else body)
        self.send_response(200 if is_known else 404)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{len(self.path)}"')
        self.send_header("Content-Length", str(size if is_known else 0))
        self.end_headers()
        if is_known:
            self.wfile.write(body)
            self.wfile.flush()

    def log_message(self, *_arguments: object) -> None:
        """不往测试的输出里写。"""


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.is_over.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    Hub.is_over.set()
    server.shutdown()
    server.server_close()


def test_a_download_that_stalls_has_a_limit(hub: str, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", CODE], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL,
                               env=clean_env(HF_HOME=str(tmp_path / "hf"), HF_ENDPOINT=hub, HF_HUB_OFFLINE="0",
                                             HF_HUB_DISABLE_XET="1", NO_PROXY="127.0.0.1", no_proxy="127.0.0.1"))
    try:
        assert process.stdout is not None and process.stdout.readline() == "downloading\n"
        began = time.monotonic()
        said = process.stdout.read()
        assert time.monotonic() - began < 60, said
    finally:
        process.kill()
        process.wait()
    code, *lines = said.splitlines()
    assert code == "gpt2_unavailable" and "model.safetensors" in lines[0] and "within 3 s" in lines[0], said
    assert "hf download gpt2 --local-dir ./gpt2" in lines[-1] and len(lines) <= 3
    kept = [path for path in (tmp_path / "hf").rglob("*") if path.is_file() and not path.is_symlink()]
    assert max(os.path.getsize(path) for path in kept) >= SENT // 2, "what had come is gone"
