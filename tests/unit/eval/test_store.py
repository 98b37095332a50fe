"""The item store keeps whole groups and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lianlu.eval.store import ItemStore
from lianlu.formats.eval_log import Sample


def samples(*names: str) -> list[Sample]:
    return [Sample(id=name, input="q", target="a", scores={"x": 0.1}) for name in names]


def test_groups_are_there_when_it_is_opened_again(tmp_path: Path):
    store = ItemStore(tmp_path / "t.jsonl", "key")
    store.add(1, samples("c"))
    store.add(0, samples("a", "b"))
    again = ItemStore(tmp_path / "t.jsonl", "key")
    assert sorted(again.groups) == [0, 1]
    assert again.samples() == samples("a", "b", "c")


def test_another_key_begins_anew(tmp_path: Path):
    ItemStore(tmp_path / "t.jsonl", "old").add(0, samples("a"))
    assert ItemStore(tmp_path / "t.jsonl", "new").groups == {}
    assert ItemStore(tmp_path / "t.jsonl", "old").groups == {}


def test_a_write_cut_anywhere_loses_only_its_group(tmp_path: Path):
    path = tmp_path / "t.jsonl"
    store = ItemStore(path, "key")
    store.add(0, samples("a"))
    first = path.stat().st_size
    store.add(1, samples("b", "c"))
    whole = path.read_bytes()
    for end in range(first, len(whole)):
        path.write_bytes(whole[:end])
        again = ItemStore(path, "key")
        assert again.samples() == samples("a")
        again.add(1, samples("b", "c"))
        assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"\n", b"junk", b"[]\n", b'{"key": "key"}'])
def test_a_damaged_head_begins_anew(tmp_path: Path, content: bytes):
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    assert ItemStore(path, "key").groups == {}
    assert json.loads(path.read_text()) == {"key": "key"}


@pytest.mark.parametrize("line", ['{"group": 1}', '{"group": "x", "samples": []}', '{"group": 1, "samples": [{}]}', "[1]"])
def test_what_follows_a_bad_line_is_done_again(tmp_path: Path, line: str):
    path = tmp_path / "t.jsonl"
    store = ItemStore(path, "key")
    store.add(0, samples("a"))
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
    store.add(2, samples("b"))
    assert sorted(ItemStore(path, "key").groups) == [0]
