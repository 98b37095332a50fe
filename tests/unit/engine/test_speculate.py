"""Proposals: what is proposed, how much, and that replies do not depend on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lianlu.client.base import Sampling
from lianlu.core.errors import ConfigError
from lianlu.engine.config import EngineConfig, NgramSpeculation
from lianlu.engine.engine import Engine
from lianlu.engine.output import PATIENCE, Luck
from lianlu.engine.sequence import Event, Request
from lianlu.engine.speculate import MAX_ROWS, NgramDrafter


def config(**speculation: Any) -> EngineConfig:
    return EngineConfig.model_validate({"max_tokens": 512, "block_size": 8, "speculation": speculation or None})


def loops(count: int) -> list[Request]:
    """Prompts that go round in circles, so that something can be looked up."""
    return [Request((1 + number, 2, 3, 4 + number) * 5, Sampling(max_tokens=30), ignore_eos=True) for number in range(count)]


class Alone:
    """A sequence as far as a drafter looks at it."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.sequence = self
        self.id, self.tokens, self.drafts = 1, list(tokens), list[int]()


@pytest.mark.parametrize(
    ("tokens", "proposed"),
    [
        ([1, 2, 3, 9, 1, 2], [3, 9, 1]),
        ([1, 2, 3, 1, 2, 4, 1, 2], [4, 1, 2]),
        ([5, 1, 2, 3, 6, 1, 2, 4, 5, 1, 2], [3, 6, 1]),
        ([1, 2, 3, 4], []),
        ([7, 7, 7, 7], [7]),
        ([2, 9, 9, 2], []),
        ([4], []),
    ],
)
def test_what_followed_the_longest_match_is_proposed_the_latest_of_equals(tokens: list[int], proposed: list[int]) -> None:
    drafter = NgramDrafter(NgramSpeculation(num_tokens=3, shortest_match=2, longest_match=4))
    live = Alone(tokens)
    drafter.propose([live], [3])  # type: ignore[list-item]
    assert live.drafts == proposed
    live.tokens += [1, 2] * 1000
    drafter.propose([live], [2])  # type: ignore[list-item]
    assert live.drafts == [1, 2][: len(live.drafts)]
    assert len(live.drafts) >= 1


def test_luck_grows_with_success_shrinks_with_failure_and_comes_back() -> None:
    luck = Luck(4)
    luck.note(4, 4)
    assert luck.num_tokens() == 8
    for _ in range(5):
        luck.note(4, 0)
    assert [luck.num_tokens() for _ in range(PATIENCE)] == [0] * (PATIENCE - 1) + [1]
    luck.note(1, 1)
    assert luck.num_tokens() == 1


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("kind", ["ngram", "draft"])
def test_the_reply_is_the_same_in_fewer_steps(lab: Any, kind: str, temperature: float) -> None:
    wanted = [
        Request(one.prompt, Sampling(max_tokens=30, temperature=temperature, top_k=2, seed=5, logprobs=2), ignore_eos=True)
        for one in loops(2)
    ]
    plain = lab.engine(config())
    table = {"kind": kind} if kind == "ngram" else {"kind": kind, "model": "same"}
    ahead = lab.engine(config(**table), draft=lab.model)
    expected, found = lab.run(plain, wanted), lab.run(ahead, wanted)
    assert [bare(event) for event in found] == [bare(event) for event in expected]
    stats = ahead.stats()
    assert stats.drafted_tokens >= stats.accepted_tokens > 0
    assert sum(event.timings.num_accepted for event in found) == stats.accepted_tokens
    if kind == "draft":
        assert stats.accepted_tokens == stats.drafted_tokens
        assert ahead.stats().num_steps < plain.stats().num_steps / 2


def bare(event: Event) -> tuple[Any, ...]:
    return event.token_ids, event.text, event.logprobs, event.finish_reason, event.completion_tokens


def test_nothing_is_proposed_while_many_decode(lab: Any) -> None:
    table = {"kind": "draft", "model": "same"}
    ahead = lab.engine(EngineConfig.model_validate({"max_tokens": 4096, "block_size": 8, "speculation": table}), draft=lab.model)
    for one in loops(1) * (MAX_ROWS // 2 + 1):
        ahead.submit(one)
    for _ in range(8):
        ahead.step()
    before = ahead.stats().drafted_tokens
    for _ in range(8):
        ahead.step()
    assert ahead.stats().num_running == MAX_ROWS // 2 + 1
    assert ahead.stats().drafted_tokens == before


def test_a_stop_within_accepted_proposals_ends_the_reply_there(lab: Any) -> None:
    (one,) = loops(1)
    whole = lab.run(lab.engine(config()), [one])[0].text
    stopped = Request(one.prompt, Sampling(max_tokens=30, stop=(whole[5:7],)), ignore_eos=True)
    plain, ahead = lab.engine(config()), lab.engine(config(kind="draft", model="same", num_tokens=8), draft=lab.model)
    expected, found = lab.run(plain, [stopped])[0], lab.run(ahead, [stopped])[0]
    assert bare(found) == bare(expected)
    assert found.finish_reason == "stop"


def test_a_draft_model_with_another_vocabulary_is_refused(lab: Any) -> None:
    table = {"kind": "draft", "model": "other"}
    with pytest.raises(ConfigError, match="token ids"):
        lab.engine(config(**table), draft=lab.build(vocab_size=80))
    with pytest.raises(ConfigError, match="token ids"):
        lab.engine(config(**table))


def test_proposals_never_make_another_sequence_give_way(lab: Any) -> None:
    def run(table: dict[str, Any] | None) -> tuple[list[Event], Engine]:
        tight = EngineConfig.model_validate({"max_tokens": 160, "block_size": 4, "speculation": table})
        target = lab.engine(tight, draft=lab.model)
        return lab.run(target, loops(3)), target

    (plain, before), (ahead, after) = run(None), run({"kind": "draft", "model": "same", "num_tokens": 8})
    assert [bare(event) for event in ahead] == [bare(event) for event in plain]
    assert after.stats().num_preempted <= before.stats().num_preempted
