from __future__ import annotations

import gzip
import json
import resource
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lianlu.core.errors import DataError
from lianlu.formats.jsonl import Record, Rejected, is_jsonl, read_records, read_values, write_values

VALUES = [{"text": f"line {number} 你好"} for number in range(2000)]


def split(path: Path, **options: int) -> tuple[list[Record], list[Rejected]]:
    items = list(read_records(path, **options))  # type: ignore[arg-type]
    return [i for i in items if isinstance(i, Record)], [i for i in items if isinstance(i, Rejected)]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_written_values_are_read_again(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    assert write_values(path, VALUES) == len(VALUES)
    assert [value for _, value in read_values(path)] == VALUES
    assert path.read_bytes()[:2] == {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5"}.get(path.suffix, b'{"')


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_equal_values_give_equal_bytes(tmp_path: Path, suffix: str) -> None:
    for name in "ab":
        write_values(tmp_path / f"{name}{suffix}", VALUES)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_a_truncated_archive_gives_what_is_there_and_one_rejection(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a{suffix}"
    values = [{"text": str(pow(3, number * 977, 10**200))} for number in range(3000)]
    write_values(path, values)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    records, rejected = split(path)
    assert [r.value for r in records] == values[: len(records)]
    assert len(records) > share * len(values) / 2
    assert [r.reason for r in rejected] == ["truncated archive"]
    assert rejected[0].line == len(records) + 1


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_garbage_with_an_archive_name_is_rejected(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b'{"text": "plain"}\n' * 100)
    records, rejected = split(path)
    assert not records
    assert "damaged" in rejected[0].reason


def test_several_frames_and_members_are_one_stream(tmp_path: Path) -> None:
    line = b'{"text": "a"}\n'
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(line) * 3)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(line) * 3)
    assert len(split(tmp_path / "a.jsonl.zst")[0]) == len(split(tmp_path / "a.jsonl.gz")[0]) == 3


def test_each_bad_line_is_named_and_the_good_ones_survive(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    lines = [
        b'\xef\xbb\xbf{"text": "one"}',
        b'{"text": "broken',
        b'{"text": "\xff\xfe"}',
        b"[1, 2]",
        b"",
        b'{"body": "no text"}',
        b'{"text": 5}',
        b'{"text": "half a pair \\ud83d"}',
        b'{"text": "a whole pair \\ud83d\\ude00"}',
        b"[" * 100_000,
        b'{"content": "last, without a line end"}',
    ]
    path.write_bytes(b"\n".join(lines))
    records, rejected = split(path)
    assert [(r.line, r.text) for r in records] == [(1, "one"), (9, "a whole pair \U0001f600"), (11, "last, without a line end")]
    assert [r.line for r in rejected] == [2, 3, 4, 6, 7, 8, 10]
    assert [r.reason.split(":")[0].split(" (")[0] for r in rejected] == [
        "not JSON",
        "not UTF-8",
        "not a JSON object",
        "no text in text or content",
        "no text in text or content",
        "not JSON",
        "not JSON",
    ]


def test_a_line_above_the_limit_is_skipped_without_holding_it(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with open(path, "wb") as file:
        file.write(b'{"text": "before"}\n{"text": "')
        for _ in range(60):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"text": "after"}\n')
    tracemalloc.start()
    records, rejected = split(path, max_line_bytes=1_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [r.text for r in records] == ["before", "after"]
    assert (rejected[0].line, rejected[0].num_bytes) == (2, 60_000_000 + 13)
    assert "limit of 1,000,000 bytes" in rejected[0].reason
    assert peak < 8_000_000


def test_a_zstandard_bomb_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.zst"
    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    packed = b"".join(compressor.compress(b"a" * 10_000_000) for _ in range(40)) + compressor.flush()
    path.write_bytes(packed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, rejected = split(path, max_line_bytes=1_000_000)
    assert rejected[0].num_bytes == 400_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_a_header_of_the_future_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"lianlu": "documents", "format": 2}\n{"text": "a"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl has format 2"):
        list(read_records(path))
    path.write_text('{"lianlu": "conversations", "format": 1}\n')
    with pytest.raises(DataError, match="holds conversations"):
        list(read_records(path))


def test_strict_reading_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\nnope\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: not JSON"):
        list(read_values(path))
    with pytest.raises(DataError, match="cannot read"):
        list(read_values(tmp_path / "absent.jsonl"))


def test_names() -> None:
    assert [is_jsonl(Path(n)) for n in ("a.jsonl", "a.JSONL.GZ", "a.jsonl.zst", "a.json", "a.gz")] == [
        True,
        True,
        True,
        False,
        False,
    ]


@given(st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b"")), max_size=12))
def test_every_line_is_either_a_record_or_a_rejection(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    seen = [item.line for item in read_records(path)]
    assert seen == [number for number, line in enumerate(lines, 1) if line.strip()]


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text() | st.integers() | st.none(), max_size=3), max_size=5))
def test_any_object_goes_both_ways(tmp_path_factory: pytest.TempPathFactory, values: list[dict[str, object]]) -> None:
    path = tmp_path_factory.mktemp("both") / "a.jsonl.gz"
    rows = [{"text": "t", **value} for value in values]
    write_values(path, rows)
    assert [value for _, value in read_values(path)] == [json.loads(json.dumps(row)) for row in rows]
