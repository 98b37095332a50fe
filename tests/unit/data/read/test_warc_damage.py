"""Damage in a web archive costs the record it is in; every other record is read, and nothing goes unsaid."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from lianlu.data.read.raw import Raw
from lianlu.data.read.sources import expand, list_files

BODY = b"The ferry left at noon, and nobody on the pier waved. " * 20


def record(number: int, kind: str = "response", length: int | str | None = None, body: bytes = BODY) -> bytes:
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" if kind == "response" else b""
    block = http + random.Random(number).randbytes(40).hex().encode() + body
    told = "application/http; msgtype=response" if http else "text/plain"
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{number}>\r\nWARC-Target-URI: http://e.org/{number}\r\n"
        f"Content-Type: {told}\r\nContent-Length: {len(block) if length is None else length}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def read(path: Path) -> tuple[list[str], list[Raw]]:
    found = list(expand(list_files(path).raws, ("text",), 100_000))
    return [raw.id for raw in found if raw.verdict is None], [raw for raw in found if raw.verdict is not None]


def written(folder: Path, records: list[bytes], packed: bool) -> Path:
    path = folder / ("a.warc.gz" if packed else "a.warc")
    path.write_bytes(b"".join(gzip.compress(one) if packed else one for one in records))
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [len(BODY) - 500, len(BODY) + 700, len(BODY) + 100_000, -5, "x", 10**25, ""])
def test_a_wrong_length_costs_its_own_record(tmp_path: Path, packed: bool, length: int | str) -> None:
    records = [record(number) for number in range(8)]
    records[3] = record(3, length=length)
    found, rejected = read(written(tmp_path, records, packed))
    assert [name for name in found if name != "3"] == ["0", "1", "2", "4", "5", "6", "7"]
    assert rejected or packed  # a member of gzip that ends early ends its record


@pytest.mark.parametrize(
    "harm",
    [
        lambda one: one[: len(one) // 2],
        lambda one: one[:4],
        lambda one: one[:-8] + bytes(8),
        lambda one: one[:60] + bytes(10) + one[70:],
        lambda one: b"junk" * 50,
        lambda one: one[:20] + bytes(byte ^ 0xFF for byte in one[20:]),
    ],
    ids=["half", "begun", "sum", "hole", "junk", "all"],
)
def test_a_damaged_member_costs_its_own_record(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    for place in (3, 7):
        members = [gzip.compress(record(number)) for number in range(8)]
        members[place] = harm(members[place])
        (tmp_path / "a.warc.gz").write_bytes(b"".join(members))
        found, rejected = read(tmp_path / "a.warc.gz")
        assert [name for name in found if name != str(place)] == [str(number) for number in range(8) if number != place]
        assert {raw.verdict.rule for raw in rejected if raw.verdict} == {"read.damaged"}


def test_junk_between_records_is_told_and_passed(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(
        record(0) + b"junk WARC/1.0 of some kind\r\n" * 9 + record(1) + bytes(3_000_000) + record(2)
    )
    found, rejected = read(tmp_path / "a.warc")
    assert found == ["0", "1", "2"]
    assert [raw.verdict.rule for raw in rejected if raw.verdict] == ["read.damaged"] * 2


def test_an_archive_packed_as_one_gives_what_stands_before_the_damage(tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(record(number) for number in range(50)))
    (tmp_path / "a.warc.gz").write_bytes(packed[: len(packed) * 2 // 3])
    found, rejected = read(tmp_path / "a.warc.gz")
    assert 25 < len(found) < 40
    assert len(rejected) == 1


@pytest.mark.parametrize("packed", [False, True])
def test_resources_are_read_and_records_of_no_known_type_are_told(tmp_path: Path, packed: bool) -> None:
    kinds = ["warcinfo", "request", "metadata", "revisit", "resource", "conversion", "continuation", "respons"]
    records = [record(number, kind) for number, kind in enumerate(kinds)] + [record(8).replace(b"WARC-Type", b"WARC-Typo")]
    found, rejected = read(written(tmp_path, records, packed))
    assert found == ["4", "5"]
    assert [(raw.id, raw.verdict.rule, raw.verdict.value) for raw in rejected if raw.verdict] == [
        ("6", "read.record_type", "continuation"), ("7", "read.record_type", "respons"), ("8", "read.record_type", "none"),
    ]  # fmt: skip


def test_packed_and_plain_are_told_by_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(gzip.compress(record(1)) + gzip.compress(record(2)))
    (tmp_path / "b.warc.gz").write_bytes(record(3) + record(4))
    assert read(tmp_path) == (["1", "2", "3", "4"], [])
