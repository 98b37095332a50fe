from __future__ import annotations

import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.core.pool import Here
from lianlu.data.dedup.near_dedup import NUM_BANDS, NUM_HASHES, bands, jaccard, shingles, signature
from lianlu.data.dedup.near_groups import Columns, near_duplicates
from lianlu.data.rules.characters import hashes_of
from lianlu.data.rules.textview import TextView

WORDS = [f"word{n}" for n in range(5000)]


def text_of(rng: random.Random, count: int = 400) -> list[str]:
    return rng.choices(WORDS, k=count)


def changed(words: list[str], share: float, rng: random.Random) -> list[str]:
    return [rng.choice(WORDS) if rng.random() < share else word for word in words]


def decide(texts: list[str], limit: float = 0.7) -> dict[int, int]:
    sets = [shingles(TextView(text).token_hashes()) for text in texts]
    worded = np.array([n for n, hashes in enumerate(sets) if len(hashes)], np.uint32)
    keys = np.array([bands(sets[n]) for n in worded], np.uint64).reshape(-1, NUM_BANDS)
    lengths = np.array([len(texts[n]) for n in worded], np.int64)
    columns = Columns(worded, lambda: lengths, lambda number: keys[:, number])
    with tempfile.TemporaryDirectory() as folder:
        found = near_duplicates(columns, sets.__getitem__, limit, Path(folder), Here())
    return {index: kept for index, kept, _ in found.tolist()}


def test_the_signature_estimates_jaccard() -> None:
    rng = random.Random(0)
    for share in (0.02, 0.05, 0.1):
        words = text_of(rng, 3000)
        a, b = shingles(hashes_of(words)), shingles(hashes_of(changed(words, share, rng)))
        estimate = float((signature(a) == signature(b)).mean())
        assert estimate == pytest.approx(jaccard(a, b), abs=4 / NUM_HASHES**0.5 * 0.5)


def test_planted_copies_are_found_and_others_left() -> None:
    rng = random.Random(1)
    base = [text_of(rng) for _ in range(60)]
    near = [changed(words, 0.01, rng) for words in base[:30]]
    far = [changed(words, 0.2, rng) for words in base[30:]]
    found = decide([" ".join(words) for words in base + near + far])
    pairs = {tuple(sorted(pair)) for pair in found.items()}
    assert {(n, 60 + n) for n in range(30)} == pairs


def test_every_removal_is_near_a_kept_document_and_nothing_goes_by_transitivity() -> None:
    rng = random.Random(2)
    chain = [text_of(rng)]
    for _ in range(12):
        chain.append(changed(chain[-1], 0.02, rng))
    texts = [" ".join(words) for words in chain]
    found = decide(texts)
    sets = [shingles(TextView(text).token_hashes()) for text in texts]
    assert found
    assert all(kept not in found and jaccard(sets[gone], sets[kept]) >= 0.7 for gone, kept in found.items())
    survivors = [n for n in range(len(texts)) if n not in found]
    assert len(survivors) > 1


def test_the_longest_is_kept_and_of_equals_the_first() -> None:
    words = text_of(random.Random(3))
    texts = [" ".join(words), " ".join(words), " ".join([*words, "and", "one", "more"])]
    assert decide(texts) == {0: 2, 1: 2}
    assert decide(texts[:2]) == {1: 0}


def test_a_shared_template_does_not_merge_different_texts() -> None:
    rng = random.Random(4)
    template = " ".join(text_of(rng, 60))
    assert decide([f"{template} {' '.join(text_of(rng, 120))}" for _ in range(50)]) == {}


def test_chinese_shingles_are_characters_and_case_and_punctuation_do_not_count() -> None:
    assert len(shingles(TextView("今天天气很好我们去公园").token_hashes())) == 7
    assert np.array_equal(
        shingles(TextView("The Cat, sat\n  on a mat!").token_hashes()), shingles(TextView("the cat sat on a mat").token_hashes())
    )


def test_texts_without_words_are_nobodys_duplicates() -> None:
    assert decide(["!!!", "???", "!!!"]) == {}
    assert decide(["one two", "one two", "two one"]) == {1: 0}


@given(st.sets(st.integers(0, 50)), st.sets(st.integers(0, 50)))
def test_jaccard_is_that_of_sets(a: set[int], b: set[int]) -> None:
    arrays = [np.array(sorted(s), dtype=np.uint64) for s in (a, b)]
    assert jaccard(*arrays) == pytest.approx(len(a & b) / len(a | b) if a | b else 0)


def test_hashes_are_the_same_on_every_machine() -> None:
    assert bands(shingles(TextView("one two three four five six seven").token_hashes()))[:2].tolist() == [
        12464660219703861755,
        10741146943510732187,
    ]
