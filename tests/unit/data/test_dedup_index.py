"""What an index of an earlier corpus removes from a later one."""

from __future__ import annotations

import random
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lianlu.core.errors import DataError
from lianlu.core.pool import Here
from lianlu.data.dedup.dedup_index import DedupIndex, repeated, write_index
from lianlu.data.dedup.duplicates import STEPS, exact_duplicates, near_duplicates
from lianlu.data.dedup.near_dedup import jaccard
from lianlu.data.read.sources import RECORD, Raw
from lianlu.data.rules.characters import mixed
from lianlu.data.rules.thresholds import Thresholds, Verdict, shipped
from lianlu.data.scores.corpus import Corpus, Mask, Shingles
from lianlu.data.scores.decisions import Decision, write_decisions
from lianlu.data.scores.score import Settings
from lianlu.data.scores.scored import run_chunk
from lianlu.formats.documents import Document

LIMIT = 0.7
SETTINGS = Settings(("exact_dedup", "near_dedup"), Thresholds(shipped()))
COUNT = 50_000
WORDS = [f"word{number}" for number in range(300)]


def scored_in(folder: Path, texts: list[str], name: str, per_chunk: int = 7) -> Corpus:
    folder.mkdir(parents=True, exist_ok=True)
    raws = [Raw(f"{name}{n}", RECORD, len(text), document=Document(f"{name}{n}", text)) for n, text in enumerate(texts)]
    for number in range(0, max(len(raws), 1), per_chunk):
        run_chunk(folder, number // per_chunk, raws[number : number + per_chunk], SETTINGS)
    return Corpus.of(folder)


def everything(whole: Corpus) -> Mask:
    return np.ones(len(whole), dtype=np.bool_)


def removed(whole: Corpus, left: Mask) -> set[int]:
    """What cleaning these documents together removes."""
    with tempfile.TemporaryDirectory() as folder:
        exact = exact_duplicates(whole, left, Path(folder))["document"]
        left[exact] = False
        return {*exact.tolist(), *near_duplicates(whole, left, LIMIT, Path(folder), Here())["document"].tolist()}


def index_of(folder: Path, texts: list[str], name: str = "a") -> DedupIndex:
    whole = scored_in(folder / "scored", texts, name)
    gone = removed(whole, everything(whole))
    for number, (chunk, own) in enumerate(whole.slices()):
        decided = [
            Decision(name, Verdict("near_dedup.max_jaccard", 1, LIMIT) if own.start + row in gone else None)
            for row, name in enumerate(chunk.ids())
        ]
        write_decisions(folder, number, decided)
    write_index(folder / "index", folder / "scored", folder)
    return DedupIndex(folder / "index")


def name_of(whole: Corpus, document: int) -> str:
    number, row = whole.place(document)
    return whole.chunks[number].ids()[row]


def found_by(indexes: list[DedupIndex], whole: Corpus, limit: float | None = LIMIT) -> dict[int, tuple[str, str, float]]:
    """Step, id and similarity by document."""
    found = repeated(indexes, whole, everything(whole), limit).tolist()
    return {
        document: (STEPS[step], indexes[earlier - 1].id(kept), similarity) for document, kept, similarity, step, earlier in found
    }


def removed_with(index: DedupIndex, whole: Corpus) -> set[int]:
    gone = repeated([index], whole, everything(whole), LIMIT)["document"]
    left = everything(whole)
    left[gone] = False
    return {*gone.tolist(), *removed(whole, left)}


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
    wanted = {document for document in removed(together, everything(together)) if document >= len(first)}
    assert {len(first) + document for document in removed_with(index_of(folder, first), new)} == wanted


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_removal_is_near_a_document_that_is_named(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = random.Random(seed)
    first = corpus(rng, 15, 50)
    folder = tmp_path_factory.mktemp("index")
    index = index_of(folder, first)
    new = scored_in(folder / "b", corpus(rng, 10, 50) + [text + " and more of it" for text in first[:8]], "b")
    found = found_by([index], new)
    assert found
    rows = {index.id(row): row for row in range(len(index))}
    sets = Shingles(new)
    for document, (_, name, similarity) in found.items():
        assert jaccard(sets(document), index.shingles(rows[name])) == pytest.approx(similarity)
        assert similarity >= LIMIT


def test_equal_texts_are_found_even_without_words_and_the_earliest_index_is_asked_first(tmp_path: Path) -> None:
    first, second = index_of(tmp_path / "1", ["!!!", "one two three four"]), index_of(tmp_path / "2", ["!!!", "???"], "z")
    new = scored_in(tmp_path / "new", ["???", "one  two\nthree four", "!!!", "...", "One, two, three, four!"], "n")
    assert {document: found[:2] for document, found in found_by([first, second], new).items()} == {
        0: ("exact_dedup", "z1"),
        1: ("exact_dedup", "a1"),
        2: ("exact_dedup", "a0"),
        4: ("near_dedup", "a1"),
    }
    assert set(found_by([first], new, None)) == {1, 2}


def test_an_index_of_nothing_removes_nothing(tmp_path: Path) -> None:
    index = index_of(tmp_path, [])
    assert len(index) == 0
    assert found_by([index], scored_in(tmp_path / "new", ["one two three"], "n")) == {}


def test_equal_corpora_give_equal_bytes_however_they_are_cut(tmp_path: Path) -> None:
    texts = corpus(random.Random(5), 30, 40)
    written = []
    for per_chunk in (4, 30):
        folder = tmp_path / str(per_chunk)
        for number, chunk in enumerate(scored_in(folder / "scored", texts, "a", per_chunk).chunks):
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


def synthetic(folder: Path, rows: NDArray[np.int64], seed: int) -> None:
    """Scores of some of many documents that share nothing; `seed` makes hashes of texts differ."""
    scored_in(folder / "scored", ["a b c d e f"], "x")
    base = folder / "scored" / "00000"
    keys = mixed(np.arange(COUNT * 16, dtype=np.uint64)).reshape(COUNT, 16)[rows]
    arrays = {
        "ends": np.arange(1, len(rows) + 1) * 4,
        "num_bytes": rows + 100,
        "exact": mixed(keys[:, :2] + np.uint64(seed)).view(np.uint8),
        "bands": keys,
    }
    np.savez(base.with_suffix(".npz"), **arrays)  # type: ignore[arg-type]
    np.save(base.with_name("00000.shingles.npy"), np.sort(keys[:, :4]).ravel())
    write_decisions(folder, 0, [Decision(f"d{row}") for row in rows])


def test_an_index_is_looked_up_without_being_held_in_memory(tmp_path: Path) -> None:
    rows = np.arange(0, COUNT, 500)
    synthetic(tmp_path / "old", np.arange(COUNT), 1)
    synthetic(tmp_path / "new", rows, 2)  # so that only bands find anything
    write_index(tmp_path / "index", tmp_path / "old" / "scored", tmp_path / "old")
    whole = Corpus.of(tmp_path / "new" / "scored")
    tracemalloc.start()
    found = found_by([DedupIndex(tmp_path / "index")], whole)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == {document: ("near_dedup", f"d{row}", 1.0) for document, row in enumerate(rows)}
    assert peak < 8 * COUNT
