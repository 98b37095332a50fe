"""Gzip read so that damage costs no byte before it."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.formats.gzip_members import GzipMembers


def got(packed: bytes) -> tuple[bytes, str]:
    parts, reader = [], GzipMembers(io.BytesIO(packed))
    try:
        while part := reader.read(1000):
            parts.append(part)
    except (EOFError, zlib.error) as error:
        return b"".join(parts), type(error).__name__
    return b"".join(parts), ""


@given(st.lists(st.binary(max_size=20_000), max_size=4), st.integers(0, 5000))
def test_members_follow_each_other_and_zeros_are_padding(parts: list[bytes], padding: int) -> None:
    packed = b"".join(map(gzip.compress, parts))
    assert got(packed + bytes(padding if parts else 0)) == (b"".join(parts), "")


@given(st.integers(0, 10**6), st.booleans())
def test_no_byte_before_the_damage_is_lost(seed: int, cut: bool) -> None:
    choose = random.Random(seed)
    packed = bytearray(gzip.compress(choose.randbytes(5000).hex().encode()))
    place = choose.randrange(20, len(packed))
    packed[place:] = b"" if cut else bytes(byte ^ 0xFF for byte in packed[place:])
    safe, unpacker = b"", zlib.decompressobj(31)
    with contextlib.suppress(zlib.error):
        for byte in packed:
            safe += unpacker.decompress(bytes([byte]))
    given, told = got(bytes(packed))
    assert given == safe
    assert told == "EOFError" if cut else told in ("EOFError", "error")  # a damaged length may ask for more than there is


@pytest.mark.parametrize(
    "packed", [b"plain text", b"\x1f\x8b", gzip.compress(b"x")[:-1], gzip.compress(b"x") + b"junk", b"\0" * 20]
)
def test_what_is_no_gzip_is_told(packed: bytes) -> None:
    assert got(packed)[1] in ("error", "EOFError")


def test_where_members_begin_is_known() -> None:
    first, second, third = (gzip.compress(bytes([65 + number]) * 10_000) for number in range(3))
    reader = GzipMembers(io.BytesIO(first + second + bytes(7) + third))
    reader.readall()
    places = [reader.member_of(place) for place in (0, 9999, 10_000, 20_000, 29_999)]
    assert places == [0, 0, len(first), len(first + second) + 7, len(first + second) + 7]
