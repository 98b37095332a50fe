"""The engine: a request's tokens and numbers are its own, whatever runs beside it; ends, failures and cancels are clean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.client.base import Sampling
from lianlu.core.errors import ConfigError, EngineError, RequestError
from lianlu.engine.config import EngineConfig
from lianlu.engine.engine import Engine
from lianlu.engine.sequence import Event, Request
from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import DynamicScaling
from lianlu.model.decoder import Decoder

MODELS = ("grouped", "qwen3")
OPEN = EngineConfig(max_tokens=256, prefix_cache=False)


@pytest.fixture(scope="module")
def models(lab: Any) -> dict[str, Decoder]:
    shape = {"architecture": "qwen3", "qk_norm": True, "head_dim": 16, "num_attention_heads": 3, "num_key_value_heads": 1}
    return {"grouped": lab.model, "qwen3": lab.build(seed=4, **shape)}


def request(prompt: Iterable[int], new: int = 8, **wanted: object) -> Request:
    ignore_eos = bool(wanted.pop("ignore_eos", True))
    return Request(tuple(prompt), Sampling(max_tokens=new, **wanted), ignore_eos)  # type: ignore[arg-type]


def dense_greedy(model: Decoder, prompt: Sequence[int], new: int) -> list[int]:
    ids = list(prompt)
    for _ in range(new):
        with torch.inference_mode():
            logits = model(torch.tensor(ids), torch.arange(len(ids)), PackedCausal([0, len(ids)]))
        ids.append(int(logits[-1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_is_what_the_model_computes_densely(lab: Any, models: dict[str, Decoder], name: str) -> None:
    some = lab.prompts(6)
    found = lab.run(lab.engine(model=models[name]), [request(prompt, 12) for prompt in some])
    assert [list(event.token_ids) for event in found] == [dense_greedy(models[name], prompt, 12) for prompt in some]


SPECULATION = {
    None: None,
    "ngram": {"kind": "ngram", "shortest_match": 1},
    "same": {"kind": "draft", "model": "same", "num_tokens": 3},
    "other": {"kind": "draft", "model": "other", "num_tokens": 5},
}
schedules = st.fixed_dictionaries(
    {
        "model": st.sampled_from(sorted(MODELS)),
        "block_size": st.sampled_from([4, 8, 32]),
        "blocks": st.integers(5, 12),
        "max_batch_tokens": st.integers(3, 40),
        "max_running": st.integers(1, 5),
        "prefix_cache": st.booleans(),
        "speculation": st.sampled_from([None, None, "ngram", "same", "other"]),
        "arrivals": st.lists(
            st.tuples(
                st.integers(0, 6),
                st.integers(0, 2),
                st.integers(1, 60),
                st.integers(0, 20),
                st.integers(1, 16),
                st.sampled_from([0.0, 0.0, 1.3]),
                st.integers(-1, 12),
            ),
            min_size=2,
            max_size=7,
        ),
    }
)


@settings(max_examples=30, deadline=None)
@given(schedules)
def test_tokens_and_numbers_do_not_depend_on_the_schedule(lab: Any, models: dict[str, Decoder], case: dict[str, object]) -> None:
    """Random arrivals, chunks, preemptions, prefix hits, proposals and cancels: the same tokens, the same logprobs to the bit."""
    model = models[str(case["model"])]
    size = int(case["block_size"])  # type: ignore[call-overload]
    fields = {name: case[name] for name in ("block_size", "max_batch_tokens", "max_running", "prefix_cache")}
    config = EngineConfig.model_validate(
        {**fields, "max_tokens": max(int(case["blocks"]) * size, 128), "speculation": SPECULATION[case["speculation"]]}  # type: ignore[call-overload,index]
    )
    draft = model if case["speculation"] == "same" else lab.model
    wanted, waits, cancels = [], [], []
    for number, (wait, family, shared, own, new, temperature, cancel_at) in enumerate(case["arrivals"]):  # type: ignore[arg-type]
        begin = lab.prompts(3, seed=9, longest=61)[family][:shared]
        prompt = (*begin, *lab.prompts(1, seed=number, longest=21)[0][:own])
        wanted.append(request(prompt, new, temperature=temperature, top_p=0.9, seed=number, logprobs=3))
        waits.append(wait)
        cancels.append(cancel_at)
    found = play(lab.engine(config, model, draft), wanted, waits, cancels)
    for one, event in zip(wanted, found, strict=True):
        alone = lab.run(lab.engine(OPEN, model), [one])[0]
        count = len(event.token_ids)
        assert event.token_ids == alone.token_ids[:count]
        assert event.logprobs == alone.logprobs[:count]
        assert alone.text.startswith(event.text)
        if event.finish_reason != "cancelled":
            assert event.finish_reason == alone.finish_reason


def play(target: Engine, wanted: Sequence[Request], waits: Sequence[int], cancels: Sequence[int]) -> list[Event]:
    """Submit with pauses of some steps; cancel the i-th request `cancels[i]` steps later (-1: never)."""
    news: dict[int, list[Event]] = {}
    due: dict[int, int] = {}
    order: list[int] = []
    for one, wait, cancel_at in zip(wanted, waits, cancels, strict=True):
        for _ in range(wait):
            tick(target, news, due)
        order.append(target.submit(one))
        news[order[-1]] = []
        if cancel_at >= 0:
            due[order[-1]] = cancel_at
    while not target.idle:
        tick(target, news, due)
    return [Event.joined(news[number]) for number in order]


def tick(target: Engine, news: dict[int, list[Event]], due: dict[int, int]) -> None:
    for number in list(due):
        due[number] -= 1
        if due[number] < 0:
            del due[number]
            if (event := target.cancel(number)) is not None:
                news[number].append(event)
    for event in target.step():
        news[event.request_id].append(event)
    target.scheduler.audit()


def test_preemption_and_prefix_hits_do_happen_in_such_schedules(lab: Any) -> None:
    tight = lab.engine(EngineConfig(max_tokens=96, block_size=4, max_batch_tokens=24, max_running=4))
    shared = lab.prompts(1, seed=1, longest=40)[0] + lab.prompts(1, seed=2, longest=40)[0]
    wanted = [request((*shared[:20], number), 40) for number in range(1, 6)]
    found = lab.run(tight, wanted)
    assert tight.stats().num_preempted > 0
    assert sum(event.cached_tokens for event in found) > 0
    assert [list(event.token_ids) for event in found] == [dense_greedy(lab.model, one.prompt, 40) for one in wanted]


def test_a_second_round_is_served_from_the_cache(lab: Any) -> None:
    target = lab.engine()
    prompt = lab.prompts(1, seed=5, longest=60)[0] * 2
    first, second = lab.run(target, [request(prompt)])[0], lab.run(target, [request(prompt)])[0]
    assert first.cached_tokens == 0
    assert second.cached_tokens == (len(prompt) - 1) // 8 * 8 > 0
    assert second.token_ids == first.token_ids
    talk = lab.run(target, [request((*prompt, *first.token_ids, 5))])[0]
    assert talk.cached_tokens >= (len(prompt) + len(first.token_ids) - 1) // 8 * 8 > second.cached_tokens - 8


def test_dynamic_ntk_shares_only_what_is_equal(lab: Any) -> None:
    scaling = DynamicScaling(factor=2.0).model_dump()
    model = lab.build(rope_scaling=scaling, max_position_embeddings=24)
    long = lab.prompts(1, seed=7, longest=200)[0][:60]
    assert len(long) == 60
    target = lab.engine(EngineConfig(max_tokens=512, block_size=4, max_batch_tokens=16, max_running=4), model)
    wanted = [request(long[:length], 30, logprobs=0) for length in (60, 60, 52, 20, 20, 12)]
    found = lab.run(target, wanted)
    for one, event in zip(wanted, found, strict=True):
        alone = lab.run(lab.engine(OPEN, model), [one])[0]
        assert event.token_ids == alone.token_ids
        numbers, own = ([item.logprob for item in one.logprobs] for one in (event, alone))
        assert numbers == pytest.approx(own, abs=1e-5)
    assert found[1].cached_tokens > 0
    assert found[2].cached_tokens == 0


def test_an_end_token_ends_without_text(lab: Any) -> None:
    model = lab.build()
    with torch.no_grad():
        model.embed_tokens.weight[lab.eos] = model.embed_tokens.weight.mean(0) * 40
    prompt = next(p for p in lab.prompts(400, seed=8) if lab.eos in dense_greedy(model, p, 8)[1:])
    tokens = dense_greedy(model, prompt, 8)
    place = tokens.index(lab.eos)
    event = lab.run(lab.engine(model=model), [request(prompt, 8, ignore_eos=False)])[0]
    assert list(event.token_ids) == tokens[: place + 1]
    assert event.finish_reason == "stop"
    assert event.text == lab.tokenizer.decode(tokens[:place])
    assert event.completion_tokens == place + 1
    assert len(lab.run(lab.engine(model=model), [request(prompt, 8)])[0].token_ids) == 8


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_stop_string_ends_the_text_before_it(lab: Any, size: int) -> None:
    prompt = lab.prompts(1, seed=11)[0]
    text = lab.run(lab.engine(), [request(prompt, 12)])[0].text
    stop = text[4 : 4 + size]
    event = lab.run(lab.engine(), [request(prompt, 12, stop=("not in it", stop))])[0]
    assert event.text == text[: text.index(stop)]
    assert event.finish_reason == "stop"
    assert len(event.token_ids) == text.index(stop) + size
    assert event.text == "".join(one.text for one in [event])


def test_no_event_shows_a_part_of_a_stop_string(lab: Any) -> None:
    target = lab.engine()
    prompt = lab.prompts(1, seed=11)[0]
    text = lab.run(lab.engine(), [request(prompt, 12)])[0].text
    target.submit(request(prompt, 12, stop=(text[3:7],)))
    shown = ""
    while not target.idle:
        for event in target.step():
            shown += event.text
            assert text.startswith(shown)
            assert len(shown) <= 3
    assert shown == text[:3]


def test_length_and_context_end_a_reply(lab: Any) -> None:
    short = lab.engine(EngineConfig(max_tokens=32, block_size=8))
    found = lab.run(short, [request(lab.prompts(1, seed=12)[0][:10], 1000), request([1, 2], 3), request([1, 2], 0)])
    assert [(event.finish_reason, len(event.token_ids)) for event in found] == [("length", 22), ("length", 3), ("length", 0)]
    assert found[2].prompt_tokens == 2
    limited = lab.engine(lab.small, lab.build(max_position_embeddings=20))
    assert limited.max_len == 20
    assert len(lab.run(limited, [request([1, 2], 1000)])[0].token_ids) == 18


def test_seeds_make_replies_reproducible_and_different(lab: Any) -> None:
    prompt = lab.prompts(1, seed=13)[0]
    wanted = [request(prompt, 16, temperature=1.5, seed=seed) for seed in (1, 2, 1)]
    one, two, again = (event.token_ids for event in lab.run(lab.engine(), wanted))
    assert one == again
    assert one != two
    free = [event.token_ids for event in lab.run(lab.engine(), [request(prompt, 16, temperature=1.5)] * 2)]
    assert free[0] != free[1]


def test_logprobs_come_as_asked(lab: Any) -> None:
    prompt = lab.prompts(1, seed=14)[0]
    none, bare, three = lab.run(lab.engine(), [request(prompt, 5, logprobs=count) for count in (None, 0, 3)])
    assert none.logprobs == ()
    assert [item.top for item in bare.logprobs] == [()] * 5
    assert [len(item.top) for item in three.logprobs] == [3] * 5
    for item, token in zip(three.logprobs, three.token_ids, strict=True):
        assert item.token == lab.tokenizer.letter(token) == item.top[0][0]
        assert item.logprob == item.top[0][1] < 0
    again = lab.engine().prompt_logprobs([*prompt, *three.token_ids], 3)
    assert again[0] is None
    assert tuple(again[len(prompt) :]) == three.logprobs
    assert lab.engine().prompt_logprobs([5]) == [None]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (request([]), "empty"),
        (request([64]), "outside"),
        (request([-1]), "outside"),
        (request([1] * 256), "256 tokens"),
        (request([1], 5, temperature=-1.0), "temperature"),
        (request([1], 5, temperature=float("nan")), "temperature"),
        (request([1], 5, top_p=0.0), "top_p"),
        (request([1], 5, top_p=1.5), "top_p"),
        (request([1], 5, top_k=-1), "top_k"),
        (request([1], -1), "max_tokens"),
        (request([1], 5, logprobs=1000), "logprobs"),
    ],
)
def test_impossible_requests_are_refused(lab: Any, wrong: Request, says: str) -> None:
    target = lab.engine()
    with pytest.raises(RequestError, match=says) as caught:
        target.submit(wrong)
    assert caught.value.status == 400
    assert caught.value.hint
    assert target.idle


def test_too_many_are_refused_for_now(lab: Any) -> None:
    target = lab.engine(EngineConfig(max_tokens=128, max_running=2, max_queued=1))
    for _ in range(3):
        target.submit(request([1, 2]))
    with pytest.raises(RequestError) as caught:
        target.submit(request([1, 2]))
    assert caught.value.status == 429


def test_a_poisoned_request_fails_alone_and_leaves_nothing_behind(lab: Any) -> None:
    model = lab.build()
    with torch.no_grad():
        model.embed_tokens.weight[63] = torch.nan
        model.lm_head.weight[63] = 0.0  # type: ignore[union-attr]
    healthy = [tuple(min(token, 62) for token in prompt) for prompt in lab.prompts(5, seed=15)]
    poison = (*healthy[0][:1], 63, *range(1, 30))
    alone = [lab.run(lab.engine(model=model), [request(prompt)])[0] for prompt in healthy]
    target = lab.engine(EngineConfig(max_tokens=160, block_size=8, max_batch_tokens=16, max_running=4), model)
    found = lab.run(target, [request(prompt) for prompt in (healthy[0], poison, *healthy[1:3], poison, *healthy[3:])])
    assert [event.finish_reason for event in found].count("error") == 2
    assert isinstance(found[1].error, EngineError)
    good = [event for event in found if event.error is None]
    assert [event.token_ids for event in good] == [event.token_ids for event in alone]
    again = lab.run(target, [request(prompt) for prompt in healthy])
    assert [event.token_ids for event in again] == [event.token_ids for event in alone]
    assert not target.runner.export(range(target.pool.num_blocks)).view(torch.float32).isnan().any()


@pytest.mark.parametrize("steps", range(6))
def test_cancel_gives_everything_back(lab: Any, steps: int) -> None:
    target = lab.engine(EngineConfig(max_tokens=128, block_size=8, max_batch_tokens=8, max_running=2))
    ids = [target.submit(request(prompt)) for prompt in lab.prompts(4, seed=16)]
    for _ in range(steps):
        target.step()
    ended = [target.cancel(number) for number in ids]
    assert all(event is None or event.finish_reason == "cancelled" for event in ended)
    assert target.idle
    assert target.stats().used_blocks == 0
    target.scheduler.audit()
    assert target.cancel(ids[0]) is None
    assert target.cancel(12345) is None


def failing(target: Engine, after: int) -> Callable[..., object]:
    step, calls = target.runner.step, iter(range(10**6))

    def broken(chunks: object) -> object:
        if next(calls) == after:
            raise MemoryError("no memory")
        return step(chunks)  # type: ignore[arg-type]

    return broken


def test_a_failed_step_fails_the_batch_and_the_engine_goes_on(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    target = lab.engine()
    some = lab.prompts(6, seed=17)
    expected = [event.token_ids for event in lab.run(lab.engine(), [request(prompt) for prompt in some])]
    monkeypatch.setattr(target.runner, "step", failing(target, after=2))
    for prompt in some:
        target.submit(request(prompt))
    with pytest.raises(MemoryError):
        while True:
            target.step()
    events = target.reset(MemoryError("no memory"))
    assert [event.finish_reason for event in events] == ["error"] * 6
    assert "no memory" in str(events[0].error)
    assert target.idle
    assert target.stats().used_blocks == target.stats().cached_blocks == 0
    assert [event.token_ids for event in lab.run(target, [request(prompt) for prompt in some])] == expected


def test_stats_count(lab: Any) -> None:
    target = lab.engine()
    lab.run(target, [request([1, 2, 3], 4), request([4, 5], 2)])
    stats = target.stats()
    assert (stats.num_finished, stats.prompt_tokens, stats.generated_tokens) == (2, 5, 6)
    assert (stats.num_running, stats.num_queued, stats.used_blocks, stats.total_blocks) == (0, 0, 0, 32)


def test_memory_is_checked_before_it_is_taken(lab: Any) -> None:
    with pytest.raises(ConfigError, match=r"GB|TB"):
        lab.engine(EngineConfig(max_tokens=10**12))
    with pytest.raises(ConfigError, match="room"):
        lab.engine(EngineConfig(max_tokens=8, block_size=32))
    with pytest.raises(ValueError, match="divide"):
        EngineConfig(block_size=48)


def test_bfloat16_is_the_same_in_any_batch_too(lab: Any) -> None:
    model = lab.build(dtype=torch.bfloat16)
    some = lab.prompts(8, seed=18)
    together = lab.run(lab.engine(model=model), [request(prompt, logprobs=2) for prompt in some])
    for prompt, event in zip(some, together, strict=True):
        alone = lab.run(lab.engine(EngineConfig(max_tokens=256), model), [request(prompt, logprobs=2)])[0]
        assert (event.token_ids, event.logprobs) == (alone.token_ids, alone.logprobs)
