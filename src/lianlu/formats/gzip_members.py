"""Gzip files unpacked so that damage costs little: all that stands before the first bad byte is given, then it is told.

Python's own reader gives nothing of the block of input in which it finds damage, which may hold hundreds of records. This one
unpacks such a block again byte by byte. Members (a file may have many, as web archives and `cat a.gz b.gz` do) follow each
other; zeros after the last are padding.
"""

from __future__ import annotations

import zlib
from typing import IO, Any

from lianlu.formats.unpacking import PIECE_BYTES, Unpacking

_GZIP = 31


class GzipMembers(Unpacking):
    """What a gzip file holds, from the place where `raw` stands.

    Reading raises zlib.error where the file is damaged and EOFError where it is cut off, after all before it has been read.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._member: Any = None
        self._input = b""
        self._damage: zlib.error | None = None
        self._packed, self._unpacked = raw.tell(), 0
        self._starts: list[tuple[int, int]] = []

    def tell(self) -> int:
        """How much has been given, in unpacked bytes."""
        return self._unpacked - len(self._ready)

    def member_of(self, place: int) -> int:
        """Where the member begins, in the file, that holds this place of what is unpacked; places may only grow."""
        while len(self._starts) > 1 and self._starts[1][0] <= place:
            del self._starts[0]
        return self._starts[0][1] if self._starts else 0

    def unpack(self) -> bool:
        if self._damage is not None:
            raise self._damage
        piece = self._input or self._raw.read(PIECE_BYTES)
        self._input = b""
        if self._member is None and self._starts:
            padding = len(piece) - len(piece.lstrip(b"\0"))
            piece, self._packed = piece[padding:], self._packed + padding
            if padding and not piece:
                return True
        if not piece:
            if self._member is not None:
                raise EOFError("the last gzip member is cut off")
            return False
        if self._member is None:
            self._member = zlib.decompressobj(_GZIP)
            self._starts.append((self._unpacked, self._packed))
        self._take(piece)
        return True

    def _take(self, piece: bytes) -> None:
        before = self._member.copy()
        try:
            ready = self._member.decompress(piece)
        except zlib.error:
            ready = self._rescued(before, piece)
        if self._member.eof:
            self._input, self._member = self._member.unused_data, None
        self._packed += len(piece) - len(self._input)
        self._unpacked += len(ready)
        self._ready = memoryview(ready)

    def _rescued(self, member: Any, piece: bytes) -> bytes:
        """What can be unpacked of a piece that has damage in it."""
        parts = []
        try:
            for place in range(len(piece)):
                parts.append(member.decompress(piece[place : place + 1]))
        except zlib.error as error:
            self._damage = error
        return b"".join(parts)
