"""The body of an HTTP answer as it lies in a web archive: chunks joined, packing undone, characters in UTF-8.

Of a body that unpacks to more than the limit no more than that is ever held. Crawlers that store bodies unpacked leave the
header behind, so that a body which does not begin like a packed one is taken as it is. A body that breaks off is a page that
breaks off, as it is for browsers.
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Mapping

import zstandard

from lianlu.data.rules.thresholds import Verdict

_CHUNK = re.compile(rb"\s*([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]{0,1000})?\r?\n")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_SNIFFED_BYTES = 1000
_WIDER = {
    "gb2312": "gb18030", "gbk": "gb18030", "iso8859-1": "cp1252", "ascii": "cp1252", "shift_jis": "cp932", "euc_kr": "cp949",
    "big5": "big5hkscs",
}  # fmt: skip
"""What browsers take for encodings that pages name and go beyond (https://encoding.spec.whatwg.org)."""
_ESCAPED = ("iso2022", "hz")
"""Encodings whose bytes are all ASCII."""
_DAMAGE = (zlib.error, zstandard.ZstdError, EOFError, ValueError)


def decoded(body: bytes, headers: Mapping[str, str], max_bytes: int) -> bytes | Verdict:
    """The content of a body, or why it cannot be had."""
    told = {key.lower(): value.strip().lower() for key, value in headers.items()}
    if told.get("transfer-encoding") == "chunked":
        body = _joined(body)
    encoding = told.get("content-encoding", "")
    content = body
    try:
        for layer in reversed(encoding.split(",")):
            content = _unpacked(content, layer.strip(), max_bytes + 1)
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
        return _gunzipped(body, max_bytes)
    if encoding == "deflate":
        return _inflated(body, max_bytes)
    if encoding == "zstd" and body.startswith(_ZSTD):
        return zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(body).read(max_bytes)
    if encoding == "br":
        return _brotli(body, max_bytes)
    return body


def _gunzipped(body: bytes, max_bytes: int) -> bytes:
    """All members of a body; after the first, what is none is left out, as browsers do."""
    content = b""
    while body.startswith(_GZIP) and len(content) < max_bytes:
        member = zlib.decompressobj(31)
        content += member.decompress(body, max_bytes - len(content))
        body = member.unused_data
    return content


def _inflated(body: bytes, max_bytes: int) -> bytes:
    """Deflate, with the zlib header that the standard asks for or without it, or not packed at all."""
    for window in (15, -15):
        try:
            return zlib.decompressobj(window).decompress(body, max_bytes)
        except zlib.error:
            continue
    return _stored(body)


def _stored(body: bytes) -> bytes:
    """A body that was stored unpacked. Raises: ValueError if it is no text."""
    if _NO_TEXT.search(body[:_SNIFFED_BYTES]):
        raise ValueError("damaged")
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
        return _stored(body)  # Brotli has no mark at its beginning
    return b"".join(parts)


def in_utf8(content: bytes, charset: str | None) -> bytes:
    """Text in UTF-8 where another encoding is named for it and the bytes are none; else the bytes as they are."""
    name = _known(charset or "")
    if not name or (not name.startswith(_ESCAPED) and _is_utf8(content)):
        return content
    return content.decode(_WIDER.get(name, name), "replace").encode("utf-8", "replace")


def _known(charset: str) -> str:
    """The codec for the name of an encoding; empty if there is none, or it turns ASCII into something else."""
    try:
        name = codecs.lookup(charset).name
        return name if b"<p>\xff".decode(name, "replace").startswith("<p>") else ""
    except (LookupError, ValueError):
        return ""


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
