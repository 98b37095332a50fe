"""Examples on disk: what is written is read, and files go on where the last commit was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lianlu.train.example_file import ExampleFile, ExampleWriter, has_sizes, id_type

EXAMPLES = st.lists(st.tuples(st.lists(st.integers(0, 60_000), min_size=1, max_size=9), st.text(max_size=5)), max_size=8)


def add(writer: ExampleWriter, examples: list[tuple[list[int], str]]) -> None:
    for ids, name in examples:
        writer.add(np.array(ids, dtype=np.uint32), np.array(ids) % 2 == 1, name)


def check(folder: Path, vocab_size: int, examples: list[tuple[list[int], str]]) -> None:
    found = ExampleFile(folder, "x", vocab_size)
    assert len(found) == len(examples)
    assert found.lengths.tolist() == [len(ids) - 1 for ids, _ in examples]
    for index, (ids, name) in enumerate(examples):
        assert found.ids(index).tolist() == ids
        assert found.mask(index).tolist() == [token % 2 == 1 for token in ids]
        assert found.name(index) == name.encode("utf-8", "replace").decode()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=EXAMPLES, lost=EXAMPLES, more=EXAMPLES, vocab_size=st.sampled_from([60_001, 1 << 16, 100_000]))
def test_what_was_not_committed_is_cut_off(
    kept: list, lost: list, more: list, vocab_size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("examples")
    with ExampleWriter(folder, "x", vocab_size, {}) as writer:
        add(writer, kept)
        sizes = writer.commit()
        add(writer, lost)
    assert has_sizes(folder, "x", sizes)
    with ExampleWriter(folder, "x", vocab_size, sizes) as writer:
        assert writer.num_examples == len(kept)
        add(writer, more)
        assert writer.num_examples == len(kept) + len(more)
    check(folder, vocab_size, kept + more)


def test_ids_take_no_more_room_than_they_need() -> None:
    assert (id_type(1 << 16).itemsize, id_type((1 << 16) + 1).itemsize) == (2, 4)


def test_files_that_became_shorter_are_noticed(tmp_path: Path) -> None:
    with ExampleWriter(tmp_path, "x", 100, {}) as writer:
        add(writer, [([1, 2, 3], "a")])
        sizes = writer.commit()
    assert has_sizes(tmp_path, "x", sizes)
    (tmp_path / "x.mask").write_bytes(b"")
    assert not has_sizes(tmp_path, "x", sizes)
    (tmp_path / "x.mask").unlink()
    assert not has_sizes(tmp_path, "x", {})


def test_a_large_file_is_mapped_and_not_read(tmp_path: Path) -> None:
    with ExampleWriter(tmp_path, "x", 100, {}) as writer:
        add(writer, [([1, 2, 3], "a")] * 1000)
    found = ExampleFile(tmp_path, "x", 100)
    assert isinstance(found.ids(999).base, np.memmap)
