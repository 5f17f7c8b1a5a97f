"""下载一个内容固定的文件：校验和相符才有正式的名字，断了重试，失败时说出不靠网络的办法。

`nanogpt.prepare_script` 使用，替 `data/*/prepare.py` 取原文。
"""

import hashlib
import http.client
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nanogpt.dataset_write import check_free_space, replace_together
from nanogpt.errors import BadInput, UserError
from nanogpt.i18n import _
from nanogpt.prepare_report import progress
from nanogpt.text import visible

TIMEOUT_S = 30.0
# 每次重试之前等多久（秒）；有几项就重试几次。
RETRY_DELAYS_S = (1.0, 3.0)


@dataclass(frozen=True)
class Download:
    """一个可下载的文件。内容固定，所以换镜像（`--url`）也要合这个校验和。"""

    url: str
    sha256: str
    bytes: int


def fetch(download: Download, target: Path, offline: str) -> None:
    """下载到 `target`：校验和相符才改名过去，否则什么也不留。

    连不上、超时、断在半路会重试；校验和不符不重试。失败时抛出 `UserError`，`offline` 是不靠网络的办法。
    """
    if not download.url.startswith(("http://", "https://")):
        raise BadInput("bad_url", _("{url} is not an http or https address").format(url=repr(download.url)))
    check_free_space(target.parent, download.bytes)
    print(_("downloading {url}").format(url=visible(download.url)))
    why = ""
    for delay in (*RETRY_DELAYS_S, None):
        try:
            with replace_together(target.parent) as open_new:
                found = _stream(download, open_new(target.name))
                if found != download.sha256:
                    raise _altered(download, found, offline)
            return
        except _InterruptedError as error:
            why = str(error)
        # 4xx 是地址或权限不对，等多久都一样。
        if not why.startswith("HTTP 4") and delay is not None:
            print(_("{why}; trying again in {seconds:g} s").format(why=visible(why), seconds=delay), file=sys.stderr)
            time.sleep(delay)
        else:
            break
    raise UserError(
        "download_failed",
        _("cannot download {url}: {why}").format(url=download.url, why=why),
        _("wanted: {bytes} bytes, sha256 {sha256}").format(bytes=download.bytes, sha256=download.sha256),
        offline,
    )


class _InterruptedError(Exception):
    """这一次没有下完，值得再试。"""


def _stream(download: Download, file: BinaryIO) -> str:
    """把内容写进 `file`，返回 sha256。多于应有的长度就停，免得被无尽的回答写满磁盘。"""
    digest, done = hashlib.sha256(), 0
    try:
        request = urllib.request.Request(download.url, headers={"User-Agent": "nanogpt-workbench"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            while chunk := _read_chunk(answer):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress(_("downloading"), done, download.bytes)
                if done > download.bytes:
                    break
    except urllib.error.HTTPError as error:
        raise _InterruptedError(f"HTTP {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, ValueError) as error:
        raise _InterruptedError(str(getattr(error, "reason", "") or error)) from error
    if done < download.bytes:
        raise _InterruptedError(_("cut off after {done} of {bytes} bytes").format(done=done, bytes=download.bytes))
    return digest.hexdigest()


def _read_chunk(answer: Any) -> bytes:
    """网络一侧的系统错误与磁盘一侧的分开：前者值得重试。"""
    try:
        chunk: bytes = answer.read(1 << 16)
        return chunk
    except OSError as error:
        raise _InterruptedError(str(error)) from error


# 内容不对多半是登录页或被替换的文件，再下一次也一样，所以不重试。
def _altered(download: Download, found: str, offline: str) -> UserError:
    return UserError(
        "download_altered",
        _("the download does not match its checksum and was discarded"),
        _("{url}: expected sha256 {expected}, got {found}").format(
            url=download.url, expected=download.sha256, found=found
        ),
        offline,
    )
