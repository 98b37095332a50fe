"""Scores: those of a dense forward pass, the same to the bit as in generation, whatever is scored beside them."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.engine import scoring
from lianlu.engine.scoring import Target, TokenScores, groups, score_group, score_tokens
from lianlu.kernels.attention import PackedCausal


def dense(model: Any, target: Target) -> tuple[list[float], list[bool]]:
    ids = torch.tensor(target.ids)
    with torch.inference_mode():
        logits = model(ids[:-1], torch.arange(len(ids) - 1), PackedCausal([0, len(ids) - 1])).log_softmax(-1)
    places = range(target.first, len(ids))
    return [logits[t - 1, ids[t]].item() for t in places], [bool(logits[t - 1].argmax() == ids[t]) for t in places]


def random_targets(seed: int, count: int = 9) -> list[Target]:
    """Targets of which many have a beginning in common."""
    rng = random.Random(seed)
    found: list[Target] = []
    for _ in range(count):
        begin = rng.choice(found).ids[: rng.randrange(1, 60)] if found and rng.random() < 0.7 else ()
        ids = begin + tuple(rng.randrange(64) for _ in range(rng.randrange(2, 30)))
        found.append(Target(ids, rng.randrange(1, len(ids))))
    return found


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_scores_are_those_of_a_dense_pass(lab: Any, seed: int) -> None:
    targets = random_targets(seed)
    for target, scores in zip(targets, score_tokens(lab.model, targets), strict=True):
        logprobs, greedy = dense(lab.model, target)
        assert scores.logprobs == pytest.approx(logprobs, abs=1e-5)
        assert scores.is_greedy == greedy


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_a_score_does_not_depend_on_its_neighbours(lab: Any, seed: int) -> None:
    targets = random_targets(seed)
    together = score_group(lab.model, targets, num_top=3)
    alone = [score_group(lab.model, [target], num_top=3)[0] for target in targets]
    assert together == alone


def test_what_is_shared_is_computed_once(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    context = tuple(range(1, 41))
    targets = [Target((*context, answer), 40) for answer in (1, 2, 3, 4)]
    targets += [Target((*context, 5, 6, answer), 40) for answer in (1, 2)]
    rows = []
    hidden = lab.model.hidden
    monkeypatch.setattr(lab.model, "hidden", lambda ids, *rest: rows.append(len(ids)) or hidden(ids, *rest))
    scores = score_group(lab.model, targets)
    assert rows == [44]
    assert [scores_of.logprobs for scores_of in scores] == [pytest.approx(dense(lab.model, one)[0], abs=1e-5) for one in targets]
    assert scores[4].logprobs[:2] == scores[5].logprobs[:2]


def test_what_depends_on_the_length_of_a_text_is_not_shared(lab: Any) -> None:
    model = lab.build(max_position_embeddings=32, rope_scaling={"kind": "dynamic", "factor": 2.0})
    targets = [Target(tuple(range(size)), 1) for size in (60, 20, 50, 32, 33, 34)]
    together = score_group(model, targets)
    assert together == [score_group(model, [target])[0] for target in targets]


def test_short_beginnings_are_not_worth_sharing(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    hidden = lab.model.hidden
    monkeypatch.setattr(lab.model, "hidden", lambda ids, *rest: rows.append(len(ids)) or hidden(ids, *rest))
    score_group(lab.model, [Target((1, 2, 3, 4, 5), 1), Target((1, 2, 6, 7, 8), 1)])
    assert rows == [8]


def test_logits_are_computed_a_few_rows_at_a_time(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "HEAD_ROWS", 6)
    sizes = []
    head = lab.model.head
    monkeypatch.setattr(lab.model, "head", lambda h: sizes.append(len(h)) or head(h))
    target = Target(tuple(range(1, 41)), 20)
    scores = score_group(lab.model, [target])[0]
    assert sizes == [8, 8, 8, 4]
    assert scores.logprobs == pytest.approx(dense(lab.model, target)[0], abs=1e-5)


def test_groups_keep_the_order_and_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "GROUP_TOKENS", 100)
    monkeypatch.setattr(scoring, "GROUP_INPUTS", 5)
    targets = random_targets(3, count=40)
    found = list(groups(targets))
    assert [target for group in found for target in group] == targets
    assert all(1 <= len(group) <= 5 for group in found)
    assert max(len(group) for group in found) > 1
    assert list(groups([])) == []
    big = Target(tuple(range(64)) * 3, 1)
    assert [len(group) for group in groups([targets[0], big, targets[1]])] == [1, 1, 1]


def test_alternatives(lab: Any) -> None:
    target = Target((1, 2, 3, 4), 1)
    (scores,) = score_group(lab.model, [target], num_top=5)
    assert [len(item) for item in scores.alternatives] == [5] * 3
    for is_greedy, logprob, items in zip(scores.is_greedy, scores.logprobs, scores.alternatives, strict=True):
        assert is_greedy == (items[0][1] == logprob)
        assert [value for _, value in items] == sorted((value for _, value in items), reverse=True)


def test_nothing_to_score_is_nothing(lab: Any) -> None:
    assert score_group(lab.model, [Target((1, 2), 2), Target((1, 2, 3), 2)])[0] == TokenScores()
