"""Counts of bytes: a distribution that sums to 1, Witten-Bell and a fixed prior by hand, files that come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.core.errors import DataError
from lianlu.model.ngram import ByteNgram

TEXTS = [b"the cat sees the dog", b"the dog sees a cat and the cat runs", b"", b"\x00\xff\x00"]
CONTEXTS = st.one_of(st.binary(max_size=6), st.sampled_from([b"the", b"sees the", b"a c"]))


@settings(max_examples=30, deadline=None)
@given(context=CONTEXTS, order=st.integers(1, 5), prior=st.one_of(st.none(), st.floats(0.5, 100)))
def test_probabilities_after_any_context_sum_to_one(context: bytes, order: int, prior: float | None) -> None:
    model = ByteNgram(TEXTS, order)
    texts = [context + bytes([last]) for last in range(256)]
    found = model.probabilities(texts, prior=prior).reshape(256, -1)[:, -1]
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    above = ByteNgram([b"the cat"], 6, lowest=3).probabilities(texts, model.probabilities(texts), prior)
    assert above.reshape(256, -1)[:, -1].sum() == pytest.approx(1.0, abs=1e-12)


def test_witten_bell_by_hand() -> None:
    model = ByteNgram([b"aab"], order=2)
    # unigrams: a twice, b once, 2 kinds; after a: a once, b once; the text starts after a zero byte: a once
    one = {"a": (2 + 2 / 256) / 5, "b": (1 + 2 / 256) / 5, "c": (2 / 256) / 5}
    wanted = [(1 + one["a"]) / 2, (1 + 2 * one["b"]) / 4, one["c"]]
    assert model.probabilities([b"abc"]) == pytest.approx(wanted)


def test_counts_over_another_model_by_hand() -> None:
    model = ByteNgram([b"xab"], order=2, lowest=2)
    below = np.array([0.5, 0.25, 0.125])
    # seen pairs: \0x, xa, ab
    assert model.probabilities([b"xac"], below, prior=3) == pytest.approx([(1 + 1.5) / 4, (1 + 0.75) / 4, 0.375 / 4])
    assert below.tolist() == [0.5, 0.25, 0.125]


def test_seen_text_is_cheap_and_noise_is_dear_but_possible() -> None:
    model = ByteNgram([b"def add(a, b):\n    return a + b\n" * 30])
    noise = np.random.default_rng(0).integers(0, 256, 4000).astype(np.uint8).tobytes()
    assert model.bits_per_byte([b"def add(a, b):\n    return a + b\n"]) < 0.5
    assert 8 < model.bits_per_byte([noise]) < 20


def test_texts_do_not_see_each_other() -> None:
    model = ByteNgram(TEXTS)
    together = model.probabilities([b"the", b"cat"])
    assert together == pytest.approx(np.concatenate([model.probabilities([b"the"]), model.probabilities([b"cat"])]))


def test_without_any_text_all_bytes_are_alike() -> None:
    assert ByteNgram([]).bits_per_byte([b"abc"]) == pytest.approx(8.0)
    assert ByteNgram([b"abc"]).bits_per_byte([]) == 0.0
    assert ByteNgram([]).num_grams == 0


def test_a_file_comes_back(tmp_path: Path) -> None:
    model = ByteNgram(TEXTS, 4, lowest=2)
    model.save(tmp_path / "counts.npz")
    again = ByteNgram.load(tmp_path / "counts.npz")
    assert (again.order, again.lowest, again.num_grams) == (4, 2, model.num_grams)
    assert (again.probabilities([b"the mouse"]) == model.probabilities([b"the mouse"])).all()


def test_a_future_file_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "counts.npz", "wb") as file:
        np.savez(file, shape=np.array([99, 1, 1]))
    with pytest.raises(DataError, match="format 99"):
        ByteNgram.load(tmp_path / "counts.npz")
