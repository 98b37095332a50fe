"""Where tasks find their rows, and what is said when they do not."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.core.errors import ConfigError, DataError
from lianlu.eval.sources import Sources, first, rows, spread


def test_held_out_conversations_of_a_folder_or_a_file(tmp_path: Path):
    file = tmp_path / "held_out.jsonl"
    with pytest.raises(DataError, match="held_out"):
        Sources(conversations=tmp_path).held_out()
    file.write_text("")
    assert Sources(conversations=tmp_path).held_out() == file
    assert Sources(conversations=file).held_out() == file


def test_what_is_not_set_is_asked_for():
    with pytest.raises(ConfigError, match="conversations") as caught:
        Sources().held_out()
    assert "data =" in caught.value.hint
    with pytest.raises(ConfigError, match="gsm8k") as caught:
        Sources().benchmark("gsm8k", "test.jsonl")
    assert "benchmarks =" in caught.value.hint


def test_a_benchmark_lies_in_its_folder_or_in_the_folder_itself(tmp_path: Path):
    with pytest.raises(DataError, match=r"b\.jsonl or c\.jsonl"):
        Sources(benchmarks=tmp_path).benchmark("a", "b.jsonl", "c.jsonl")
    (tmp_path / "c.jsonl").write_text("{}")
    assert Sources(benchmarks=tmp_path).benchmark("a", "b.jsonl", "c.jsonl") == tmp_path / "c.jsonl"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "c.jsonl").write_text("{}")
    assert Sources(benchmarks=tmp_path).benchmark("a", "b.jsonl", "c.jsonl") == tmp_path / "a" / "c.jsonl"


@pytest.mark.parametrize("content", [b"", b'{"q": 1}\n', b"[1]\n", b"junk\n", b'{"q": "x"'])
def test_bad_rows_are_named(tmp_path: Path, content: bytes):
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"t\.jsonl"):
        rows(path, ("q",))


def test_a_truncated_archive_is_named(tmp_path: Path):
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"q": "hello world"}\n' * 1000)[:-20])
    with pytest.raises(DataError, match=r"t\.jsonl\.gz"):
        rows(path, ("q",))


@given(st.integers(0, 30), st.integers(0, 40))
def test_a_limit_takes_that_many_in_order(total, limit):
    items = list(range(total))
    size = min(total, limit) if limit else total
    assert first(items, limit) == items[:size]
    chosen = spread(items, limit)
    assert len(chosen) == len(set(chosen)) == size
    assert chosen == sorted(chosen)
