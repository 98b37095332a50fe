"""Biases and penalties: the numbers of a slow reading of the definitions, for any history, looked ahead or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.client.base import Constraint, Sampling
from lianlu.core.errors import RequestError
from lianlu.engine.config import EngineConfig, NgramSpeculation
from lianlu.engine.rules import Rules, rules_for
from lianlu.engine.sequence import Request

SIZE = 12
IDS = st.integers(0, SIZE - 1)
WANTED = st.fixed_dictionaries(
    {
        "logit_bias": st.lists(st.tuples(IDS, st.sampled_from([-100.0, -1.5, 2.0])), max_size=3).map(tuple),
        "repetition_penalty": st.sampled_from([1.0, 0.7, 1.3]),
        "frequency_penalty": st.sampled_from([0.0, -0.5, 0.9]),
        "presence_penalty": st.sampled_from([0.0, -1.0, 0.4]),
    }
)


def rules(prompt: Sequence[int], **wanted: Any) -> Rules | None:
    return rules_for(Request(tuple(prompt), Sampling(**wanted)), None)  # type: ignore[arg-type]


def expected(logits: Sequence[float], prompt: Sequence[int], reply: Sequence[int], wanted: Sampling) -> list[float]:
    """Token by token, as OpenAI, vLLM and transformers describe it."""
    row = []
    for token, logit in enumerate(logits):
        value = logit + sum(bias for index, bias in wanted.logit_bias if index == token)
        if token in (*prompt, *reply):
            value = value / wanted.repetition_penalty if value > 0 else value * wanted.repetition_penalty
        row.append(value - wanted.frequency_penalty * reply.count(token) - wanted.presence_penalty * (token in reply))
    return row


def test_nothing_to_adjust_is_no_rules() -> None:
    assert rules([1, 2], temperature=1.0, min_p=0.5, top_k=3) is None


@settings(max_examples=80, deadline=None)
@given(WANTED, st.lists(IDS, min_size=1, max_size=6), st.lists(IDS, max_size=8), st.lists(IDS, max_size=4), st.integers(0, 99))
def test_the_numbers(wanted: dict[str, Any], prompt: list[int], reply: list[int], ahead: list[int], seed: int) -> None:
    found = rules(prompt, **wanted)
    if found is None:
        return
    logits = torch.randn(SIZE, generator=torch.Generator().manual_seed(seed)) * 3
    kept = logits.clone()
    for place, token in enumerate(reply):
        if place % 2:
            found.adjust(logits)
        found.accept(token)
    before = found.adjust(logits)
    assert found.adjust(logits, ahead).tolist() == pytest.approx(
        expected(logits.tolist(), prompt, reply + ahead, Sampling(**wanted)), rel=1e-6, abs=1e-5
    )
    assert torch.equal(found.adjust(logits), before)
    assert before.tolist() == pytest.approx(expected(logits.tolist(), prompt, reply, Sampling(**wanted)), rel=1e-6, abs=1e-5)
    assert torch.equal(logits, kept)
    assert found.num_valid(ahead) == len(ahead)
    assert found.forced() == []
    assert not found.finished
    in_time = rules(prompt, **wanted)
    assert in_time is not None
    for token in (*reply, *ahead):
        in_time.accept(token)
    assert torch.equal(in_time.adjust(logits), found.adjust(logits, ahead))


def test_half_precision_becomes_single() -> None:
    found = rules([0], presence_penalty=1.0)
    assert found is not None
    row = torch.zeros(SIZE, dtype=torch.bfloat16)
    assert found.adjust(row).dtype == torch.float32


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"min_p": math.nan},
        {"presence_penalty": 2.1},
        {"frequency_penalty": -math.inf},
        {"frequency_penalty": math.nan},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": math.inf},
        {"repetition_penalty": math.nan},
        {"logit_bias": ((64, 1.0),)},
        {"logit_bias": ((-1, 1.0),)},
        {"logit_bias": ((1, 101.0),)},
        {"logit_bias": ((1, math.nan),)},
    ],
    ids=str,
)
def test_what_is_out_of_range_is_refused(lab: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))) as caught:
        lab.engine().check(Request((1,), Sampling(**wrong)))
    assert caught.value.status == 400


def test_replies_are_the_same_alone_in_a_batch_and_with_proposals(lab: Any) -> None:
    prompts = lab.prompts(6, seed=4)
    kinds: list[dict[str, Any]] = [
        {"repetition_penalty": 1.4},
        {"frequency_penalty": 1.0, "presence_penalty": 0.5},
        {"logit_bias": ((5, 3.0), (9, -100.0)), "temperature": 1.0, "min_p": 0.02},
        {"temperature": 0.9, "min_p": 0.2},
        {},
        {"presence_penalty": -2.0, "temperature": 2.0, "top_k": 9, "constraint": Constraint("regex", "[A-Z]*z")},
    ]
    wanted = [
        Request(prompt, Sampling(max_tokens=20, seed=number, logprobs=2, **kind), ignore_eos=True)
        for number, (prompt, kind) in enumerate(zip(prompts, kinds, strict=True))
    ]

    def told(config: EngineConfig, requests: list[Request]) -> list[Any]:
        return [(one.token_ids, one.logprobs, one.finish_reason) for one in lab.run(lab.engine(config), requests)]

    alone = [told(lab.small, [one])[0] for one in wanted]
    assert told(lab.small, wanted) == alone
    speculation = NgramSpeculation(num_tokens=4, shortest_match=1)
    assert told(EngineConfig(max_tokens=512, block_size=4, speculation=speculation), wanted) == alone


def test_log_probabilities_are_those_of_the_model_before_any_adjustment(lab: Any) -> None:
    (prompt,) = lab.prompts(1, seed=6)
    plain = lab.run(lab.engine(), [Request(prompt, Sampling(max_tokens=1, logprobs=5), ignore_eos=True)])[0]
    second = lab.tokenizer.encode(plain.logprobs[0].top[1][0])[0]
    biased = Sampling(max_tokens=1, logprobs=5, logit_bias=((second, 100.0),))
    found = lab.run(lab.engine(), [Request(prompt, biased, ignore_eos=True)])[0]
    assert found.token_ids == (second,)
    assert found.logprobs[0].top == plain.logprobs[0].top
    assert found.logprobs[0].logprob == pytest.approx(plain.logprobs[0].top[1][1])


def test_a_bias_bans_and_a_penalty_ends_a_loop(lab: Any) -> None:
    (prompt,) = lab.prompts(1, seed=2)
    ask = {"max_tokens": 30}
    looped = lab.run(lab.engine(), [Request(prompt, Sampling(**ask), ignore_eos=True)])[0].token_ids
    banned = tuple((token, -100.0) for token in set(looped[:10]))
    assert not {token for token, _ in banned} & set(
        lab.run(lab.engine(), [Request(prompt, Sampling(logit_bias=banned, **ask), ignore_eos=True)])[0].token_ids
    )
    varied = lab.run(
        lab.engine(), [Request(prompt, Sampling(frequency_penalty=2.0, presence_penalty=2.0, **ask), ignore_eos=True)]
    )[0]
    assert len(set(varied.token_ids)) > len(set(looped))
