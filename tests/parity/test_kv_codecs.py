"""What 8 and 4 bits for keys and values do to a real model: the same greedy replies, and numbers within a bound."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lianlu.client.base import Sampling
from lianlu.engine.config import EngineConfig
from lianlu.engine.connect import open_engine
from lianlu.engine.engine import Engine
from lianlu.engine.scoring import Target, score_tokens
from lianlu.engine.sequence import Event, Request
from lianlu.kernels.kv_codec import CodecName

QUESTION = "<|im_start|>user\nList three colours of the rainbow, one per line.<|im_end|>\n<|im_start|>assistant\n"
TEXT = """The river rises in the hills north of the town and runs for ninety miles before it meets the sea. For most of the
year it is shallow enough to wade, but in spring the snow melts on the high ground and the water climbs over the lower
fields. The people who farm there have always built their houses on the ridge, and the road follows them."""


@pytest.fixture(scope="module")
def engine(smollm2: Path) -> Engine:
    torch.set_num_threads(1)
    return open_engine(smollm2, config=EngineConfig(max_tokens=512))


def reply(engine: Engine) -> Event:
    prompt = engine.tokenizer.encode(QUESTION, specials=True)
    engine.submit(Request(tuple(prompt), Sampling(max_tokens=16)))
    events = []
    while not engine.idle:
        events += engine.step()
    return Event.joined(events)


@pytest.mark.parametrize(("kv", "bound"), [("bfloat16", 0.01), ("int8", 0.04), ("int4", 0.6)])
def test_real_text_is_scored_nearly_as_without_loss(engine: Engine, kv: CodecName, bound: float) -> None:
    """Mean distance of log-probabilities of the tokens of a text, and of their mean (log-perplexity)."""
    lossy = Engine(engine.model, engine.tokenizer, EngineConfig(max_tokens=512, kv=kv))
    target = Target(tuple(engine.tokenizer.encode(TEXT)), 1)
    one, other = (next(score_tokens(each.model, [target], codec=each.runner.codec)).logprobs for each in (engine, lossy))
    gaps = [abs(a - b) for a, b in zip(one, other, strict=True)]
    assert 0 < sum(gaps) / len(gaps) < bound
    assert abs(sum(one) - sum(other)) / len(one) < bound / 2


@pytest.mark.parametrize("kv", ["int8", "int4"])
def test_a_plain_answer_is_the_same(engine: Engine, kv: CodecName) -> None:
    lossy = Engine(engine.model, engine.tokenizer, EngineConfig(max_tokens=512, kv=kv))
    assert reply(lossy).text == reply(engine).text
    assert "Red" in reply(lossy).text
