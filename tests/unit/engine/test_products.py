"""Features meet: codec, prefix, proposals, constraint, penalties, adapter, preemption, cancel; each request as if alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.client.base import Constraint, Sampling
from lianlu.engine.config import EngineConfig
from lianlu.engine.engine import Engine
from lianlu.engine.sequence import Event, Request

WORDS = Constraint("regex", "([B-M]{2,4}Z){1,6}")
FORCED = Constraint("regex", "(ABCDEFGH[A-Z]){3}")
RULES: dict[str, dict[str, Any]] = {
    "none": {},
    "penalties": {"presence_penalty": 0.7, "frequency_penalty": 0.3, "repetition_penalty": 1.2},
    "bias": {"logit_bias": ((5, 3.0), (9, -100.0))},
    "words": {"constraint": WORDS},
    "forced": {"constraint": FORCED, "presence_penalty": 0.5},
}
SPECULATION = {
    "none": None,
    "ngram": {"kind": "ngram", "shortest_match": 1},
    "draft": {"kind": "draft", "model": "same", "num_tokens": 3},
}
arrival = st.fixed_dictionaries(
    {
        "wait": st.integers(0, 4),
        "shared": st.integers(0, 40),
        "own": st.integers(1, 12),
        "new": st.integers(1, 16),
        "temperature": st.sampled_from([0.0, 0.0, 1.2]),
        "rules": st.sampled_from(sorted(RULES)),
        "adapter": st.sampled_from(["", "", "a", "b"]),
        "cancel": st.sampled_from([-1, -1, -1, 2, 7]),
    }
)
cases = st.fixed_dictionaries(
    {
        "kv": st.sampled_from(["auto", "bfloat16", "int8", "int4"]),
        "speculation": st.sampled_from(sorted(SPECULATION)),
        "block_size": st.sampled_from([4, 16]),
        "blocks": st.integers(6, 14),
        "max_batch_tokens": st.integers(5, 32),
        "max_running": st.integers(1, 5),
        "arrivals": st.lists(arrival, min_size=2, max_size=6),
    }
)


def engine(lab: Any, folders: dict[str, Path], **fields: Any) -> Engine:
    target: Engine = lab.engine(EngineConfig.model_validate(fields), lab.build(), draft=lab.model)
    for name in ("a", "b"):
        target.adapters.load(name, folders[name])
    return target


def requests(lab: Any, arrivals: list[dict[str, Any]]) -> list[Request]:
    beginning = lab.prompts(1, seed=4, longest=41)[0] * 3
    made = []
    for number, one in enumerate(arrivals):
        prompt = (*beginning[: one["shared"]], *lab.prompts(1, seed=number, longest=20)[0][: one["own"]])
        sampling = Sampling(max_tokens=one["new"], temperature=one["temperature"], seed=number, logprobs=2, **RULES[one["rules"]])
        made.append(Request(prompt, sampling, adapter=one["adapter"]))
    return made


def play(target: Engine, wanted: list[Request], arrivals: list[dict[str, Any]]) -> list[Event]:
    """Submit with pauses, cancel some after some steps, check the books after every step."""
    news: dict[int, list[Event]] = {}
    due: dict[int, int] = {}

    def tick() -> None:
        for number in [number for number, left in due.items() if left == 0]:
            if (event := target.cancel(number)) is not None:
                news[number].append(event)
        for number in due:
            due[number] -= 1
        for event in target.step():
            news[event.request_id].append(event)
        target.scheduler.audit()

    for request, one in zip(wanted, arrivals, strict=True):
        for _ in range(one["wait"]):
            tick()
        number = target.submit(request)
        news[number], due[number] = [], one["cancel"]
    while not target.idle:
        tick()
    assert target.pool.num_used == 0
    return [Event.joined(events) for events in news.values()]


@settings(max_examples=25, deadline=None)
@given(cases)
def test_every_request_is_as_if_it_were_alone(lab: Any, adapters: dict[str, Path], case: dict[str, Any]) -> None:
    arrivals = case["arrivals"]
    wanted = requests(lab, arrivals)
    shape = {name: case[name] for name in ("kv", "block_size", "max_batch_tokens", "max_running")}
    room = max(case["blocks"] * case["block_size"], 80)
    target = engine(lab, adapters, **shape, max_tokens=room, speculation=SPECULATION[case["speculation"]])
    plain = engine(lab, adapters, kv=case["kv"], max_tokens=256, prefix_cache=False)
    for request, event in zip(wanted, play(target, wanted, arrivals), strict=True):
        (alone,) = lab.run(plain, [request])
        count = len(event.token_ids)
        assert event.token_ids == alone.token_ids[:count]
        assert event.logprobs == alone.logprobs[:count]
        if event.finish_reason != "cancelled":
            assert (event.finish_reason, event.text) == (alone.finish_reason, alone.text)


def test_what_a_constraint_forces_takes_no_step_of_its_own(lab: Any, adapters: dict[str, Path]) -> None:
    target = engine(lab, adapters, max_tokens=256, block_size=16)
    (event,) = lab.run(target, [Request((1, 2, 3), Sampling(max_tokens=27, constraint=FORCED))])
    assert event.text.startswith("ABCDEFGH")
    assert event.timings is not None
    assert event.timings.num_accepted >= 21
    assert event.timings.num_steps <= event.completion_tokens - event.timings.num_accepted + 1
