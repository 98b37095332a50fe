"""Where records of a web archive begin, so that reading can go on after damage: in a plain file, or in members of gzip."""

from __future__ import annotations

import re
import zlib
from typing import IO

from lianlu.formats.gzip_members import GzipMembers

GZIP = b"\x1f\x8b"
_MEMBER, _RECORD, _HEAD = re.compile(rb"\x1f\x8b\x08"), re.compile(rb"WARC/1\.[01]\r?\n"), b"WARC/"
_LONGEST = 10
_PIECE_BYTES, _PEEKED_BYTES = 1 << 20, 4096


class Plain:
    """An archive that is not packed; places are those of the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def stream(self, place: int) -> IO[bytes]:
        """The archive from a place on."""
        self._file.seek(place)
        return self._file

    def after(self, place: int, record: int | None) -> int | None:
        """Where to go on when reading from `place` broke off, after the record that began at `record` if there was one."""
        return _found(self._file, _RECORD, (place if record is None else record) + 1)


class Packed:
    """An archive of gzip members; places are those of the packed file, and where records begin those of what is unpacked."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._members = GzipMembers(file)

    def stream(self, place: int) -> GzipMembers:
        """The archive from a place on, unpacked."""
        self._file.seek(place)
        self._members = GzipMembers(self._file)
        return self._members

    def after(self, place: int, record: int | None) -> int | None:
        """The next member that holds a record, after that of `record`; without one, after the member that was being unpacked."""
        found: int | None = max(place, self._members.member_of(self._members.tell() if record is None else record))
        while found is not None:
            found = _found(self._file, _MEMBER, found + 1)
            if found is not None and self._holds_record(found):
                break
        return found

    def _holds_record(self, place: int) -> bool:
        self._file.seek(place)
        try:
            return zlib.decompressobj(31).decompress(self._file.read(_PEEKED_BYTES), len(_HEAD)) == _HEAD
        except zlib.error:
            return False


def _found(file: IO[bytes], mark: re.Pattern[bytes], place: int) -> int | None:
    """Where a mark stands next in a file."""
    file.seek(place)
    piece = b""
    while more := file.read(_PIECE_BYTES):
        rest = piece[1 - _LONGEST :]
        piece = rest + more
        if found := mark.search(piece):
            return place - len(rest) + found.start()
        place += len(more)
    return None
