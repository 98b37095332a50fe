"""The baselines: a distribution that sums to 1, Witten-Bell by hand, and learning from what was seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.train.ngram import ByteNgram, gzip_bits_per_byte

TEXTS = [b"the cat sees the dog", b"the dog sees a cat and the cat runs", b"", b"\x00\xff\x00"]


@settings(max_examples=30, deadline=None)
@given(context=st.one_of(st.binary(max_size=6), st.sampled_from([b"the", b"sees the", b"a c"])), order=st.integers(1, 5))
def test_probabilities_after_any_context_sum_to_one(context: bytes, order: int) -> None:
    model = ByteNgram(TEXTS, order)
    total = sum(model.probabilities([context + bytes([last])])[-1] for last in range(256))
    assert total == pytest.approx(1.0, abs=1e-12)


def test_witten_bell_by_hand() -> None:
    model = ByteNgram([b"aab"], order=2)
    # unigrams: a twice, b once, 2 kinds; after a: a once, b once; the text starts after a zero byte: a once
    one = {"a": (2 + 2 / 256) / 5, "b": (1 + 2 / 256) / 5, "c": (2 / 256) / 5}
    wanted = [(1 + one["a"]) / 2, (1 + 2 * one["b"]) / 4, one["c"]]
    assert model.probabilities([b"abc"]) == pytest.approx(wanted)


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


def test_gzip_counts_its_whole_stream() -> None:
    assert gzip_bits_per_byte([b"a" * 1000, b"a" * 1000]) < 0.2
    noise = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8).tobytes()
    assert gzip_bits_per_byte([noise]) == pytest.approx(8.0, abs=0.1)
    assert math.isfinite(gzip_bits_per_byte([]))
