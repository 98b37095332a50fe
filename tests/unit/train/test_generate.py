"""Samples: greedy is the argmax each time, chance is seeded, and both know when to stop."""

from __future__ import annotations

import torch

from lianlu.kernels.attention import PackedCausal
from lianlu.model.decoder import Decoder
from lianlu.train.generate import generate


def test_greedy_is_the_most_likely_token_each_time(nano_model: Decoder) -> None:
    got = generate(nano_model, [5, 6, 7], 6)
    ids = [5, 6, 7, *got]
    with torch.no_grad():
        logits = nano_model(torch.tensor(ids), torch.arange(len(ids)), PackedCausal([0, len(ids)]))
    assert logits[2:-1].argmax(1).tolist() == got
    assert len(got) == 6


def test_chance_is_seeded(nano_model: Decoder) -> None:
    runs = [tuple(generate(nano_model, [5], 12, temperature=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_it_stops_at_an_end_token_and_at_the_trained_length(nano_model: Decoder) -> None:
    first = generate(nano_model, [5, 6, 7], 1)[0]
    assert generate(nano_model, [5, 6, 7], 10, ends={first}) == []
    limit = nano_model.config.max_position_embeddings
    assert len(generate(nano_model, [5] * (limit - 1), 10)) == 1
    assert generate(nano_model, [5] * (limit + 3), 10) == []
