from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.core.errors import DataError
from lianlu.formats.shards import HEADER_BYTES, ShardWriter, open_shard


def write(path: Path, documents: list[tuple[list[int], int]], vocab_size: int = 300) -> Path:
    with ShardWriter(path, vocab_size) as shard:
        for ids, text_bytes in documents:
            shard.add(ids, text_bytes)
    return path


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([300, 1 << 16, (1 << 16) + 1, 1 << 20]),
    st.lists(st.tuples(st.lists(st.integers(0, 299), max_size=9), st.integers(0, 2**40)), max_size=9),
)
def test_a_shard_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, vocab_size: int, documents: list[tuple[list[int], int]]
) -> None:
    shard = open_shard(write(tmp_path_factory.mktemp("shard") / "train.bin", documents, vocab_size))
    assert (shard.num_documents, shard.num_tokens) == (len(documents), sum(len(ids) for ids, _ in documents))
    assert [shard.document(i).tolist() for i in range(shard.num_documents)] == [ids for ids, _ in documents]
    assert shard.text_bytes.tolist() == [size for _, size in documents]
    assert shard.tokens.dtype == (np.uint16 if vocab_size <= 1 << 16 else np.uint32)
    assert shard.vocab_size == vocab_size


def test_tokens_are_mapped_and_read_only(tmp_path: Path) -> None:
    shard = open_shard(write(tmp_path / "a.bin", [([1, 2, 3], 5)]))
    assert isinstance(shard.tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        shard.tokens[0] = 1


@pytest.mark.parametrize("wrong", [300, -1, 70_000])
def test_an_id_outside_the_vocabulary_is_refused_and_leaves_no_file(tmp_path: Path, wrong: int) -> None:
    with pytest.raises(DataError, match=f"token id {wrong} is outside"):
        write(tmp_path / "a.bin", [([1, 2], 5), ([wrong], 1)])
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200))
def test_a_truncated_shard_is_named(tmp_path_factory: pytest.TempPathFactory, keep: int) -> None:
    path = write(tmp_path_factory.mktemp("cut") / "a.bin", [([1, 2, 3], 5)] * 9)
    whole = path.read_bytes()
    path.write_bytes(whole[: min(keep, len(whole) - 1)])
    with pytest.raises(DataError, match=r"a\.bin") as error:
        open_shard(path)
    assert error.value.hint


def test_appended_bytes_are_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", [([1], 5)])
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match="bytes where"):
        open_shard(path)


def test_a_future_version_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", [([1], 5)])
    raw = bytearray(path.read_bytes())
    raw[8:12] = struct.pack("<I", 7)
    raw[HEADER_BYTES - 4 : HEADER_BYTES] = struct.pack("<I", zlib.crc32(raw[: HEADER_BYTES - 4]))
    path.write_bytes(raw)
    with pytest.raises(DataError, match="has format 7"):
        open_shard(path)
    path.write_bytes(b"PK\x03\x04" * 100)
    with pytest.raises(DataError, match="is not a token shard"):
        open_shard(path)
    with pytest.raises(DataError, match="cannot read"):
        open_shard(tmp_path / "absent.bin")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6))
def test_flipped_bytes_give_a_consistent_shard_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    path = write(tmp_path_factory.mktemp("fuzz") / "a.bin", [([1, 2, 3], 5), ([4], 1), ([], 0)])
    raw = bytearray(path.read_bytes())
    for place, value in flips:
        raw[place % len(raw)] = value
    path.write_bytes(raw)
    with contextlib.suppress(DataError):
        shard = open_shard(path)
        assert sum(len(shard.document(i)) for i in range(shard.num_documents)) == shard.num_tokens == 4
