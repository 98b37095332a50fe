"""Admission: the cost of a step is learnt from steps, and a first token that would come too late is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest

from lianlu.client.base import Sampling
from lianlu.core.errors import RequestError
from lianlu.engine.admission import MIN_STEPS, Admission, CostModel, Load
from lianlu.engine.background import BackgroundEngine
from lianlu.engine.config import EngineConfig
from lianlu.engine.sequence import Request

START, ROW, KEY = 0.004, 0.0012, 2e-7


def taught(steps: int = 200, noise: float = 0.02) -> CostModel:
    rng = random.Random(1)
    cost = CostModel(max_batch_tokens=256)
    for _ in range(steps):
        rows = rng.choice([1, 4, 8, rng.randrange(1, 257)])
        keys = rows * rng.uniform(1, 4000)
        cost.learn(rows, keys, (START + ROW * rows + KEY * keys) * rng.uniform(1 - noise, 1 + noise))
    return cost


@pytest.mark.parametrize(("rows", "keys"), [(1, 100.0), (8, 8000.0), (256, 500_000.0)])
def test_the_cost_of_a_step_is_learnt(rows: int, keys: float) -> None:
    assert taught().seconds(1, rows, keys) == pytest.approx(START + ROW * rows + KEY * keys, rel=0.1)


def test_it_follows_a_machine_that_becomes_slower() -> None:
    cost = taught()
    for step in range(200):
        rows = 1 + step % 64
        cost.learn(rows, 100.0 * rows, 3 * (START + ROW * rows))
    assert cost.seconds(1, 32, 3200) == pytest.approx(3 * (START + ROW * 32), rel=0.15)


def test_a_million_equal_steps_do_no_harm() -> None:
    cost = CostModel(max_batch_tokens=64)
    for _ in range(20_000):
        cost.learn(4, 400.0, 0.01)
    assert cost.seconds(1, 4, 400) == pytest.approx(0.01, rel=0.02)
    cost.learn(64, 10_000.0, 0.1)
    assert 0 < cost.seconds(1, 4, 400) < 0.1


def test_a_first_token_waits_for_the_backlog_and_for_a_place() -> None:
    cost = taught(noise=0.0)
    free = Load(num_free=8)
    assert cost.first_token_s(256, free) == pytest.approx(START + 256 * ROW + KEY * 256 * 128, rel=0.1)
    behind = cost.first_token_s(256, Load(backlog_tokens=2560, num_free=8))
    assert behind == pytest.approx(11 * (START + 256 * ROW), rel=0.15)
    full = Load(num_decoding=8, num_waiting=3, num_free=0, mean_keys=200.0)
    turns = 4 * 64 * (START + 8 * ROW + KEY * 1600) / 8
    assert cost.first_token_s(10, full) > turns
    assert cost.first_token_s(10, full) < turns * 1.5


def test_nothing_is_refused_before_it_is_known() -> None:
    admission = Admission(max_batch_tokens=64)
    admission.check(10_000, 0, deadline_s=0.001)
    for _ in range(MIN_STEPS):
        admission.cost.learn(10, 100.0, 0.5)
    with pytest.raises(RequestError) as caught:
        admission.check(10_000, 0, deadline_s=1.0)
    assert caught.value.status == 429
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s > 1


def test_a_full_engine_says_when_to_come_back() -> None:
    admission = Admission(max_batch_tokens=64)
    assert admission.full(9).retry_after_s is None
    for _ in range(MIN_STEPS):
        admission.cost.learn(4, 400.0, 0.5)
    admission._load = Load(num_decoding=4, num_free=0, mean_keys=100.0)
    refusal = admission.full(9)
    assert refusal.status == 429
    assert refusal.retry_after_s == pytest.approx(64 * 0.5 / 4, rel=0.1)


def test_an_engine_refuses_what_it_cannot_begin_in_time(lab: Any) -> None:
    config = EngineConfig(max_tokens=512, block_size=8, max_batch_tokens=16, max_running=2)
    background = BackgroundEngine(lab.engine(config))
    try:
        prompt = lab.prompts(1, seed=2, longest=40)[0]
        for _ in range(3):
            background.submit(Request(prompt, Sampling(max_tokens=12), ignore_eos=True)).result()
        background.submit(Request(prompt, Sampling(max_tokens=2), deadline_s=60.0)).result()
        with pytest.raises(RequestError, match="first token") as caught:
            background.submit(Request(prompt[::-1], Sampling(max_tokens=2), deadline_s=1e-9))
        assert caught.value.status == 429
    finally:
        background.close()


def test_what_lies_in_the_cache_costs_nothing(lab: Any) -> None:
    engine = lab.engine(EngineConfig(max_tokens=512, block_size=8))
    prompt = tuple(range(1, 42))
    assert engine.pool.num_known(prompt, engine._root(Request(prompt))) == 0
    lab.run(engine, [Request(prompt, Sampling(max_tokens=1))])
    assert engine.pool.num_known(prompt, engine._root(Request(prompt))) == 40
    assert engine.pool.num_known(prompt[:40], engine._root(Request(prompt))) == 32
    assert engine.pool.num_known((0, *prompt), engine._root(Request(prompt))) == 0


def test_timings_add_up(lab: Any) -> None:
    config = EngineConfig(max_tokens=96, block_size=4, max_batch_tokens=24, max_running=4)
    wanted = [Request(prompt, Sampling(max_tokens=20), ignore_eos=True) for prompt in lab.prompts(5, seed=3)]
    target = lab.engine(config)
    events = lab.run(target, wanted)
    assert target.stats().num_preempted > 0
    assert any(event.timings.preempted_s > 0 for event in events)
    for event in events:
        timings = event.timings
        parts = timings.queued_s + timings.prefill_s + timings.decode_s + timings.preempted_s
        assert parts == pytest.approx(timings.total_s, abs=1e-6)
        assert 0 < timings.share_s <= timings.computing_s <= timings.total_s
        assert timings.first_token_s <= timings.total_s
        assert timings.num_steps >= event.completion_tokens
