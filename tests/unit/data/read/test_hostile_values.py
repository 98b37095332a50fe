"""Values that cannot be stored as they come: declared nonsense, endless nesting, half characters, dates and bytes in tables."""

from __future__ import annotations

import datetime
import decimal
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.read import front_matter
from lianlu.data.read.encodings import decoded
from lianlu.data.read.plain import MAX_DEPTH, plain
from lianlu.data.read.raw import Raw
from lianlu.data.read.sources import expand, list_files
from lianlu.data.rules.thresholds import Verdict
from lianlu.formats.documents import Document, read_documents, write_documents

TEXT = "The ferry left at noon, and nobody on the pier waved to those who had stayed behind. " * 5


def raws(path: Path, text_fields: tuple[str, ...] = ("text", "content")) -> list[Raw]:
    return list(expand(list_files(path).raws, text_fields, 100_000))


def told(found: list[Raw]) -> list[tuple[str, str]]:
    return [(raw.id, raw.verdict.rule if raw.verdict else "") for raw in found]


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize("name", ["rot13", "hex", "base64", "zip", "bz2", "undefined", "cp037", "klingon", "punycode"])
def test_a_source_that_declares_an_encoding_of_no_text_is_read_as_utf8(name: str) -> None:
    source = f"# -*- coding: {name} -*-\ntold = 'né'\n"
    assert decoded(source.encode(), "python") == source
    assert isinstance(decoded(source.encode("latin-1"), "python"), Verdict)


@pytest.mark.parametrize("name", ["latin-1", "cp1251", "shift_jis", "utf-8"])
def test_a_source_that_declares_an_encoding_of_text_is_read_in_it(name: str) -> None:
    source = f"# -*- coding: {name} -*-\ntold = 'x'\n"
    assert decoded(source.encode(name), "python") == source


def test_a_byte_order_mark_before_what_is_no_text_is_no_encoding() -> None:
    for mark in (b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0"):
        assert isinstance(decoded(mark + b"\xfa\x00\x81" * 49, ""), Verdict)
        assert isinstance(decoded(mark + bytes(range(1, 64)) * 8, ""), Verdict)
    assert decoded(b"\xff\xfe\xfa\x00\x81" * 50, "") == Verdict("read.encoding", "no characters", "utf-16")


@pytest.mark.parametrize(
    "text", ["渡船中午离开了码头。\n", "Паром ушёл в полдень\t\r\n", "😀 emoji and \x0c pages", "a", "نص عربي"]
)
def test_real_texts_with_a_byte_order_mark_are_read(text: str) -> None:
    for encoding in ("utf-16", "utf-32"):
        assert decoded((text * 30).encode(encoding), "") == text * 30


ENDLESS = {
    "toml lists": "+++\na=" + "[" * 5000 + "]" * 5000 + "\n+++\n",
    "toml keys": "+++\n" + ".".join("a" * 5000) + "=1\n+++\n",
    "yaml lists": "---\na: " + "[" * 19_000 + "\n---\n",
}


@pytest.mark.parametrize("head", ENDLESS.values(), ids=ENDLESS)
def test_front_matter_without_end_stays_in_the_text(head: str) -> None:
    assert front_matter.split(head + TEXT) == ({}, head + TEXT)


def test_half_characters_in_front_matter_do_not_reach_the_disk(tmp_path: Path) -> None:
    found, text = front_matter.split('---\ntitle: "\\ud800 x"\n"\\udfff": 1\n---\n' + TEXT)
    assert found == {"title": "? x", "?": "1"}
    document = Document("a", text)
    front_matter.tell(document, found)
    write_documents(tmp_path, [document])
    assert list(read_documents(tmp_path)) == [document]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary() | st.dates()
    | st.datetimes() | st.decimals() | st.timedeltas(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner) | st.tuples(inner),
)  # fmt: skip


@given(values)
def test_any_value_becomes_one_that_json_and_disk_take_and_stays_it(value: Any) -> None:
    made = plain(value)
    text = json.dumps(made, ensure_ascii=False, allow_nan=False)
    assert json.loads(text.encode()) == made
    assert plain(made) == made


def test_what_is_nested_too_deep_is_told() -> None:
    assert plain(nested(MAX_DEPTH)) == nested(MAX_DEPTH)
    with pytest.raises(ValueError, match="nested"):
        plain(nested(MAX_DEPTH + 1))
    assert plain({"a": float("nan"), "b": 1.5, "c": "\ud800"}) == {"a": None, "b": 1.5, "c": "?"}
    assert plain(b"caf\xc3\xa9") == "café"
    assert plain(b"\xff\xfe\0") == "<3 bytes>"


def test_records_with_odd_meta_cost_only_themselves(tmp_path: Path) -> None:
    deep = [{"text": TEXT, "meta": "[" * 100_000}, {"text": TEXT, "a": nested(500)}]
    fine = [{"text": TEXT, "meta": '{"a": "\\ud800"}'}, {"text": TEXT, "a": "x"}]
    lines = [*map(json.dumps, deep + fine), '{"text": "x", "a": NaN, "b": [Infinity]}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = raws(tmp_path / "a.jsonl")
    assert [rule for _, rule in told(found)] == ["read.bad_line", "read.bad_line", "", "", ""]
    documents = [raw.document for raw in found if raw.document and not raw.verdict]
    assert [document.meta for document in documents] == [{"a": "?"}, {"a": "x"}, {"a": None, "b": [None]}]
    write_documents(tmp_path / "out", documents)


def test_a_file_of_records_that_cannot_be_opened_or_is_of_another_kind_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"lianlu": "scores", "format": 1}\n{"text": "x"}\n')
    (tmp_path / "b.jsonl").write_text('{"lianlu": "documents", "format": 99}\n{"text": "x"}\n')
    (tmp_path / "c.jsonl").write_text('{"text": "x"}\n')
    assert told(raws(tmp_path)) == [("a.jsonl#1", "read.damaged"), ("b.jsonl#1", "read.damaged"), ("c.jsonl#1", "")]
    names = ["a.jsonl", "a.jsonl.gz", "a.tar", "a.tar.gz", "a.zip", "a.warc", "a.warc.gz", "a.parquet"]
    for name in names:
        gone = Raw(name, list_files(tmp_path / "c.jsonl").raws[0].kind, 1, path=name, file=str(tmp_path / "gone" / name))
        gone.kind = {"tar": "archive", "zip": "archive", "arc": "warc"}.get(name.removesuffix(".gz")[-3:], "record")
        assert told(list(expand([gone], ("text",), 1000))) == [(name, "read.unreadable")]


def table(folder: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return folder / "a.parquet"


def test_tables_of_every_type_are_read_and_written(tmp_path: Path) -> None:
    columns = {
        "id": [b"one", b"two"], "text": [TEXT] * 2, "date": [datetime.datetime(2020, 1, 2, 12), None],
        "day": [datetime.date(2020, 1, 2)] * 2, "cost": [decimal.Decimal("1.50")] * 2, "raw": [b"\xff", b"a"],
        "took": [datetime.timedelta(1)] * 2, "nan": [float("nan"), 0.5],
        "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
    }  # fmt: skip
    found = [raw.document for raw in raws(table(tmp_path, columns)) if raw.document]
    assert [(one.id, one.date) for one in found] == [("one", "2020-01-02T12:00:00"), ("two", "")]
    assert found[0].meta == {
        "day": "2020-01-02", "cost": "1.50", "raw": "<1 bytes>", "took": "1 day, 0:00:00", "map": [["a", 1]],
    }  # fmt: skip
    write_documents(tmp_path / "out", found)
    assert list(read_documents(tmp_path / "out")) == found


def test_texts_in_bytes_or_dictionaries_are_read_and_others_are_told(tmp_path: Path) -> None:
    for column in ([TEXT.encode()] * 2, pa.array([TEXT] * 2).dictionary_encode(), pa.array([TEXT] * 2, pa.large_string())):
        found = raws(table(tmp_path, {"text": column}))
        assert [raw.document.text for raw in found if raw.document] == [TEXT, TEXT]
    for column in ([1, 2], [[TEXT], [TEXT]], [{"a": TEXT}, {"a": TEXT}]):
        assert [rule for _, rule in told(raws(table(tmp_path, {"text": column})))] == ["read.bad_line"] * 2


def test_the_text_of_a_table_may_be_in_another_field(tmp_path: Path) -> None:
    path = table(tmp_path, {"body": [TEXT, None], "content": ["other", "other"], "n": [1, 2]})
    first, second = raws(path, ("body", "content"))
    assert first.document
    assert second.document
    assert (first.document.text, second.document.text) == (TEXT, "other")
    assert first.document.meta == {"n": 1}
    (none,) = raws(table(tmp_path, {"n": [1]}), ("body",))
    assert none.verdict
    assert "no column body" in str(none.verdict.value)


def test_a_cell_that_is_no_utf8_or_has_no_time_costs_only_its_row(tmp_path: Path) -> None:
    cells = [b"abc", b"\xff\xfe\xfd", b"ghi", b"jkl"]
    offsets = b"".join((3 * number).to_bytes(4, "little") for number in range(5))
    bad = pa.Array.from_buffers(pa.string(), 4, [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(cells))])
    assert told(raws(table(tmp_path, {"text": bad}))) == [
        ("a.parquet#1", ""), ("a.parquet#2", "read.damaged"), ("a.parquet#3", ""), ("a.parquet#4", ""),
    ]  # fmt: skip
    nowhere = pa.array([1, None], pa.timestamp("s", tz="Nowhere/Land"))
    assert [rule for _, rule in told(raws(table(tmp_path, {"text": ["a", "b"], "t": nowhere})))] == ["read.damaged", ""]


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "LICENSE")
    (tmp_path / "in" / "a.py").write_text("x = 1\n")
    return tmp_path / "in"


def test_a_licence_that_is_a_pipe_is_not_waited_for(pipe: Path) -> None:
    assert told(raws(pipe)) == [("LICENSE", "read.not_a_file"), ("a.py", "")]
