"""The process that takes articles out of HTML pages for `html_extractor`: one page after another over a pipe.

Each page gets a limit of processor time, kept by the kernel: an interval timer whose signal is left at its default, which
ends the process even inside a C parser. The parent sees the pipe close and starts another. Memory is limited likewise.

    stdin    8 bytes of length, then the page; again and again
    stdout   8 bytes of length, then the text as UTF-8 (empty: nothing found)
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import struct
import sys

MAX_MEMORY_BYTES = 4 << 30


def serve(limit_s: float) -> None:
    """Answer pages until the pipe closes."""
    import trafilatura

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, answer = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while header := source.read(8):
        page = source.read(struct.unpack("<Q", header)[0])
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        text = trafilatura.extract(whole(page), include_comments=False, include_tables=True) or ""
        signal.setitimer(signal.ITIMER_PROF, 0)
        raw = text.encode("utf-8", "replace")
        answer.write(struct.pack("<Q", len(raw)) + raw)
        answer.flush()


def whole(page: bytes) -> bytes:
    """The page, or a fragment put into one: trafilatura takes text without an html tag for no page at all."""
    head = page[:2000].lower()
    return page if b"<html" in head or b"\0" in head else b"<html><body>" + page + b"</body></html>"


if __name__ == "__main__":
    serve(float(sys.argv[1]))
