"""The text of HTML pages by trafilatura (Barbaresi 2021), in a child process that can be killed.

A page that takes a parser minutes, or gigabytes, or crashes it, costs its limit and nothing else: the child dies, the page
is rejected with a reason, and the next page gets a new child.
"""

from __future__ import annotations

import contextlib
import signal
import struct
import subprocess
import sys

from lianlu.data.thresholds import Verdict


class HtmlExtractor:
    """Takes pages, gives texts; the child starts with the first page and lives until `close`."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._child: subprocess.Popen[bytes] | None = None

    def extract(self, page: bytes) -> str | Verdict:
        """The article of a page, or why there is none."""
        child = self._child or self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(struct.pack("<Q", len(page)) + page)
            child.stdin.flush()
            header = child.stdout.read(8)
            raw = child.stdout.read(struct.unpack("<Q", header)[0]) if len(header) == 8 else b""
        except BrokenPipeError:
            header, raw = b"", b""
        if len(header) < 8:
            return self._autopsy(child)
        return raw.decode() if raw else Verdict("extract.nothing_found", 0, 1)

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._bury(self._child)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "lianlu.data.html_child", str(self._limit_s)]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return self._child

    def _autopsy(self, child: subprocess.Popen[bytes]) -> Verdict:
        code = self._bury(child)
        if code == -signal.SIGPROF:
            return Verdict("extract.max_seconds", "over", self._limit_s)
        return Verdict("extract.crashed", f"signal {-code}" if code < 0 else f"exit code {code}", "a parser that survives")

    def _bury(self, child: subprocess.Popen[bytes]) -> int:
        self._child = None
        code = child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return code
