"""How long a sequence may be, and how many tokens memory holds: what is refused, and what the refusal says."""

from __future__ import annotations

from typing import Any

import pytest

from lianlu.client.base import Sampling
from lianlu.core import machine
from lianlu.core.errors import ConfigError, RequestError
from lianlu.engine.config import EngineConfig
from lianlu.engine.limits import DEFAULT_TOKENS, UNLIMITED, blocks_held, longest_sequence, pool_tokens, trained_length
from lianlu.engine.runner import kv_bytes_per_token
from lianlu.engine.sequence import Request

LINEAR = {"kind": "linear", "factor": 4.0}
DYNAMIC = {"kind": "dynamic", "factor": 2.0}
YARN = {"kind": "yarn", "factor": 8.0, "original_max_position_embeddings": 512}
LLAMA3 = {"kind": "llama3", "factor": 8.0, "original_max_position_embeddings": 256}


@pytest.mark.parametrize(("scaling", "longest"), [(None, 512), (LINEAR, 2048), (DYNAMIC, UNLIMITED), (YARN, 4096), (LLAMA3, 512)])
def test_the_length_a_model_was_made_for(lab: Any, scaling: dict[str, object] | None, longest: int) -> None:
    shape = lab.build(**({} if scaling is None else {"rope_scaling": scaling})).config
    assert trained_length(shape) == longest_sequence(shape) == longest
    assert longest_sequence(shape, EngineConfig()) == longest
    assert longest_sequence(shape, EngineConfig(context=100)) == 100


def test_yarn_never_shortens(lab: Any) -> None:
    shape = lab.build(rope_scaling={**YARN, "factor": 2.0, "original_max_position_embeddings": 128}).config
    assert trained_length(shape) == 512


def test_a_longer_context_needs_rope(lab: Any) -> None:
    shape = lab.model.config
    for rope in (None, {"kind": "none"}):
        with pytest.raises(ConfigError, match="context 2000 is longer than the 512 tokens") as caught:
            longest_sequence(shape, EngineConfig.model_validate({"context": 2000, "rope": rope}))
        assert "rope.factor = 4" in caught.value.hint
    assert longest_sequence(shape, EngineConfig.model_validate({"context": 2000, "rope": LINEAR})) == 2000


def memory(monkeypatch: pytest.MonkeyPatch, total: int, free: int) -> None:
    monkeypatch.setattr(machine, "memory_bytes", lambda: total)
    monkeypatch.setattr(machine, "available_bytes", lambda: free)


def test_the_pool_is_a_share_of_memory_or_what_is_asked(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    per_token = kv_bytes_per_token(lab.model)
    memory(monkeypatch, 400_000 * per_token, 400_000 * per_token)
    assert pool_tokens(lab.model, None) == DEFAULT_TOKENS
    assert pool_tokens(lab.model, None, context=200_000) == 200_000
    assert pool_tokens(lab.model, 300_000, context=200_000) == 300_000
    memory(monkeypatch, 4000 * per_token, 3000 * per_token)
    assert pool_tokens(lab.model, None) == 1000
    memory(monkeypatch, 4000 * per_token, 30 * per_token)
    assert pool_tokens(lab.model, None) == 30
    with pytest.raises(ConfigError, match="no room"):
        blocks_held(lab.model, EngineConfig(block_size=32))


def test_a_draft_model_takes_room_in_every_block(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    per_token = kv_bytes_per_token(lab.model)
    memory(monkeypatch, 4000 * per_token, 3000 * per_token)
    assert pool_tokens(lab.model, None, draft=lab.model) == 500
    assert blocks_held(lab.model, EngineConfig(block_size=32), lab.model) == 500 // 32


def test_what_memory_does_not_hold_is_refused_with_what_it_does(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    per_token = kv_bytes_per_token(lab.model)
    narrow = {name: 10_000 * per_token // kv_bytes_per_token(lab.model, name) for name in ("int8", "int4")}  # type: ignore[arg-type]
    memory(monkeypatch, 20_000 * per_token, 10_000 * per_token)
    for kv, options in (("auto", ("int8", "int4")), ("int8", ("int4",)), ("int4", ())):
        with pytest.raises(ConfigError, match=r"of 100000 tokens take .* there are") as caught:
            pool_tokens(lab.model, None, kv, context=100_000)  # type: ignore[arg-type]
        assert "lower context" in caught.value.hint
        own = 10_000 if kv == "auto" else narrow[kv]
        assert caught.value.hint.startswith(f"{own} tokens fit")
        assert all(f"{narrow[name]} with kv = '{name}'" in caught.value.hint for name in options)
        assert caught.value.hint.count("with kv") == len(options)
    with pytest.raises(ConfigError) as caught:
        pool_tokens(lab.model, 100_000)
    assert "lower max_tokens" in caught.value.hint
    assert pool_tokens(lab.model, None, "int4", context=narrow["int4"]) == narrow["int4"]


def test_heads_that_a_codec_cannot_hold_are_not_offered_it(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lab.build(head_dim=6)
    memory(monkeypatch, 10**6, 10**6)
    with pytest.raises(ConfigError) as caught:
        pool_tokens(model, 10**6)
    assert "'int8'" in caught.value.hint
    assert "'int4'" not in caught.value.hint


def test_a_pool_below_the_context_is_a_contradiction(lab: Any) -> None:
    with pytest.raises(ConfigError, match="max_tokens 256 does not hold one sequence of context 300") as caught:
        lab.engine(EngineConfig(max_tokens=256, context=300))
    assert "raise max_tokens" in caught.value.hint


@pytest.mark.parametrize(("context", "max_tokens"), [(300, 300), (300, None), (257, 257), (10, 100)])
def test_a_whole_context_is_held(lab: Any, context: int, max_tokens: int | None) -> None:
    """Also where it ends within a block; a prompt that leaves no place for a reply is refused."""
    engine = lab.engine(EngineConfig(context=context, max_tokens=max_tokens, block_size=32))
    assert engine.max_len == context
    assert engine.pool.num_blocks * 32 >= context
    prompt = tuple(1 + i % 60 for i in range(context - 1))
    event = lab.run(engine, [Request(prompt, Sampling(max_tokens=50), ignore_eos=True)])[0]
    assert (event.finish_reason, len(event.token_ids)) == ("length", 1)
    with pytest.raises(RequestError, match=f"context is {context} tokens") as caught:
        engine.check(Request((*prompt, 1)))
    assert "raise context" in caught.value.hint


def test_a_prompt_beyond_the_pool_is_told_so(lab: Any) -> None:
    engine = lab.engine(EngineConfig(max_tokens=64, block_size=32))
    with pytest.raises(RequestError, match="this engine holds 64 tokens") as caught:
        engine.check(Request((1,) * 64))
    assert "raise max_tokens" in caught.value.hint


def test_memory_that_is_free() -> None:
    assert 0 < machine.available_bytes() <= machine.memory_bytes()
