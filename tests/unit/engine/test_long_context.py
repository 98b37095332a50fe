"""Far beyond the trained length: the same numbers however a prompt is cut, every kind of rope, memory that stays small."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from lianlu.client.base import Sampling
from lianlu.core import machine
from lianlu.engine.config import EngineConfig
from lianlu.engine.sequence import Event, Request
from lianlu.kernels.attention import PackedCausal
from lianlu.model.decoder import Decoder

KINDS = {
    "linear": {"kind": "linear", "factor": 512.0},
    "dynamic": {"kind": "dynamic", "factor": 4.0},
    "yarn": {"kind": "yarn", "factor": 512.0, "original_max_position_embeddings": 512},
    "llama3": {"kind": "llama3", "factor": 512.0, "original_max_position_embeddings": 512},
}
SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "hidden_size": 16}


def built(lab: Any, kind: str, **changes: object) -> Decoder:
    model: Decoder = lab.build(rope_scaling=KINDS[kind], **changes)
    return model


def prompt(length: int) -> tuple[int, ...]:
    rng = random.Random(length)
    return tuple(rng.randrange(1, 64) for _ in range(length))


def config(**fields: object) -> EngineConfig:
    rope = {"kind": "dynamic", "factor": 4.0}
    return EngineConfig.model_validate({"block_size": 32, "max_running": 2, "rope": rope, **fields})


def ask(lab: Any, model: Decoder, ids: tuple[int, ...], new: int = 6, **fields: object) -> Event:
    event: Event = lab.run(lab.engine(config(**fields), model), [Request(ids, Sampling(max_tokens=new, logprobs=2), True)])[0]
    return event


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_a_long_prompt_give_the_bits_of_the_whole(lab: Any, kind: str) -> None:
    """Positions up to eight times the trained length, on both sides of where angles change to fp64."""
    model, ids = built(lab, kind, **SMALL), prompt(4300)
    whole = ask(lab, model, ids, context=5000, max_batch_tokens=4400)
    cut = ask(lab, model, ids, context=5000, max_batch_tokens=197)
    assert (cut.token_ids, cut.logprobs) == (whole.token_ids, whole.logprobs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_computes_what_the_model_does_densely(lab: Any, kind: str) -> None:
    model, ids = built(lab, kind), prompt(4300)
    event = ask(lab, model, ids, new=1, context=5000)
    with torch.inference_mode():
        logits = model(torch.tensor(ids), torch.arange(len(ids)), PackedCausal([0, len(ids)]))[-1]
    assert event.token_ids[0] == int(logits.argmax())
    assert event.logprobs[0].logprob == pytest.approx(logits.log_softmax(-1).max().item(), abs=1e-5)


def test_dynamic_ntk_gives_the_same_bits_in_any_company(lab: Any) -> None:
    model = lab.build(rope_scaling={"kind": "dynamic", "factor": 2.0}, max_position_embeddings=24)
    wanted = [Request(prompt(length), Sampling(max_tokens=30, logprobs=2), True) for length in (60, 52, 23, 20, 31, 12, 61)]
    together = lab.run(lab.engine(EngineConfig(max_tokens=1024, block_size=4, max_batch_tokens=16, max_running=7), model), wanted)
    for one, event in zip(wanted, together, strict=True):
        alone = lab.run(lab.engine(EngineConfig(max_tokens=256, prefix_cache=False), model), [one])[0]
        assert (event.token_ids, event.logprobs) == (alone.token_ids, alone.logprobs)


def test_a_context_of_200k_is_taken_and_filled_far(lab: Any) -> None:
    """The working memory of a prompt of 30,000 tokens is nowhere near a square of it, and all of it is found again."""
    model = built(lab, "yarn", **SMALL)
    engine = lab.engine(config(context=200_000, max_batch_tokens=256), model)
    assert engine.max_len == 200_000
    ids = prompt(30_000)
    machine.release_memory()
    machine.reset_peak_memory()
    before = machine.peak_memory_bytes()
    first = lab.run(engine, [Request(ids, Sampling(max_tokens=2, logprobs=2), True)])[0]
    if Path("/proc/self/clear_refs").exists():
        assert machine.peak_memory_bytes() - before < 100_000_000
    again = lab.run(engine, [Request(ids, Sampling(max_tokens=2, logprobs=2), True)])[0]
    assert again.cached_tokens > 29_900
    assert (again.token_ids, again.logprobs) == (first.token_ids, first.logprobs)


def test_decoding_goes_on_beyond_the_trained_length(lab: Any) -> None:
    """The reply crosses the trained length and position 4096; decoded tokens are those of a prompt with them in it."""
    model, ids = built(lab, "dynamic", **SMALL, max_position_embeddings=4000), prompt(3990)
    reply = ask(lab, model, ids, new=120, context=200_000)
    assert len(reply.token_ids) == 120
    with torch.inference_mode():
        tokens = torch.tensor(ids + reply.token_ids)
        places = torch.arange(len(tokens))
        lengths = torch.maximum(places + 1, torch.tensor(len(ids)))
        logits = model(tokens, places, PackedCausal([0, len(tokens)]), lengths)
    own = logits.log_softmax(-1)[len(ids) - 1 : -1].gather(1, tokens[len(ids) :, None])[:, 0]
    assert torch.allclose(own, torch.tensor([item.logprob for item in reply.logprobs]), atol=2e-5)
