"""Sampling: the right distribution, the right candidates, and a reply that depends on its seed alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.kernels import sampling
from lianlu.kernels.sampling import Draw


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def grid(temperature: float, top_k: int, top_p: float, min_p: float = 0.0, count: int = 2000) -> list[Draw]:
    """Evenly spread draws: their shares are the probabilities up to 1 / count."""
    return [Draw(temperature, top_k, top_p, (index + 0.5) / count, min_p) for index in range(count)]


def shares(logits: torch.Tensor, draws: list[Draw]) -> torch.Tensor:
    ids = sampling.sample(logits.expand(len(draws), -1), draws)
    return torch.bincount(ids, minlength=logits.shape[-1]) / len(draws)


def expected(logits: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """The cuts as transformers makes them, one token after the other."""
    order = (logits / temperature).argsort(descending=True, stable=True).tolist()
    kept = order[:top_k] if top_k else order
    p = {index: math.exp(logits[index].item() / temperature) for index in kept}
    total, mass, final = sum(p.values()), 0.0, {}
    for index in kept:
        if mass < top_p:
            final[index] = p[index]
        mass += p[index] / total
    found = torch.zeros(len(logits))
    for index, value in final.items():
        found[index] = value / sum(final.values())
    return found


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.7), (5, 0.7), (1, 1.0), (0, 1e-6), (100, 1.0)])
def test_distribution(temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.randn(12, generator=torch.Generator().manual_seed(1)) * 2
    found = shares(logits, grid(temperature, top_k, top_p))
    assert torch.allclose(found, expected(logits, temperature, top_k, top_p), atol=2e-3)


def test_top_p_over_a_vocabulary_larger_than_the_first_look() -> None:
    size = 4 * sampling.NUCLEUS
    logits = torch.arange(size, 0, -1) * 1e-4
    masses = logits.double().softmax(-1).cumsum(-1)
    draws = [Draw(1.0, 0, top_p, u) for top_p in (0.1, 0.5, 0.9) for u in (0.0, 0.5, 1 - 1e-9)]
    wanted = [int((masses < draw.top_p).sum()) for draw in draws]
    total = [masses[last].item() for last in wanted]
    places = [int((masses < draw.uniform * mass).sum()) for draw, mass in zip(draws, total, strict=True)]
    assert sampling.sample(logits.expand(len(draws), -1), draws).tolist() == pytest.approx(places, abs=1)


def test_transformers_keeps_the_same_candidates() -> None:
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(3)) * 3
    cuts = ((0.7, 10, 0.8, 0.0), (1.3, 20, 0.95, 0.05), (1.0, 50, 0.3, 0.5), (2.0, 50, 1.0, 0.1), (1.0, 50, 1.0, 1.0))
    for temperature, top_k, top_p, min_p in cuts:
        theirs = TemperatureLogitsWarper(temperature)(None, logits)
        theirs = TopPLogitsWarper(top_p)(None, TopKLogitsWarper(top_k)(None, theirs))
        theirs = MinPLogitsWarper(min_p)(None, theirs).softmax(-1)[0]
        assert torch.allclose(shares(logits[0], grid(temperature, top_k, top_p, min_p)), theirs, atol=2e-3)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (6, 1.0), (0, 0.9), (6, 0.9)])
@pytest.mark.parametrize("min_p", [0.0, 0.1, 0.4, 1.0])
def test_min_p_keeps_what_is_likely_enough(top_k: int, top_p: float, min_p: float) -> None:
    logits = torch.randn(12, generator=torch.Generator().manual_seed(8)) * 1.5
    whole = expected(logits, 0.8, top_k, top_p)
    kept = whole.where(whole >= min_p * whole.max(), 0.0)
    assert torch.allclose(shares(logits, grid(0.8, top_k, top_p, min_p)), kept / kept.sum(), atol=2e-3)
    assert min_p < 1.0 or (kept > 0).sum() == 1


rows = st.lists(
    st.tuples(
        st.sampled_from([0.3, 1.0, 4.0]),
        st.sampled_from([0, 1, 7]),
        st.sampled_from([0.2, 0.9, 1.0]),
        st.integers(0, 9),
        st.sampled_from([0.0, 0.3]),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(rows)
def test_a_row_does_not_depend_on_its_neighbours(wanted: list[tuple[float, int, float, int, float]]) -> None:
    logits = torch.randn(len(wanted), 40, generator=torch.Generator().manual_seed(len(wanted)))
    draws = [Draw(heat, top_k, top_p, sampling.uniform(seed, 0), min_p) for heat, top_k, top_p, seed, min_p in wanted]
    together = sampling.sample(logits, draws)
    alone = torch.cat([sampling.sample(logits[row : row + 1], [draw]) for row, draw in enumerate(draws)])
    assert torch.equal(together, alone)


@given(st.integers(-(2**63), 2**63), st.integers(0, 10**6))
def test_draws_are_reproducible_and_in_range(seed: int, place: int) -> None:
    value = sampling.uniform(seed, place)
    assert 0 <= value < 1
    assert value == sampling.uniform(seed, place)


def test_draws_are_spread_evenly() -> None:
    values = torch.tensor([sampling.uniform(seed, place) for seed in range(20) for place in range(100)])
    assert abs(values.mean() - 0.5) < 0.02
    assert torch.histc(values, 10, 0, 1).min() > 150


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
def test_a_token_of_no_probability_is_never_drawn(u: float) -> None:
    logits = torch.tensor([[-math.inf, 1.0, -math.inf, 2.0, -math.inf]])
    for draw in (
        Draw(1.0, 0, 1.0, u),
        Draw(1.0, 5, 1.0, u),
        Draw(1.0, 0, 0.99, u),
        Draw(1.0, 4, 0.99, u),
        Draw(1.0, 0, 1.0, u, 0.1),
    ):
        assert sampling.sample(logits, [draw]).item() in (1, 3)


def test_greedy_takes_the_first_of_equals_and_notices_unsound_rows() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [math.nan, 1.0, 2.0], [-math.inf] * 3, [0.0, math.inf, 0.0], [-math.inf, 0.0, -1.0]])
    ids, sound = sampling.greedy(logits)
    assert ids[0] == 1
    assert ids[4] == 1
    assert sound.tolist() == [True, False, False, False, True]


def test_logprobs_and_alternatives() -> None:
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(4))
    ids = torch.tensor([2, int(logits[1].argmax()), 8])
    own, greedy = sampling.logprobs(logits, ids)
    exact = logits.double().log_softmax(-1)
    assert torch.allclose(own.double(), exact.gather(1, ids[:, None])[:, 0], atol=1e-6)
    assert greedy[1]
    assert greedy.tolist() == (logits.argmax(-1) == ids).tolist()
    top_ids, top = sampling.alternatives(logits, 4)
    assert torch.equal(top_ids, exact.topk(4).indices)
    assert torch.allclose(top.double(), exact.topk(4).values, atol=1e-6)
    assert sampling.alternatives(logits, 0)[0].shape == (3, 0)
    assert sampling.alternatives(logits, 99)[0].shape == (3, 9)


def test_threads_do_not_split_a_single_long_row() -> None:
    logits = torch.randn(3, 70_000, generator=torch.Generator().manual_seed(5)) * 5
    ids = torch.tensor([1, 2, 3])
    draws = [Draw(1.0, 0, top_p, 0.7) for top_p in (1.0, 0.5, 0.999)]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        own, top = sampling.logprobs(logits, ids)[0], sampling.alternatives(logits, 5)[1]
        drawn = sampling.sample(logits, draws)
        for row in range(3):
            one = slice(row, row + 1)
            assert torch.equal(sampling.logprobs(logits[one], ids[one])[0], own[one])
            assert torch.equal(sampling.alternatives(logits[one], 5)[1], top[one])
            assert torch.equal(sampling.sample(logits[one], draws[one]), drawn[one])
    finally:
        torch.set_num_threads(threads)
