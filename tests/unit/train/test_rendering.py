"""Many records: the same outcomes in the same order, in one process or in two."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lianlu.formats.examples.sources import Source, find_sources
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train import rendering
from lianlu.train.rendering import Way, chunks, rendered


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    talk = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "the cat"}]
    records: list[Any] = [{"messages": talk, "n": number} if number % 7 else {"odd": number} for number in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "b.json").write_text(json.dumps([{"question": f"q{number}", "answer": number} for number in range(30)]))
    return find_sources(tmp_path).sources


def places(found: Any) -> list[tuple[int, int]]:
    return [(chunk.source, raw.place) for chunk in found for raw in chunk.records]


def test_chunks_hold_every_record_and_go_on_after_any(sources: list[Source], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = places(chunks(sources, (0, -1)))
    assert whole == [(0, line) for line in range(1, 61)] + [(1, index) for index in range(30)]
    monkeypatch.setattr(rendering, "CHUNK_RECORDS", 7)
    assert max(len(chunk.records) for chunk in chunks(sources, (0, -1))) == 7
    for number in range(0, len(whole), 5):
        assert places(chunks(sources, whole[number])) == whole[number + 1 :]
    monkeypatch.setattr(rendering, "CHUNK_CHARS", 100)
    assert all(chunk.num_chars < 200 for chunk in chunks(sources, (0, -1)))
    assert places(chunks(sources, (0, -1))) == whole


def test_workers_give_what_one_process_gives(
    sources: list[Source], checkpoint: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "CHUNK_RECORDS", 7)
    way = Way(str(checkpoint), 50, True)
    one, two = (
        [outcome for _, found in rendered(sources, chunks(sources, (0, -1)), way, tokenizer, workers) for outcome in found]
        for workers in (1, 2)
    )
    assert len(one) == len(two) == 90
    for own, other in zip(one, two, strict=True):
        assert (own.place, own.name, own.rejection) == (other.place, other.name, other.rejection)
        assert len(own.pieces) == len(other.pieces)
        for piece, same in zip(own.pieces, other.pieces, strict=True):
            assert np.array_equal(piece.ids, same.ids)
            assert np.array_equal(piece.mask, same.mask)


def test_a_worker_does_not_load_torch() -> None:
    code = "import sys, lianlu.train.rendering; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
