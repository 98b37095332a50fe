from __future__ import annotations

import contextlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.core.errors import DataError
from lianlu.formats import documents as formats
from lianlu.formats.documents import Document, from_row, read_documents, write_documents, write_jsonl, write_parquet

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
META = st.dictionaries(TEXT, TEXT | st.integers(-(2**53), 2**53) | st.booleans(), max_size=3)
DOCUMENTS = st.lists(
    st.builds(Document, id=TEXT.filter(bool), text=TEXT, domain=TEXT.filter(bool), lang=TEXT, path=TEXT, meta=META), max_size=7
)


@settings(max_examples=30, deadline=None)
@given(DOCUMENTS, st.integers(1, 4))
def test_parquet_goes_both_ways_in_any_number_of_parts(
    tmp_path_factory: pytest.TempPathFactory, documents: list[Document], rows: int
) -> None:
    folder = tmp_path_factory.mktemp("docs")
    assert write_documents(folder, documents, rows_per_part=rows) == len(documents)
    assert list(read_documents(folder)) == documents


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_jsonl_goes_both_ways(tmp_path: Path, name: str) -> None:
    documents = [Document("1", "你好"), Document("2", "", source="s", domain="code", lang="python", meta={"stars": 3})]
    assert write_jsonl(tmp_path / name, documents) == 2
    assert list(read_documents(tmp_path / name)) == documents
    assert list(read_documents(tmp_path)) == documents


def test_long_documents_end_row_groups_and_parts_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "CHARS_PER_GROUP", 100)
    monkeypatch.setattr(formats, "CHARS_PER_PART", 250)
    documents = [Document(str(n), "x" * 60) for n in range(9)]
    assert write_documents(tmp_path, documents) == 9
    groups = [[file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
              for file in map(pq.ParquetFile, sorted(tmp_path.iterdir()))]  # fmt: skip
    assert groups == [[2, 2, 2], [2, 1]]
    assert list(read_documents(tmp_path)) == documents


def test_equal_documents_give_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_parquet(tmp_path / f"{name}.parquet", [Document("1", "x", meta=dict.fromkeys("zyx", 1))])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_foreign_tables_are_read_and_unknown_columns_kept(tmp_path: Path) -> None:
    path = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"content": ["hello"], "url": [None], "stars": [7], "meta": ['{"a": 1}'], "id": [12]}), path)
    assert list(read_documents(path)) == [Document("12", "hello", meta={"stars": 7, "a": 1})]


@pytest.mark.parametrize("keep", [0, 3, 100, -5])
def test_a_truncated_parquet_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "part-00000.parquet"
    write_parquet(path, [Document(str(n), f"text {n}") for n in range(50)])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"part-00000\.parquet is not a whole Parquet file") as error:
        list(read_documents(tmp_path))
    assert error.value.hint


def test_a_future_format_another_kind_and_a_missing_column_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["x"]})
    pq.write_table(table.replace_schema_metadata({"lianlu": "documents", "format": "9"}), path)
    with pytest.raises(DataError, match="has format 9"):
        list(read_documents(path))
    pq.write_table(table.replace_schema_metadata({"lianlu": "scores"}), path)
    with pytest.raises(DataError, match="holds scores"):
        list(read_documents(path))
    pq.write_table(pa.table({"body": ["x"]}), path)
    with pytest.raises(DataError, match="no column text"):
        list(read_documents(path))


def test_missing_and_empty_folders_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no"):
        list(read_documents(tmp_path / "absent"))
    (tmp_path / "rejected.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no documents"):
        list(read_documents(tmp_path))


def test_a_line_without_text_is_an_error_when_reading_strictly(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n')
    with pytest.raises(DataError, match="line 2: no text"):
        list(read_documents(tmp_path))


def test_rows_without_ids_are_numbered_through_the_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"] * 2500}), tmp_path / "a.parquet")
    assert [document.id for document in read_documents(tmp_path)] == [f"a.parquet#{n}" for n in range(1, 2501)]


def test_a_row_without_an_id_takes_its_place_as_id() -> None:
    assert from_row({"text": "a", "domain": None}, "a.jsonl#3") == Document("a.jsonl#3", "a")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_flipped_bytes_never_give_anything_but_documents_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.parquet"
    write_parquet(path, [Document(str(n), f"text {n}" * 9) for n in range(20)])
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    with contextlib.suppress(DataError):
        assert all(isinstance(document, Document) for document in read_documents(path))
