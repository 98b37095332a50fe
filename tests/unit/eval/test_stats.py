"""Statistics against known values, scipy and the stated contracts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from lianlu.eval import stats
from lianlu.eval.stats import make_values

scores = st.lists(st.floats(-100, 100), min_size=2, max_size=40)
bits = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=60)


def test_known_values_of_a_small_sample():
    data = make_values([1, 2, 3, 4])
    assert stats.mean(data) == 2.5
    assert stats.stderr(data) == pytest.approx(math.sqrt(5 / 3) / 2)


@given(scores)
def test_standard_error_is_the_usual_one_without_clusters(values):
    assert stats.stderr(make_values(values)) == pytest.approx(scipy.stats.sem(values), abs=1e-9)


@given(scores, st.integers(2, 4))
def test_repeating_every_item_in_its_cluster_adds_no_certainty(values, times):
    once = make_values(values)
    names = [f"c{index}" for index in range(len(values)) for _ in range(times)]
    repeated = make_values([value for value in values for _ in range(times)], None, names)
    assert stats.mean(repeated) == pytest.approx(stats.mean(once), abs=1e-9)
    assert stats.stderr(repeated) == pytest.approx(stats.stderr(once), abs=1e-9)


def test_clusters_that_agree_inside_widen_the_error():
    values = [0.0] * 5 + [1.0] * 5 + [0.0] * 5 + [1.0] * 5
    names = [f"c{index // 5}" for index in range(20)]
    assert stats.stderr(make_values(values, None, names)) > 2 * stats.stderr(make_values(values))


@given(scores, st.integers(2, 5))
def test_an_integer_weight_is_so_many_copies_in_one_cluster(values, times):
    weighted = make_values(values, [times if index == 0 else 1.0 for index in range(len(values))])
    copied = make_values(
        [values[0]] * (times - 1) + values, None, ["first"] * times + [f"c{index}" for index in range(len(values) - 1)]
    )
    assert stats.mean(weighted) == pytest.approx(stats.mean(copied), abs=1e-9)
    assert stats.stderr(weighted) == pytest.approx(stats.stderr(copied), abs=1e-9)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(pair):
    successes, n = pair
    oracle = scipy.stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert stats.wilson(successes, n) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@given(st.integers(0, 300), st.integers(0, 300))
def test_sign_test_agrees_with_scipy(ups, downs):
    oracle = scipy.stats.binomtest(ups, ups + downs).pvalue if ups + downs else 1.0
    assert stats.sign_test(ups, downs) == pytest.approx(oracle, rel=1e-9)


def test_sign_test_of_many_items_does_not_overflow():
    assert stats.sign_test(7000, 7000) == 1.0
    assert 0 <= stats.sign_test(5000, 9000) < 1e-200


def test_bootstrap_interval_is_near_the_normal_one_and_repeats_itself():
    values = np.random.default_rng(3).normal(5, 2, 400).tolist()
    one, two = stats.summarize(make_values(values)), stats.summarize(make_values(values))
    assert one == two
    assert one.interval == "bootstrap"
    assert one.low == pytest.approx(one.value - 1.96 * one.stderr, abs=0.03)
    assert one.high == pytest.approx(one.value + 1.96 * one.stderr, abs=0.03)


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(4).exponential(1, 150)
    oracle = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=1).confidence_interval
    ours = stats.summarize(make_values(values.tolist()))
    assert (ours.low, ours.high) == pytest.approx((oracle.low, oracle.high), abs=0.02)


def test_chunks_do_not_change_the_draws(monkeypatch):
    values = make_values(np.random.default_rng(5).normal(size=50).tolist())
    whole = stats.summarize(values)
    monkeypatch.setattr(stats, "CHUNK_BYTES", 8 * 50 * 7)
    assert stats.summarize(values) == whole


@given(bits)
def test_the_interval_of_a_share_holds_it_and_stays_in_bounds(values):
    found = stats.summarize(make_values(values))
    assert found.interval == "wilson"
    assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize("values", [[], [0.5]])
def test_too_few_items_give_no_interval(values):
    found = stats.summarize(make_values(values))
    assert found.interval == "none"
    assert math.isnan(found.stderr)


def test_exponential_maps_value_and_interval():
    base = stats.summarize(make_values([1.0, 2.0, 3.0, 2.0]))
    found = stats.exponential(base)
    assert found.value == pytest.approx(math.exp(2))
    assert (found.low, found.high) == pytest.approx((math.exp(base.low), math.exp(base.high)))
    assert stats.exponential(stats.summarize(make_values([9e9, 9e9, 8e9]))).value > 1e300


@given(bits, st.randoms(use_true_random=False))
def test_paired_comparison_is_antisymmetric(values, random):
    other = [random.choice([0.0, 1.0]) for _ in values]
    there = stats.compare(make_values(values), make_values(other))
    back = stats.compare(make_values(other), make_values(values))
    assert there.difference == pytest.approx(-back.difference)
    assert there.p == back.p
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_mcnemar_counts_flips_only():
    first, second = [1, 1, 0, 0, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1, 1, 0]
    found = stats.compare(make_values(first), make_values(second))
    assert found.test == "mcnemar exact"
    assert found.p == pytest.approx(scipy.stats.binomtest(1, 6).pvalue)
    assert found.difference == pytest.approx(0.5)


def test_a_model_against_itself_does_not_differ():
    data = make_values([0.3, 0.7, 0.1, 2.0])
    found = stats.compare(data, data)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_a_shift_on_every_item_is_seen_though_the_items_vary_more():
    base = np.random.default_rng(6).normal(0, 10, 60)
    found = stats.compare(make_values(base.tolist()), make_values((base + 0.5).tolist()))
    assert found.test == "sign test"
    assert found.low == pytest.approx(0.5)
    assert found.high == pytest.approx(0.5)
    assert found.p < 1e-10


def test_perplexity_is_compared_after_the_exponential():
    first, second = make_values([1.0, 1.2, 0.8], [5, 6, 7]), make_values([2.0, 2.2, 1.8], [5, 6, 7])
    found = stats.compare(first, second, exp=True)
    assert found.difference == pytest.approx(math.exp(stats.mean(second)) - math.exp(stats.mean(first)))
    assert found.low > 0


@pytest.mark.parametrize("weights", [[1.0, 0.0], [1.0, -2.0], [1.0]])
def test_wrong_weights_are_refused(weights):
    with pytest.raises(ValueError):
        make_values([1.0, 2.0], weights)


def test_other_items_are_refused():
    with pytest.raises(ValueError):
        stats.compare(make_values([1.0, 2.0]), make_values([1.0, 2.0], None, ["a", "a"]))
