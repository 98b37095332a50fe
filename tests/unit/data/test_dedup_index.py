"""What an index of an earlier corpus removes from a later one."""

from __future__ import annotations

import dataclasses
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.core.errors import DataError
from lianlu.data.dedup.dedup_index import DedupIndex, repeated, write_index
from lianlu.data.dedup.duplicates import Place, exact_duplicates, near_duplicates
from lianlu.data.dedup.near_dedup import jaccard
from lianlu.data.read.sources import RECORD, Raw
from lianlu.data.rules.thresholds import Thresholds, Verdict, shipped
from lianlu.data.scores.decisions import Decision, write_decisions
from lianlu.data.scores.score import Settings
from lianlu.data.scores.scored import Chunk, chunks_in, run_chunk
from lianlu.formats.documents import Document

LIMIT = 0.7
SETTINGS = Settings(("exact_dedup", "near_dedup"), Thresholds(shipped()))
WORDS = [f"word{number}" for number in range(300)]


def scored_in(folder: Path, texts: list[str], name: str, per_chunk: int = 7) -> list[Chunk]:
    folder.mkdir(parents=True, exist_ok=True)
    raws = [Raw(f"{name}{n}", RECORD, len(text), document=Document(f"{name}{n}", text)) for n, text in enumerate(texts)]
    for number in range(0, max(len(raws), 1), per_chunk):
        run_chunk(folder, number // per_chunk, raws[number : number + per_chunk], SETTINGS)
    return chunks_in(folder)


def places_of(chunks: list[Chunk]) -> list[Place]:
    return [(number, row) for number, chunk in enumerate(chunks) for row in range(len(chunk))]


def removed(chunks: list[Chunk], places: list[Place]) -> set[Place]:
    """What cleaning these documents together removes."""
    found = exact_duplicates(chunks, places)
    found |= near_duplicates(chunks, [place for place in places if place not in found], LIMIT)
    return set(found)


def index_of(folder: Path, texts: list[str], name: str = "a") -> DedupIndex:
    chunks = scored_in(folder / "scored", texts, name)
    gone = removed(chunks, places_of(chunks))
    for number, chunk in enumerate(chunks):
        decided = [
            Decision(own, Verdict("near_dedup.max_jaccard", 1, LIMIT) if (number, row) in gone else None)
            for row, own in enumerate(chunk.ids())
        ]
        write_decisions(folder, number, decided)
    write_index(folder / "index", folder / "scored", folder)
    return DedupIndex(folder / "index")


def names(chunks: list[Chunk], places: set[Place]) -> set[str]:
    return {chunks[number].ids()[row] for number, row in places}


def removed_with(index: DedupIndex, chunks: list[Chunk]) -> set[Place]:
    places = places_of(chunks)
    gone = set(repeated([index], chunks, places, LIMIT))
    return gone | removed(chunks, [place for place in places if place not in gone])


def corpus(rng: random.Random, count: int, length: int) -> list[str]:
    """Texts of about `length` words: some new, some copies, some copies with a few words changed, some of them twice over."""
    made: list[list[str]] = []
    for _ in range(count):
        base = rng.choice(made) if made and rng.random() < 0.6 else rng.choices(WORDS, k=length)
        share = rng.choice([0.0, 0.01, 0.03, 0.06])
        made.append([rng.choice(WORDS) if rng.random() < share else word for word in base])
    return [" ".join(words) for words in made]


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), sizes=st.tuples(st.integers(1, 25), st.integers(1, 25)))
def test_an_index_removes_what_cleaning_together_would(
    tmp_path_factory: pytest.TempPathFactory, seed: int, sizes: tuple[int, int]
) -> None:
    rng = random.Random(seed)
    first = corpus(rng, sizes[0], 60)
    # what comes later is cut from what came before or new, and never longer than the shortest of it
    later = [" ".join(text.split()[: rng.randint(45, 60)]) for text in [*first, *corpus(rng, sizes[1], 60)]]
    shortest = min(len(text.encode()) for text in first)
    later = [text if len(text) <= shortest else text[:shortest].rsplit(" ", 1)[0] for text in later]
    folder = tmp_path_factory.mktemp("index")
    new = scored_in(folder / "b", later, "b")
    together = scored_in(folder / "both", [*first, *later], "x")
    wanted = {name for name in names(together, removed(together, places_of(together))) if int(name[1:]) >= len(first)}
    found = {f"x{len(first) + int(name[1:])}" for name in names(new, removed_with(index_of(folder, first), new))}
    assert found == wanted


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_removal_is_near_a_document_that_is_named(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = random.Random(seed)
    first = corpus(rng, 15, 50)
    folder = tmp_path_factory.mktemp("index")
    index = index_of(folder, first)
    new = scored_in(folder / "b", corpus(rng, 10, 50) + [text + " and more of it" for text in first[:8]], "b")
    found = repeated([index], new, places_of(new), LIMIT)
    assert found
    rows = {index.id(row): row for row in range(len(index))}
    for (number, row), earlier in found.items():
        similarity = jaccard(new[number].shingles(row), index.shingles(rows[earlier.id]))
        assert similarity == pytest.approx(earlier.similarity)
        assert similarity >= LIMIT


def test_equal_texts_are_found_even_without_words_and_the_earliest_index_is_asked_first(tmp_path: Path) -> None:
    first, second = index_of(tmp_path / "1", ["!!!", "one two three four"]), index_of(tmp_path / "2", ["!!!", "???"], "z")
    chunks = scored_in(tmp_path / "new", ["???", "one  two\nthree four", "!!!", "...", "One, two, three, four!"], "n")
    found = repeated([first, second], chunks, places_of(chunks), LIMIT)
    named = {place[1]: (earlier.step, earlier.id) for place, earlier in found.items()}
    assert named == {
        0: ("exact_dedup", "z1"),
        1: ("exact_dedup", "a1"),
        2: ("exact_dedup", "a0"),
        4: ("near_dedup", "a1"),
    }
    assert {place[1] for place in repeated([first], chunks, places_of(chunks), None)} == {1, 2}


def test_an_index_of_nothing_removes_nothing(tmp_path: Path) -> None:
    index = index_of(tmp_path, [])
    chunks = scored_in(tmp_path / "new", ["one two three"], "n")
    assert len(index) == 0
    assert repeated([index], chunks, places_of(chunks), LIMIT) == {}


def test_equal_corpora_give_equal_bytes_however_they_are_cut(tmp_path: Path) -> None:
    texts = corpus(random.Random(5), 30, 40)
    written = []
    for per_chunk in (4, 30):
        folder = tmp_path / str(per_chunk)
        for number, chunk in enumerate(scored_in(folder / "scored", texts, "a", per_chunk)):
            write_decisions(folder, number, [Decision(name) for name in chunk.ids()])
        write_index(folder / "index", folder / "scored", folder)
        written.append({path.name: path.read_bytes() for path in sorted((folder / "index").iterdir())})
    assert written[0] == written[1]


def test_what_is_no_index_or_of_other_hashes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no whole index"):
        DedupIndex(tmp_path)
    index = index_of(tmp_path, ["one two three"])
    for damage in ('{"format": 1, "documents": 1, "fingerprint": "0"}', '{"format": 9, "documents": 1, "fingerprint": ""}'):
        (index.folder / "index.json").write_text(damage)
        with pytest.raises(DataError, match="another version"):
            DedupIndex(index.folder)
    write_index(index.folder, tmp_path / "scored", tmp_path)
    (index.folder / "bands.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"bands\.npy"):
        DedupIndex(index.folder)


def synthetic(folder: Path, count: int) -> None:
    """A scored corpus of documents that share nothing, at the size where memory shows."""
    scored_in(folder / "scored", ["a b c d e f"], "x")
    base = folder / "scored" / "00000"
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**63, count * 4, dtype=np.uint64)
    arrays = {
        "ends": np.arange(1, count + 1) * 4,
        "num_bytes": rng.integers(100, 9000, count),
        "exact": rng.integers(0, 256, (count, 16), dtype=np.uint8),
        "bands": rng.integers(0, 2**63, (count, 16), dtype=np.uint64),
    }
    np.savez(base.with_suffix(".npz"), **arrays)  # type: ignore[arg-type]
    np.save(base.with_name("00000.shingles.npy"), words)
    write_decisions(folder, 0, [Decision(f"d{number}") for number in range(count)])


def test_an_index_is_looked_up_without_being_held_in_memory(tmp_path: Path) -> None:
    count = 50_000
    synthetic(tmp_path, count)
    write_index(tmp_path / "index", tmp_path / "scored", tmp_path)
    (chunk,) = chunks_in(tmp_path / "scored")
    chunk.exact = np.flip(chunk.exact, axis=1)  # so that only bands find anything
    tracemalloc.start()
    index = DedupIndex(tmp_path / "index")
    found = repeated([index], [chunk], [(0, row) for row in range(0, count, 500)], LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert {place[1]: earlier.id for place, earlier in found.items()} == {row: f"d{row}" for row in range(0, count, 500)}
    assert dataclasses.replace(found[0, 500], id="") == dataclasses.replace(found[0, 0], id="")
    assert peak < 8 * count
