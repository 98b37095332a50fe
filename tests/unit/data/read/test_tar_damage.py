"""Damage in a tar: what stands before it is read, and no damage looks like the end of the archive."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
import zlib
from pathlib import Path

import pytest
import zstandard

from lianlu.data.read.raw import Raw
from lianlu.data.read.sources import expand, list_files

PACKERS = {"tar": bytes, "tar.gz": gzip.compress, "tar.zst": zstandard.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}
COUNT = 60


def whole(form: int = tarfile.PAX_FORMAT, first: int = 0) -> bytes:
    choose, packed = random.Random(first), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as file:
        for number in range(first, first + COUNT):
            content = choose.randbytes(choose.randint(1, 1500)).hex().encode()
            info = tarfile.TarInfo("d" * choose.choice([1, 90, 150]) + f"/{number}.txt")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def members(path: Path) -> tuple[list[Raw], list[Raw]]:
    found = list(expand(list_files(path).raws, ("text",), 100_000))
    return [raw for raw in found if raw.verdict is None], [raw for raw in found if raw.verdict is not None]


def starts(content: bytes) -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(content)) as file:
        return [info.offset for info in file]


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_header_that_is_damaged_is_no_end(tmp_path: Path, suffix: str) -> None:
    content = bytearray(whole())
    place = starts(content)[20]
    content[place + 3] ^= 1
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(PACKERS[suffix](bytes(content)))
    read, rejected = members(path)
    assert len(read) == 20
    assert [raw.id for raw in rejected] == [f"a.{suffix}#21"]
    assert rejected[0].verdict
    assert (rejected[0].verdict.rule, rejected[0].verdict.value) == (
        "read.damaged",
        "damaged archive or unreadable: bad checksum",
    )


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("shift", [0, 100, 512])
def test_a_tar_cut_anywhere_says_so(tmp_path: Path, form: int, shift: int) -> None:
    content = whole(form)
    places = starts(content)
    (tmp_path / "a.tar").write_bytes(content[: places[30] + shift])
    read, rejected = members(tmp_path / "a.tar")
    assert len(read) == 30
    assert [raw.verdict.rule for raw in rejected if raw.verdict] == ["read.damaged"]


def test_what_stands_after_the_end_is_told(tmp_path: Path) -> None:
    content = whole()
    for rest in (whole(first=100), b"junk", bytes(100_000) + b"x"):
        (tmp_path / "a.tar").write_bytes(content + rest)
        read, rejected = members(tmp_path / "a.tar")
        assert len(read) == COUNT
        assert ["more after its end" in str(raw.verdict) for raw in rejected] == [True]
    (tmp_path / "a.tar").write_bytes(content + bytes(100_000))
    assert [len(part) for part in members(tmp_path / "a.tar")] == [COUNT, 0]
    zeroed = content[: starts(content)[10]] + bytes(512) + content[starts(content)[10] + 512 :]
    (tmp_path / "a.tar").write_bytes(zeroed)
    assert [len(part) for part in members(tmp_path / "a.tar")] == [10, 1]


def test_a_wrong_sum_at_the_end_of_a_gzip_is_told_and_costs_no_member(tmp_path: Path) -> None:
    packed = gzip.compress(whole())
    (tmp_path / "a.tar.gz").write_bytes(packed[:-8] + bytes(8))
    read, rejected = members(tmp_path / "a.tar.gz")
    assert len(read) == COUNT
    assert [raw.verdict.rule for raw in rejected if raw.verdict] == ["read.damaged"]


@pytest.mark.parametrize("seed", range(12))
def test_every_member_before_the_break_of_a_gzip_is_read(tmp_path: Path, seed: int) -> None:
    choose, content = random.Random(seed), whole()
    packed = bytearray(gzip.compress(content))
    place = choose.randrange(100, len(packed) - 100)
    if seed % 2:
        packed[place : place + 8] = bytes(8)
    else:
        del packed[place:]
    (tmp_path / "a.tar.gz").write_bytes(packed)
    safe, unpacker = 0, zlib.decompressobj(31)
    try:
        for byte in packed[:place]:
            safe += len(unpacker.decompress(bytes([byte])))
    except zlib.error:
        pass
    ends = [*starts(content)[1:], len(content)]
    read, rejected = members(tmp_path / "a.tar.gz")
    assert len(read) >= sum(end <= safe for end in ends)
    assert rejected
