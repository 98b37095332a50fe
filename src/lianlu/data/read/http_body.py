"""The body of an HTTP answer as it lies in a web archive: chunks joined, packing undone, characters in UTF-8.

Of a body that unpacks to more than the limit no more than that is ever held. Crawlers that store bodies unpacked leave the
header behind, so that a body which does not begin like a packed one is taken as it is.
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Mapping

import zstandard

from lianlu.data.rules.thresholds import Verdict

_CHUNK = re.compile(rb"\s*([0-9a-fA-F]{1,15})[^\r\n]{0,1000}\r?\n")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_DAMAGE = (zlib.error, zstandard.ZstdError, EOFError, ValueError)


def decoded(body: bytes, headers: Mapping[str, str], max_bytes: int) -> bytes | Verdict:
    """The content of a body, or why it cannot be had."""
    told = {key.lower(): value.strip().lower() for key, value in headers.items()}
    if told.get("transfer-encoding") == "chunked":
        body = _joined(body)
    encoding = told.get("content-encoding", "")
    try:
        content = _unpacked(body, encoding, max_bytes + 1)
    except _DAMAGE as error:
        return Verdict("read.damaged", f"{encoding}: {error}"[:200], "a whole body")
    if len(content) > max_bytes:
        return Verdict("read.max_bytes", f"over {max_bytes}", max_bytes)
    return content if content.strip() else Verdict("read.empty", 0, 1)


def _joined(body: bytes) -> bytes:
    """The chunks of a body one after another; a body that was stored without its chunks as it is."""
    parts, place = [], 0
    while found := _CHUNK.match(body, place):
        size = int(found[1], 16)
        parts.append(body[found.end() : found.end() + size])
        place = found.end() + size
        if not size:
            break
    return b"".join(parts) if parts else body


def _unpacked(body: bytes, encoding: str, max_bytes: int) -> bytes:
    if encoding in ("gzip", "x-gzip") and body.startswith(_GZIP):
        return zlib.decompressobj(31).decompress(body, max_bytes)
    if encoding == "deflate":
        return _inflated(body, max_bytes)
    if encoding == "zstd" and body.startswith(_ZSTD):
        return zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(body).read(max_bytes)
    if encoding == "br":
        return _brotli(body, max_bytes)
    return body


def _inflated(body: bytes, max_bytes: int) -> bytes:
    """Deflate, with the zlib header that the standard asks for or without it, or not packed at all."""
    for window in (15, -15):
        try:
            return zlib.decompressobj(window).decompress(body, max_bytes)
        except zlib.error:
            continue
    return body


def _brotli(body: bytes, max_bytes: int) -> bytes:
    import brotli  # type: ignore[import-untyped]  # comes with FastWARC

    unpacker, parts, left = brotli.Decompressor(), [], max_bytes
    try:
        piece = unpacker.process(body, output_buffer_limit=left)
        while piece and left > 0:
            parts.append(piece)
            left -= len(piece)
            piece = unpacker.process(b"", output_buffer_limit=left) if left > 0 and not unpacker.is_finished() else b""
    except brotli.error:
        return body  # Brotli has no mark at its beginning: most likely it was stored unpacked
    return b"".join(parts)


def in_utf8(content: bytes, charset: str | None) -> bytes:
    """Text in UTF-8 where the answer's header names another encoding and the bytes are no UTF-8; else the bytes as they are."""
    try:
        content.decode()
    except UnicodeDecodeError:
        try:
            return content.decode(codecs.lookup(charset or "utf-8").name, "replace").encode() if charset else content
        except (LookupError, UnicodeError):
            return content
    return content
