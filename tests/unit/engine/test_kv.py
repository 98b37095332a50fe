"""Pools of keys and values: what is written is read back, blocks move as bytes, and no codec lets neighbours change a reply."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.client.base import Sampling
from lianlu.engine.config import EngineConfig
from lianlu.engine.kv import KvPool, PoolShape
from lianlu.engine.limits import pool_tokens
from lianlu.engine.runner import Runner, kv_bytes_per_token
from lianlu.engine.sequence import Event, Request
from lianlu.kernels.kv_codec import codec_for

NAMES = ("auto", "bfloat16", "int8", "int4")
SHAPE = PoolShape(num_blocks=5, block_size=4, num_groups=2)
PER_PART = 6 * 4
"""Slots of keys, the zero block included."""


def pool(name: str) -> KvPool:
    return KvPool(codec_for(name, 8, torch.float32), SHAPE, torch.device("cpu"))  # type: ignore[arg-type]


def some(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 8, generator=generator), torch.randn(count, 2, 8, generator=generator)


def write(target: KvPool, slots: list[int], k: torch.Tensor, v: torch.Tensor) -> None:
    target.write(torch.tensor(slots + [slot + PER_PART for slot in slots]), k, v)


def read(target: KvPool, blocks: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    return target.read(torch.tensor(blocks + [block + 6 for block in blocks]))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_in_the_order_of_the_blocks(name: str) -> None:
    target, (k, v) = pool(name), some(8)
    write(target, [12, 13, 14, 15, 4, 5, 6, 7], k, v)
    codec = target.codec
    for found, given_ in zip(read(target, [3, 1]), (k, v), strict=True):
        assert torch.equal(found, codec.decode(codec.encode(given_)))
    assert not any(part.any() for part in read(target, [0, 2, 4, 5]))


@pytest.mark.parametrize("name", NAMES)
def test_blocks_move_as_bytes(name: str) -> None:
    one, other = pool(name), pool(name)
    write(one, list(range(20)), *some(20))
    moved = one.export([4, 0])
    assert moved.shape == (2, one.block_bytes)
    assert one.block_bytes == 2 * 4 * 2 * one.codec.record_bytes
    write(one, list(range(20)), *some(20, seed=1))
    other.load([1, 3], moved)
    assert torch.equal(other.export([1, 3]), moved)
    expected = pool(name)
    write(expected, list(range(20)), *some(20))
    for found, meant in zip(read(other, [1, 3]), read(expected, [4, 0]), strict=True):
        assert torch.equal(found, meant)
    other.wipe([1])
    assert not any(part.any() for part in read(other, [0, 1, 2, 4]))
    assert all(part.any() for part in read(other, [3]))


def test_the_codec_counts_in_what_memory_holds(lab: Any) -> None:
    per_token = {name: kv_bytes_per_token(lab.model, name) for name in NAMES}  # type: ignore[arg-type]
    assert per_token == {"auto": 256, "bfloat16": 128, "int8": 96, "int4": 64}
    for name, size in per_token.items():
        runner = Runner(lab.model, 3, 8, 16, kv=name)  # type: ignore[arg-type]
        assert runner.block_bytes == 8 * size
        assert sum(each.num_bytes for each in runner.pools) == 4 * 8 * size
    most = pool_tokens(lab.model, 10**6, "int4")
    assert most == 10**6


def ask(lab: Any, config: EngineConfig, requests: list[Request]) -> list[Event]:
    found: list[Event] = lab.run(lab.engine(config), requests)
    return found


def as_request(prompt: tuple[int, ...], new: int = 10) -> Request:
    return Request(prompt, Sampling(max_tokens=new, logprobs=2), ignore_eos=True)


schedules = st.fixed_dictionaries(
    {
        "kv": st.sampled_from(NAMES),
        "block_size": st.sampled_from([4, 16]),
        "max_tokens": st.sampled_from([192, 1024]),
        "max_batch_tokens": st.integers(4, 80),
        "max_running": st.integers(1, 4),
        "prefix_cache": st.booleans(),
        "speculation": st.sampled_from([None, {"kind": "ngram", "shortest_match": 1, "num_tokens": 7}]),
    }
)
prompts = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 140)), min_size=1, max_size=5)


@settings(max_examples=8, deadline=None)
@given(schedules, prompts)
def test_no_codec_makes_a_reply_depend_on_what_runs_beside_it(
    lab: Any, fields: dict[str, Any], cuts: list[tuple[int, int]]
) -> None:
    """Chunks, batches, preemption, prefix hits and proposals: the same tokens, the same numbers to the bit."""
    longest = [tuple((7 * i * (family + 1) + i * i) % (lab.vocab - 1) + 1 for i in range(140)) for family in range(3)]
    requests = [as_request(longest[family][:size]) for family, size in cuts]
    together = ask(lab, EngineConfig.model_validate(fields), requests)
    alone = EngineConfig(kv=fields["kv"], max_tokens=192, max_batch_tokens=256, prefix_cache=False)
    for one, event in zip(requests, together, strict=True):
        expected = ask(lab, alone, [one])[0]
        assert event.token_ids == expected.token_ids
        assert event.logprobs == expected.logprobs


@pytest.mark.parametrize(("name", "bound"), [("bfloat16", 0.02), ("int8", 0.04), ("int4", 0.5)])
def test_a_codec_loses_little(lab: Any, name: str, bound: float) -> None:
    """Log-probabilities of the first token against those without loss; a random model is a hard case."""
    some_prompts = lab.prompts(12, seed=5, longest=90)
    exact, lossy = (
        ask(lab, EngineConfig(kv=kv, max_tokens=2048), [as_request(prompt, 1) for prompt in some_prompts])  # type: ignore[arg-type]
        for kv in ("auto", name)
    )
    gaps = []
    for one, other in zip(exact, lossy, strict=True):
        theirs = dict(other.logprobs[0].top)
        gaps += [abs(value - theirs[text]) for text, value in one.logprobs[0].top if text in theirs]
    assert len(gaps) >= 20
    assert 0 < max(gaps) < bound


@pytest.mark.parametrize("name", NAMES)
def test_a_score_is_what_generation_computes(lab: Any, name: str) -> None:
    """To the bit, whatever the codec loses."""
    engine = lab.engine(EngineConfig(kv=name, max_tokens=512))  # type: ignore[arg-type]
    prompt = lab.prompts(1, seed=8, longest=150)[0]
    (event,) = lab.run(engine, [as_request(prompt, 20)])
    scores = engine.prompt_logprobs((*prompt, *event.token_ids), 2)
    assert scores[len(prompt) :] == list(event.logprobs)
