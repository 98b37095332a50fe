"""Raw records of every kind of file, streamed, with the place of each."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lianlu.core.errors import DataError
from lianlu.formats import jsonl
from lianlu.formats.documents import Document, write_parquet
from lianlu.formats.examples import files
from lianlu.formats.examples.files import counts_lines, header_kind, is_records, is_text, read_raw, read_text
from lianlu.formats.examples.record import parsed
from lianlu.formats.messages import Conversation, Message, write_conversations

RECORDS = [{"question": f"q{number} 你", "answer": f"a{number}"} for number in range(5)]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS)


def read(path: Path) -> list[dict]:
    return [parsed(raw) for raw in read_raw(path)]


@pytest.mark.parametrize(
    ("name", "data", "places"),
    [
        ("a.jsonl", LINES.encode(), [1, 2, 3, 4, 5]),
        ("a.ndjson", LINES.encode(), [1, 2, 3, 4, 5]),
        ("A.JSONL", LINES.encode(), [1, 2, 3, 4, 5]),
        ("a.json", LINES.encode(), [1, 2, 3, 4, 5]),
        ("crlf.jsonl", b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n\r\n").encode(), [1, 3, 5, 7, 9]),
        ("no_end.jsonl", LINES.rstrip().encode(), [1, 2, 3, 4, 5]),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0), [1, 2, 3, 4, 5]),
        ("a.jsonl.zst", zstandard.compress(LINES.encode()), [1, 2, 3, 4, 5]),
        ("a.json", json.dumps(RECORDS).encode(), [0, 1, 2, 3, 4]),
        ("a.json", b"\xef\xbb\xbf\n" + json.dumps(RECORDS, indent=2).encode(), [0, 1, 2, 3, 4]),
        ("a.json.gz", gzip.compress(json.dumps(RECORDS, indent=2).encode(), mtime=0), [0, 1, 2, 3, 4]),
        ("array.jsonl", json.dumps(RECORDS, indent=2).encode(), [0, 1, 2, 3, 4]),
        ("array.jsonl", json.dumps(RECORDS).encode(), [0, 1, 2, 3, 4]),
        ("pretty.json", "\n".join(json.dumps(record, indent=4) for record in RECORDS).encode(), [0, 1, 2, 3, 4]),
        ("pretty.jsonl", "\n".join(json.dumps(record, indent=4) for record in RECORDS).encode(), [0, 1, 2, 3, 4]),
        ("odd.json", "".join('{"question":\n' + json.dumps(record)[13:] for record in RECORDS).encode(), [0, 1, 2, 3, 4]),
    ],
)
def test_json_in_all_its_clothes(tmp_path: Path, name: str, data: bytes, places: list[int]) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert read(path) == RECORDS
    assert [raw.place for raw in read_raw(path)] == places
    assert counts_lines(path) == (places[0] == 1)
    assert is_records(path)


def test_a_table_gives_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    turns = [[{"role": "user", "content": "x", "weight": None}], [{"role": "user", "content": "y", "weight": 1}]]
    pq.write_table(pa.table({"messages": turns, "id": ["a", None]}), path)
    assert read(path) == [{"messages": turns[0], "id": "a"}, {"messages": turns[1]}]
    assert [raw.place for raw in read_raw(path)] == [0, 1]
    assert not counts_lines(path)


def test_lists_of_messages_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    turns = [{"role": "user", "content": "x"}]
    path.write_text(f"{json.dumps(turns)}\n" * 3)
    assert read(path) == [{"messages": turns}] * 3
    assert counts_lines(path)


def test_headers_of_lianlu(tmp_path: Path) -> None:
    write_conversations(tmp_path / "c.jsonl", [Conversation(id="a", messages=[Message(role="user", content="x")])])
    write_parquet(tmp_path / "d.parquet", [Document(id="a", text="x")])
    assert header_kind(tmp_path / "c.jsonl") == "conversations"
    assert header_kind(tmp_path / "d.parquet") == "documents"
    assert [record["id"] for record in read(tmp_path / "c.jsonl")] == ["a"]
    assert [raw.place for raw in read_raw(tmp_path / "c.jsonl")] == [2]
    (tmp_path / "plain.jsonl").write_text(LINES)
    assert header_kind(tmp_path / "plain.jsonl") == ""
    (tmp_path / "other.jsonl").write_text('{"lianlu": "eval-log", "format": 1}\n')
    with pytest.raises(DataError, match="holds eval-log"):
        header_kind(tmp_path / "other.jsonl")
    (tmp_path / "new.jsonl").write_text('{"lianlu": "conversations", "format": 9}\n')
    with pytest.raises(DataError, match="format 9"):
        header_kind(tmp_path / "new.jsonl")
    (tmp_path / "fake.jsonl").write_text('{"text": "about \\"lianlu\\""}\n')
    assert header_kind(tmp_path / "fake.jsonl") == ""
    assert len(read(tmp_path / "fake.jsonl")) == 1


def test_damaged_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not a whole Parquet file"):
        list(read_raw(tmp_path / "a.parquet"))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES.encode() * 99)[:-40])
    raws = list(read_raw(tmp_path / "a.jsonl.gz"))
    assert raws[-1].reason == "truncated archive"
    assert not any(raw.reason for raw in raws[:-1])
    (tmp_path / "b.json.gz").write_bytes(b"not packed at all")
    assert [raw.reason[:15] for raw in read_raw(tmp_path / "b.json.gz")] == ["damaged archive"]
    with pytest.raises(DataError, match="cannot read"):
        list(read_raw(tmp_path / "absent.jsonl"))


def test_a_line_above_the_limit_is_rejected_and_the_next_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x" * 5000}) + "\n" + '{"text": "y"}\n')
    read_lines = jsonl.read_lines
    monkeypatch.setattr(jsonl, "read_lines", lambda path: read_lines(path, 1000))
    first, second = read_raw(path)
    assert "above the limit" in first.reason
    assert (second.place, parsed(second)) == (2, {"text": "y"})


TEXT = st.text(alphabet="ab 你😀\n", max_size=300)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXT, size=st.integers(4, 50), share=st.floats(0, 1))
def test_a_text_comes_in_parts_that_lose_nothing(text: str, size: int, share: float, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PART_BYTES", size)
        patch.setattr(files, "_HEAD_BYTES", 40)
        parts = list(read_text(path, 0, share)) + list(read_text(path, share, 1))
        whole = list(read_raw(path))
    assert "".join(raw.data["text"] for raw in parts if isinstance(raw.data, dict)) == text
    assert "".join(raw.data["text"] for raw in whole if isinstance(raw.data, dict)) == text
    assert [raw.continues for raw in whole] == [True] * (len(whole) - 1) + [False]
    assert [raw.place for raw in whole] == list(range(len(whole)))
    assert not any(raw.reason for raw in parts + whole)


def test_a_text_is_cut_after_a_line_or_a_word(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one two\nthree four\nfive six\n")
    assert [raw.data for raw in read_text(path, 0, 0.5)] == [{"text": "one two\nthree four\n"}]
    path.write_text("one two three four five six")
    assert [raw.data for raw in read_text(path, 0.5, 1)] == [{"text": "four five six"}]
    path.write_text("你" * 10)
    head, tail = ("".join(raw.data["text"] for raw in read_text(path, *part)) for part in ((0, 0.5), (0.5, 1)))
    assert head + tail == "你" * 10


def test_line_ends_and_byte_order_marks_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert [raw.data for raw in read_raw(path)] == [{"text": "one\ntwo\n"}]
    assert is_text(path)
    path.write_bytes(b"fine\nnot \xff fine\n")
    assert [raw.reason[:14] for raw in read_raw(path)] == ["not UTF-8 text"]
    path.write_bytes(b"")
    assert [raw.data for raw in read_raw(path)] == [{"text": ""}]
