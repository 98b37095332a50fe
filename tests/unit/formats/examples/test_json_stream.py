"""JSON arrays and values behind one another, found without holding the file."""

from __future__ import annotations

import contextlib
import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lianlu.formats.examples import json_stream
from lianlu.formats.examples.json_stream import read_elements
from lianlu.formats.examples.record import RecordError, parsed

TEXT = st.text(alphabet='ab"\\{}[],:\n\r 你😀\ud83d', max_size=12)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
JSON = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8)
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def elements(path: Path, text: str | bytes, **options: int) -> list[Any]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    found = list(read_elements(path, **options))
    assert [raw.place for raw in found] == list(range(len(found)))
    return found


def values(path: Path, text: str | bytes) -> list[Any]:
    found = elements(path, text)
    assert not any(raw.reason for raw in found)
    return [json.loads(raw.data) for raw in found]


@FEW
@given(items=st.lists(JSON, max_size=6), indent=st.sampled_from([None, 0, 2]), piece=st.integers(1, 40))
def test_an_array_gives_its_elements_however_it_is_read(items: list[Any], indent: int | None, piece: int, tmp_path: Path) -> None:
    text = json.dumps(items, indent=indent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_READ_BYTES", piece)
        assert values(tmp_path / "a.json", text) == items
        assert values(tmp_path / "a.json", b"\xef\xbb\xbf \r\n" + text.replace("\n", "\r\n").encode() + b"\r\n ") == items


@FEW
@given(items=st.lists(st.dictionaries(TEXT, JSON, max_size=3), max_size=6), piece=st.integers(1, 40))
def test_objects_behind_one_another(items: list[Any], piece: int, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_READ_BYTES", piece)
        assert values(tmp_path / "a.json", "\n\n".join(json.dumps(item, indent=1) for item in items)) == items
        assert values(tmp_path / "a.json", "".join(json.dumps(item) for item in items)) == items


@pytest.mark.parametrize(
    "broken", ['{"a" 1}', "{'a': 1}", '{"a": 1,}', '{"a": [1}]}', "nul", "foo bar", "1.2.3", '{"a": NULL}', "}", "undefined"]
)
def test_a_broken_element_is_the_only_one_that_is_lost(tmp_path: Path, broken: str) -> None:
    found = elements(tmp_path / "a.json", f'[{{"a": 1}},\n {broken},\n {{"a": "]"}}, {{"a": 3}}]')
    good = []
    for raw in found:
        with contextlib.suppress(RecordError):
            good.append(parsed(raw))
    assert good == [{"a": 1}, {"a": "]"}, {"a": 3}]
    assert not any(raw.reason for raw in found)
    assert 4 <= len(found) <= 5


@pytest.mark.parametrize("end", ["", ",", ', {"a"', ', {"a": "x', ', {"a": [1, 2', ', "'])
def test_a_truncated_array_says_so(tmp_path: Path, end: str) -> None:
    found = elements(tmp_path / "a.json", '[{"a": 1}, {"a": 2}' + end)
    assert [json.loads(raw.data) for raw in found[:2]] == [{"a": 1}, {"a": 2}]
    assert len(found) == 3
    assert "truncated" in found[2].reason or "broken off" in found[2].reason


def test_what_follows_an_array_is_told(tmp_path: Path) -> None:
    found = elements(tmp_path / "a.json", '[{"a": 1}]\n[{"a": 2}]')
    assert [raw.reason for raw in found] == ["", "it follows the end of the array and is not read"]


def test_an_element_above_the_limit_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_READ_BYTES", 100)
    found = elements(tmp_path / "a.json", json.dumps([{"a": "x"}, {"a": "x" * 5000}, {"a": "x"}]), max_chars=1000)
    assert len(found) == 2
    assert found[1].reason == "above the limit of 1,000 characters; nothing after it is read"


def test_a_truncated_archive_gives_what_is_there(tmp_path: Path) -> None:
    items = [{"a": str(pow(3, number, 10**150))} for number in range(500)]
    packed = gzip.compress(json.dumps(items).encode())
    found = elements(tmp_path / "a.json.gz", packed[: len(packed) // 2])
    assert found[-1].reason
    assert [json.loads(raw.data) for raw in found[:-1]] == items[: len(found) - 1]


def test_bytes_that_are_no_utf8_spoil_one_element(tmp_path: Path) -> None:
    found = elements(tmp_path / "a.json", b'[{"a": "\xff"}, {"a": "\xe4\xbd\xa0"}]')
    assert [json.loads(raw.data)["a"] for raw in found] == ["\udcff", "你"]


def test_an_empty_file_and_an_empty_array_hold_nothing(tmp_path: Path) -> None:
    for text in ("", "  \n", "[]", "[ \n]", "\ufeff"):
        assert elements(tmp_path / "a.json", text) == []


def test_memory_does_not_grow_with_the_array(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"a": "x" * 1000, "n": number} for number in range(20_000)], indent=1))
    tracemalloc.start()
    assert sum(1 for _ in read_elements(path)) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 20e6
    assert peak < 8e6


@pytest.mark.parametrize("number", ["0.0", "-1.5e-3", "1E5", "12345678901234567890", "-0"])
@pytest.mark.parametrize("piece", range(1, 12))
def test_numbers_are_not_taken_for_whole_where_the_reading_pauses(
    tmp_path: Path, number: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "_READ_BYTES", piece)
    found = elements(tmp_path / "a.json", f"[{number}, {number}]")
    assert [raw.data for raw in found] == [number, number]
