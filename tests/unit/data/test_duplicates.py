"""Duplicates found through files, against what they are by definition."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lianlu.core.pool import Here, Pool
from lianlu.data.dedup import near_dedup, spill
from lianlu.data.dedup.duplicates import exact_duplicates, near_duplicates
from lianlu.data.dedup.near_dedup import NUM_BANDS, jaccard
from lianlu.data.dedup.near_groups import Columns, linked
from lianlu.data.dedup.near_groups import near_duplicates as find_near
from lianlu.data.read.sources import RECORD, Listing, Raw
from lianlu.data.rules.thresholds import Thresholds, shipped
from lianlu.data.scores.corpus import Corpus, Ids, Shingles
from lianlu.data.scores.score import Settings
from lianlu.data.scores.scored import CHUNK_BYTES, CHUNK_RAWS, MAX_SCALE, NUM_CHUNKS, chunked, run_chunk, scale_of
from lianlu.data.scores.unique import repeated_ids, unique
from lianlu.formats.documents import Document

SETTINGS = Settings(("exact_dedup", "near_dedup"), Thresholds(shipped()))


def corpus_of(folder: Path, texts: list[str], per_chunk: int) -> Corpus:
    raws = [Raw(f"d{n}", RECORD, len(text), document=Document(f"d{n}", text)) for n, text in enumerate(texts)]
    for start in range(0, len(raws), per_chunk):
        run_chunk(folder, start // per_chunk, raws[start : start + per_chunk], SETTINGS)
    return Corpus.of(folder)


def by_definition(lengths: list[int], keys: NDArray[np.uint64], sets: list[NDArray[np.uint64]], limit: float) -> dict[int, int]:
    """From the longest on, each document against the kept ones that it shares most keys with."""
    kept: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    found = {}
    for index in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        own = sorted(((band, int(keys[index, band])) for band in range(NUM_BANDS)), key=lambda pair: (pair[0], pair[1]))
        met = Counter(other for group in own for other in kept[group])
        near = [other for other, _ in met.most_common(near_dedup.MAX_COMPARED) if jaccard(sets[index], sets[other]) >= limit]
        if near:
            found[index] = near[0]
            continue
        for group in own:
            if len(kept[group]) < near_dedup.MAX_KEPT:
                kept[group].append(index)
    return found


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 12), st.sampled_from([1, 3, 256]))
def test_near_duplicates_are_those_of_the_definition_however_they_are_grouped(
    seed: int, count: int, values: int, kept: int
) -> None:
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, values, (count, NUM_BANDS), dtype=np.uint64) + np.arange(count, dtype=np.uint64)[:, None] // 7 * 50
    sets = [np.unique(rng.integers(0, 9, 6)).astype(np.uint64) for _ in range(count)]
    lengths = rng.integers(0, 4, count)
    columns = Columns(np.arange(count, dtype=np.uint32), lambda: lengths, lambda number: keys[:, number])
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(spill, "PER_PARTITION", 1)
        patch.setattr(near_dedup, "MAX_KEPT", kept)
        patch.setattr(near_dedup, "MAX_COMPARED", kept + 1)
        found = find_near(columns, sets.__getitem__, 0.6, Path(folder), Here())
        wanted = by_definition(lengths.tolist(), keys, sets, 0.6)
    assert dict(zip(found["document"].tolist(), found["kept"].tolist(), strict=True)) == wanted
    assert found["document"].tolist() == sorted(wanted)


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=60))
def test_places_are_linked_to_the_first_that_a_chain_leads_to(count: int, pairs: list[tuple[int, int]]) -> None:
    pairs = [(a % count, b % count) for a, b in pairs]
    wanted = list(range(count))
    for _ in range(count):
        for a, b in pairs:
            wanted[a] = wanted[b] = min(wanted[a], wanted[b])
    some, others = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    assert linked(np.arange(count, dtype=np.uint32), some, others).tolist() == wanted


@settings(max_examples=25)
@given(st.lists(st.sampled_from(["a b", "a  b", "c d e", "!", "?", "f g h i"]), min_size=1, max_size=30), st.data())
def test_exact_duplicates_repeat_the_first_that_is_left(texts: list[str], data: st.DataObject) -> None:
    left = data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts)))
    firsts: dict[str, int] = {}
    wanted = {}
    for number, (text, is_left) in enumerate(zip(texts, left, strict=True)):
        if is_left and firsts.setdefault(" ".join(text.split()), number) != number:
            wanted[number] = firsts[" ".join(text.split())]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "PER_PARTITION", 4)
        (Path(folder) / "scored").mkdir()
        found = exact_duplicates(corpus_of(Path(folder) / "scored", texts, 4), np.array(left), Path(folder))
    assert dict(zip(found["document"].tolist(), found["kept"].tolist(), strict=True)) == wanted


def test_near_duplicates_are_compared_by_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "PER_PARTITION", 4)
    (tmp_path / "scored").mkdir()
    words = [" ".join(f"w{n * k * k % 997}" for k in range(n, n + 40)) for n in range(1, 7)]
    corpus = corpus_of(tmp_path / "scored", [*words, *(f"{text} more" for text in words), "!!!"], 5)
    left = np.ones(len(corpus), bool)
    found = [near_duplicates(corpus, left, 0.7, tmp_path / name, engine) for name, engine in (("a", Here()), ("b", Pool(2)))]
    assert found[0].tolist() == found[1].tolist()
    assert [(document, kept) for document, kept, *_ in found[0].tolist()] == [(n, n + 6) for n in range(6)]


def test_places_ids_and_shingles_are_found_by_number(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, [f"text number {n} is this" for n in range(11)], 4)
    assert [corpus.place(n) for n in (0, 3, 4, 10)] == [(0, 0), (0, 3), (1, 0), (2, 2)]
    ids = Ids(corpus, np.array([2, 4, 9], np.uint32), tmp_path / "ids")
    assert [ids[n] for n in (2, 4, 9)] == ["d2", "d4", "d9"]
    shingles = Shingles(corpus)
    shingles.OPEN = 1
    assert [shingles(n).tolist() for n in (9, 2, 9)] == [corpus.chunks[n // 4].shingles(n % 4).tolist() for n in (9, 2, 9)]


def test_ids_that_repeat_are_told_apart(tmp_path: Path) -> None:
    raws = [Raw(name, RECORD, 9, document=Document(name, "some text")) for name in ("x", "y", "x", "z", "x")]
    run_chunk(tmp_path, 0, raws, SETTINGS)
    documents = (raw.document for raw in raws if raw.document is not None)
    assert [document.id for document in unique(documents, repeated_ids(Corpus.of(tmp_path)))] == ["x", "y", "x~2", "z", "x~3"]


def test_chunks_grow_with_the_source_up_to_a_size() -> None:
    sizes = [0, 1, NUM_CHUNKS * CHUNK_BYTES, NUM_CHUNKS * CHUNK_BYTES + 1, 5 * NUM_CHUNKS * CHUNK_BYTES, 10**15]
    assert [scale_of(Listing([], size)) for size in sizes] == [1, 1, 1, 2, 8, MAX_SCALE]
    many = [Raw("", RECORD, 0)] * (3 * NUM_CHUNKS * CHUNK_RAWS)
    assert scale_of(Listing(many, 0, len(many))) == 4
    assert [len(chunk) for chunk in chunked([Raw("", RECORD, 0)] * 4100, 2)] == [2000, 2000, 100]
