"""Getting a file over the network so that a broken line costs nothing: streaming with resume, and progress by size.

`stream` fetches one URL into a `.part` file beside its target and continues there after an interruption (HTTP ranges).
`watch` runs a downloader that is not ours (pip, huggingface_hub) and shows how the folder it fills grows. Used by
`model.pull`, which checks the bytes; nothing here knows what they mean. Certificates are the system's, or those that
`SSL_CERT_FILE` or `PIP_CERT` names; proxies are those of the environment.
"""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx

from lianlu.core import console
from lianlu.core.files import disk_errors

MEGABYTE = 1e6
MAX_FAILURES = 4
PAUSE_S = 1.0
T = TypeVar("T")


def stream(url: str, target: Path, label: str) -> None:
    """Fetch `url` into `target`, going on where an earlier attempt stopped; a lost connection is tried again
    until it fails several times without a byte in between.

    Raises: httpx.HTTPStatusError for a refusal, httpx.TransportError when the line stays down, ArtifactError for the disk.
    """
    part = target.with_name(target.name + ".part")
    with disk_errors(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    with httpx.Client(verify=_certificates(), follow_redirects=True, timeout=httpx.Timeout(60, connect=20)) as http:
        failures = 0
        while failures < MAX_FAILURES:
            before = _size(part)
            try:
                _fetch_rest(http, url, part, label)
                break
            except httpx.TransportError:
                failures = 1 if _size(part) > before else failures + 1
                if failures == MAX_FAILURES:
                    raise
                time.sleep(PAUSE_S * failures)
    with disk_errors(target):
        os.replace(part, target)


def _fetch_rest(http: httpx.Client, url: str, part: Path, label: str) -> None:
    """Append what is missing of `url` to `part`; starts over where the server does not know ranges."""
    done = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    with http.stream("GET", url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if response.headers.get("content-range") != f"bytes */{done}":
                part.unlink(missing_ok=True)
                _fetch_rest(http, url, part, label)
            return
        response.raise_for_status()
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            done = 0
        length = response.headers.get("content-length")
        total = (done + int(length)) / MEGABYTE if length else None
        with (
            disk_errors(part),
            open(part, "ab" if done else "wb") as file,
            console.progress(label, total=total, unit="MB", done=done / MEGABYTE) as bar,
        ):
            for chunk in response.iter_raw():
                file.write(chunk)
                bar.advance(len(chunk) / MEGABYTE)


def _certificates() -> ssl.SSLContext:
    """The system's certificates, and those that the environment or pip is told to trust."""
    context = ssl.create_default_context()
    for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"):
        path = os.environ.get(name, "")
        if os.path.isfile(path):
            context.load_verify_locations(path)
    return context


def watch(label: str, folder: Path, total_bytes: int, job: Callable[[], T]) -> T:
    """Run `job` and show the growth of `folder` meanwhile; returns or raises what the job does."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(job())
        except BaseException as error:
            failure.append(error)

    begin, seen = _folder_size(folder), 0
    thread = threading.Thread(target=work, name=label, daemon=True)
    with console.progress(label, total=total_bytes / MEGABYTE or None, unit="MB") as bar:
        thread.start()
        while thread.is_alive():
            thread.join(0.25)
            grown = max(_folder_size(folder) - begin, seen)
            bar.advance((grown - seen) / MEGABYTE)
            seen = grown
    if failure:
        raise failure[0]
    return outcome[0]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _folder_size(folder: Path) -> int:
    """Bytes of the regular files below a folder that others are writing to."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue  # renamed or removed between listing and looking
    return total
