"""Semantic near duplicates: every removal is near a kept text, the longest stay, equal runs decide equally."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.dedup import semantic
from lianlu.data.dedup.semantic import Vectors, find_duplicates, tfidf_vectors, unit

WORDS = [f"word{n}" for n in range(4000)]


def sentences(rng: random.Random, count: int = 30) -> list[str]:
    """Sentences about a topic of their own: a few words often, many seldom."""
    topic = rng.sample(WORDS, 40)
    return [" ".join(rng.choices(topic, k=8) + rng.choices(WORDS, k=4)) for _ in range(count)]


def lengths_of(texts: list[str]) -> np.ndarray:
    return np.array([len(text) for text in texts])


def random_vectors(count: int, seed: int, groups: int = 30) -> Vectors:
    """Points around a few centres, so that some are near each other."""
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(groups, 16))[rng.integers(0, groups, count)] + rng.normal(size=(count, 16)) * 0.1)


def test_reordered_and_edited_texts_are_found_and_others_left() -> None:
    rng = random.Random(0)
    base = [sentences(rng) for _ in range(80)]
    planted = []
    for text in base[:30]:
        lines = text[:]
        rng.shuffle(lines)
        planted.append(
            " . ".join(" ".join(rng.choice(WORDS) if rng.random() < 0.04 else w for w in s.split()) for s in lines)[:-20]
        )
    texts = [" . ".join(text) for text in base] + planted
    found = {(gone, kept) for gone, kept, _ in find_duplicates(lengths_of(texts), tfidf_vectors(texts), 0.8)}
    assert found == {(80 + n, n) for n in range(30)}


def test_chinese_texts_are_compared_by_pairs_of_characters() -> None:
    texts = ["今天天气很好我们去公园散步", "我们去公园散步今天天气很好", "天今气天好很们我园公去步散"]
    near, far = (tfidf_vectors(texts) @ tfidf_vectors(texts)[0])[1:]
    assert near > 0.85 > far


@pytest.mark.parametrize("count", [1, 5, 700, 1500])
def test_every_removal_names_a_kept_text_that_is_near_and_not_shorter(count: int) -> None:
    vectors = random_vectors(count, count)
    lengths = np.random.default_rng(1).integers(1, 50, count)
    found = list(find_duplicates(lengths, vectors, 0.95))
    gone = {index for index, _, _ in found}
    assert len(gone) == len(found)
    for index, kept, cosine in found:
        assert kept not in gone
        assert cosine == pytest.approx(float(vectors[index] @ vectors[kept]), abs=1e-5)
        assert cosine >= 0.95
        assert (lengths[kept], -kept) >= (lengths[index], -index)
    assert list(find_duplicates(lengths, vectors, 0.95)) == found


def test_clusters_lose_few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = random_vectors(3000, 7, groups=1500)
    lengths = np.arange(3000)[::-1]
    clustered = {index for index, _, _ in find_duplicates(lengths, vectors, 0.9)}
    monkeypatch.setattr(semantic, "CLUSTER_TEXTS", 3000)
    everything = {index for index, _, _ in find_duplicates(lengths, vectors, 0.9)}
    assert clustered <= everything
    assert len(clustered) > 0.98 * len(everything) > 500


def test_nothing_goes_by_transitivity() -> None:
    angles = np.arange(6) * np.arccos(0.96)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = {gone: kept for gone, kept, _ in find_duplicates(np.arange(6)[::-1], vectors, 0.95)}
    assert found == {1: 0, 3: 2, 5: 4}


def test_empty_texts_repeat_nothing() -> None:
    texts = ["", "   ", "a b c d", "a b c d", "!!!", ""]
    vectors = tfidf_vectors(texts)
    assert [(gone, kept) for gone, kept, _ in find_duplicates(lengths_of(texts), vectors, 0.95)] == [(3, 2)]
    assert tfidf_vectors([]).shape[0] == 0
    assert list(find_duplicates(np.empty(0, np.int64), tfidf_vectors([]), 0.9)) == []
    assert list(find_duplicates(np.array([0, 0]), tfidf_vectors(["", ""]), 0.9)) == []


def test_full_rank_keeps_the_cosines_of_tfidf() -> None:
    rng = random.Random(3)
    texts = [" ".join(text) for text in (sentences(rng, 4) for _ in range(20))]
    exact = semantic._tfidf(texts).toarray()
    reduced = tfidf_vectors(texts)
    assert reduced @ reduced.T == pytest.approx(exact @ exact.T, abs=1e-5)


def test_reduction_is_the_best_of_its_rank() -> None:
    rng = random.Random(4)
    matrix = semantic._tfidf([" ".join(sentences(rng, 6)) for _ in range(60)])
    best = np.linalg.svd(matrix.toarray(), compute_uv=False)[:10]
    assert np.linalg.norm(semantic._reduced(matrix, 10)) == pytest.approx(np.linalg.norm(best), rel=0.03)


@given(st.lists(st.text(max_size=30), max_size=8))
def test_any_texts_have_vectors_of_length_one_or_none(texts: list[str]) -> None:
    norms = np.linalg.norm(tfidf_vectors(texts), axis=1)
    assert all(norm == 0 or norm == pytest.approx(1, abs=1e-5) for norm in norms)
