"""Prompts of completions, and their echo."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from lianlu.client.base import TokenLogprob
from lianlu.serve.complete import echo_all, encode_all


def with_opening(engine: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        setattr(engine.engine.tokenizer, name, value)
    return engine.engine.tokenizer


def test_texts_begin_as_the_model_s_texts_do(fake_engine: Any) -> None:
    tokenizer = with_opening(fake_engine, bos_id=7, adds_bos=True)
    assert encode_all(tokenizer, ["a", "", [5, 6]]) == [[7, 97], [7], [5, 6]]


def test_an_empty_text_is_what_separates_texts(fake_engine: Any) -> None:
    assert encode_all(with_opening(fake_engine, bos_id=7), ["", "a"]) == [[7], [97]]
    assert encode_all(with_opening(fake_engine, bos_id=None, eos_ids=(9, 8)), [""]) == [[9]]
    assert encode_all(with_opening(fake_engine, eos_ids=()), [""]) == [[]]


def test_an_echo_is_scored_only_if_asked(fake_engine: Any) -> None:
    known = [None, TokenLogprob("b", -1.0)]
    fake_engine.engine.prompt_logprobs = lambda ids, num_top, adapter: known

    async def acall(job: Any) -> Any:
        return job()

    fake_engine.acall = acall
    (plain,) = asyncio.run(echo_all(fake_engine, [[97, 98]], None))
    assert (plain.pieces, plain.logprobs) == (["a", "b"], [])
    (scored,) = asyncio.run(echo_all(fake_engine, [[97, 98]], 0))
    assert scored.logprobs == known


def test_text_held_back_by_the_decoder_belongs_to_the_last_token(fake_engine: Any) -> None:
    stream = SimpleNamespace(push=lambda token: "", flush=lambda: "\ufffd")
    fake_engine.engine.tokenizer.stream = lambda: stream
    (echo,) = asyncio.run(echo_all(fake_engine, [[1, 2]], None))
    assert echo.pieces == ["", "\ufffd"]
