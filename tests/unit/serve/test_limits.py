"""Buckets that fill up evenly, and what a refusal says about the time to wait."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.serve.failures import ApiError, as_json
from lianlu.serve.limits import Bucket, Quota


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


amounts = st.floats(0.1, 100)


@given(st.integers(1, 1000), st.lists(st.tuples(amounts, amounts), max_size=20))
def test_never_more_than_full_and_just_as_much_as_it_was_given(per_minute: int, moves: list[tuple[float, float]]) -> None:
    clock = Clock()
    bucket, taken = Bucket(per_minute, clock), 0.0
    for seconds, amount in moves:
        clock.now_s += seconds
        assert bucket.level <= per_minute
        bucket.take(amount)
        taken += amount
    assert taken + bucket.level <= per_minute + clock.now_s * per_minute / 60 + 1e-6


@given(st.integers(1, 1000), st.floats(0, 5000), st.floats(0.01, 1))
def test_after_the_wait_it_is_there_and_not_before(per_minute: int, taken: float, share: float) -> None:
    clock = Clock()
    bucket = Bucket(per_minute, clock)
    bucket.take(taken)
    wait_s = bucket.wait_s(1)
    clock.now_s = wait_s * (1 - share) if wait_s else 0.0
    assert bucket.level < 1 or not wait_s
    clock.now_s = wait_s + 1e-6
    assert bucket.level >= 1 - 1e-6


def refusal(quota: Quota) -> ApiError:
    with pytest.raises(ApiError) as caught, quota.slot():
        pass
    assert caught.value.status == 429
    return caught.value


def test_requests_a_minute() -> None:
    clock = Clock()
    quota = Quota(requests_per_minute=2, clock=clock)
    for _ in range(2):
        with quota.slot():
            pass
    error = refusal(quota)
    assert error.message == "this key may use 2 requests a minute"
    assert error.retry_after_s == pytest.approx(30)
    assert as_json(error)[2]["Retry-After"] == "30"
    clock.now_s = 29.5
    assert as_json(refusal(quota))[2]["Retry-After"] == "1"
    clock.now_s = 30.0
    with quota.slot():
        pass


def test_tokens_are_charged_at_the_end_and_may_be_overdrawn() -> None:
    clock = Clock()
    quota = Quota(tokens_per_minute=60, clock=clock)
    with quota.slot():
        quota.charge(100)
    assert refusal(quota).retry_after_s == pytest.approx(41)
    clock.now_s = 41.0
    with quota.slot():
        pass


def test_requests_at_one_time() -> None:
    clock = Clock()
    quota = Quota(max_concurrent=2, clock=clock)
    with quota.slot():
        with quota.slot():
            assert refusal(quota).message == "this key may use 2 requests at one time"
            clock.now_s = 5.0
        with quota.slot():
            pass
    wait_s = Quota(max_concurrent=1)._mean_s
    assert 0 < wait_s < math.inf


def test_a_refused_request_takes_nothing() -> None:
    clock = Clock()
    quota = Quota(requests_per_minute=1, max_concurrent=1, clock=clock)
    with quota.slot():
        for _ in range(10):
            refusal(quota)
    clock.now_s = 60.0
    with quota.slot():
        pass


def test_a_request_that_fails_gives_its_place_back() -> None:
    quota = Quota(max_concurrent=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), quota.slot():
            raise ZeroDivisionError


def test_what_is_left_as_openai_says_it() -> None:
    clock = Clock()
    quota = Quota(requests_per_minute=60, tokens_per_minute=1000, clock=clock)
    with quota.slot():
        quota.charge(600)
    assert quota.headers() == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "400",
        "x-ratelimit-reset-tokens": "36s",
    }
    quota.charge(6000)
    assert quota.headers()["x-ratelimit-remaining-tokens"] == "0"
    assert quota.headers()["x-ratelimit-reset-tokens"] == "6m36s"
    clock.now_s = 0.9
    assert quota.headers()["x-ratelimit-reset-requests"] == "100ms"
    assert Quota().headers() == {}
