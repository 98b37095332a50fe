"""The index beside a shard: every token leads to its document, every document to its tokens."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.core.errors import DataError
from lianlu.formats import shard_index
from lianlu.formats.documents import read_documents
from lianlu.formats.shard_index import Origin, document_at, documents_in, index_path, numbers_of, origins, range_of, write_index
from lianlu.formats.shards import ShardWriter, TokenShard, open_shard

NAMES = st.sampled_from(["a", "b", "c/ü.md", "文", "e"])


def made(path: Path, documents: list[tuple[str, int]]) -> TokenShard:
    with ShardWriter(path, 300) as shard:
        for _, length in documents:
            shard.add([7] * length, length)
    write_index(path, (Origin(name, f"http://x/{name}", "s") for name, _ in documents))
    return open_shard(path)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(NAMES, st.integers(0, 3)), max_size=8), st.integers(1, 4))
def test_tokens_lead_to_documents_and_back(
    tmp_path_factory: pytest.TempPathFactory, documents: list[tuple[str, int]], rows_per_group: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_index, "ROWS_PER_GROUP", rows_per_group)
        shard = made(tmp_path_factory.mktemp("shard") / "train.bin", documents)
        owners = [(number, name) for number, (name, length) in enumerate(documents) for _ in range(length)]
        for token, (number, name) in enumerate(owners):
            located = document_at(shard, token)
            assert (located.number, located.origin) == (number, Origin(name, f"http://x/{name}", "s"))
            assert token in located.tokens
            assert located.tokens in range_of(shard, name)
        for name in {name for name, _ in documents}:
            own = [token for token, (_, owner) in enumerate(owners) if owner == name]
            assert [token for tokens in range_of(shard, name) for token in tokens] == own
            assert len(range_of(shard, name)) == sum(other == name for other, _ in documents)
        assert range_of(shard, "absent") == []
        assert [origin.id for origin in origins(shard)] == [name for name, _ in documents]
        for begin in range(0, len(owners), 2):
            end = begin + 1 + 5 * begin % (len(owners) - begin)
            found = [located.number for located in documents_in(shard, range(begin, end))]
            assert found == sorted({number for number, _ in owners[begin:end]})


def test_documents_are_found_by_url(tmp_path: Path) -> None:
    shard = made(tmp_path / "train.bin", [("a", 2), ("b", 1), ("a", 3)])
    assert numbers_of(shard, ["http://x/a"], "url") == [0, 2]
    assert numbers_of(shard, ["a", "b"]) == [0, 1, 2]


def test_tiers_are_told_by_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_index, "ROWS_PER_GROUP", 2)
    own = ["low", "", "high", "low", "high", "high", ""]
    shard = made(tmp_path / "train.bin", [("a", 2)] * 7)
    write_index(shard.path, (Origin(str(n), tier=tier, weight=n / 2) for n, tier in enumerate(own)))
    codes, names = shard_index.tiers(shard)
    assert [names[code] for code in codes] == own
    assert [(origin.tier, origin.weight) for origin in origins(shard)] == [(tier, n / 2) for n, tier in enumerate(own)]


def test_an_index_of_the_first_format_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = made(tmp_path / "train.bin", [("a", 2), ("b", 1)])
    table = pq.read_table(index_path(shard.path)).select(["id", "url", "source"])
    stamp = {"lianlu": "shard-index", "format": "1"}
    pq.write_table(table.replace_schema_metadata(stamp), index_path(shard.path))
    assert list(origins(shard)) == [Origin("a", "http://x/a", "s"), Origin("b", "http://x/b", "s")]
    codes, names = shard_index.tiers(shard)
    assert (codes.tolist(), names) == ([0, 0], [""])
    pq.write_table(table.replace_schema_metadata({**stamp, "format": "3"}), index_path(shard.path))
    with pytest.raises(DataError, match="no index of a shard that this lianlu reads"):
        shard_index.tiers(shard)


def test_what_is_not_there_or_of_another_shard_is_said(tmp_path: Path) -> None:
    shard = made(tmp_path / "train.bin", [("a", 2), ("b", 1)])
    for token in (-1, 3):
        with pytest.raises(DataError, match="has no token"):
            document_at(shard, token)
    made(tmp_path / "other.bin", [("a", 2)])
    index = index_path(shard.path)
    index_path(tmp_path / "other.bin").replace(index)
    with pytest.raises(DataError, match="names 1 documents, the shard has 2"):
        document_at(shard, 0)
    with pytest.raises(DataError, match="holds shard-index, not documents"):
        list(read_documents(index))
    index.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a whole Parquet file"):
        range_of(shard, "a")
    index.unlink()
    with pytest.raises(DataError, match="has no index") as error:
        range_of(shard, "a")
    assert "shard stage" in error.value.hint
