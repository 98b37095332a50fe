"""The stream that unpacks a packed file piece by piece: what its formats have in common."""

from __future__ import annotations

import io
from abc import abstractmethod
from typing import Any

PIECE_BYTES = 1 << 12
"""Packed bytes that are unpacked at once. A Zstandard block of 4 bytes can hold 128 KiB, so these hold 128 MiB at most."""


class Unpacking(io.RawIOBase):
    """Gives what `unpack` puts into `_ready`."""

    _ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            self._ready = memoryview(b"")  # the last piece goes before the next is made
            if not self.unpack():
                return 0
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    @abstractmethod
    def unpack(self) -> bool:
        """Unpack one more piece, which may come to nothing; False at the end of the file."""
