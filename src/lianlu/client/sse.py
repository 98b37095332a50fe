"""Server-sent events out of a byte stream, however the network cuts it.

`client.openai` reads streamed replies through this. Source: WHATWG HTML, section 9.2 (event stream interpretation).
Limits: `id` and `retry` fields are skipped; an event that the end of the stream cuts off is still given out, since some
servers leave out the last empty line (the reader of the JSON inside notices a torn one).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lianlu.core.errors import RequestError

MAX_LINE_BYTES = 64 << 20


@dataclass(frozen=True)
class ServerEvent:
    """One event: its type (`message` unless named) and its data lines joined by line feeds."""

    kind: str
    data: str


def lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Cut bytes into lines at LF, CRLF or CR, wherever the chunks break. Raises: RequestError for an endless line."""
    buffer = bytearray()
    skip_lf = False
    for chunk in chunks:
        begin = 1 if skip_lf and chunk.startswith(b"\n") else 0
        if chunk:
            skip_lf = chunk.endswith(b"\r")
        # One CR at the end of a chunk ends the line at once; the LF that may open the next chunk belongs to it.
        parts = chunk[begin:].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for part in parts[:-1]:
            yield (buffer + part).decode("utf-8", errors="replace")
            buffer.clear()
        buffer += parts[-1]
        if len(buffer) > MAX_LINE_BYTES:
            raise RequestError(f"the server sent a line of more than {MAX_LINE_BYTES} bytes", hint="is this an OpenAI API?")
    if buffer:
        yield buffer.decode("utf-8", errors="replace")


def events(chunks: Iterable[bytes]) -> Iterator[ServerEvent]:
    """The events of a stream in order; comments and events without data are left out."""
    kind = "message"
    data: list[str] = []
    first = True
    for raw in lines(chunks):
        line = raw.removeprefix("\ufeff") if first else raw
        first = False
        if not line:
            if data:
                yield ServerEvent(kind, "\n".join(data))
            kind, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            kind = value
    if data:
        yield ServerEvent(kind, "\n".join(data))
