"""Quantised engines keep the promise: a request's tokens and numbers are the same to the bit alone and in any batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.client.base import Sampling
from lianlu.engine.config import EngineConfig
from lianlu.engine.engine import Engine
from lianlu.engine.sequence import Request
from lianlu.model.packed import pack_linears
from lianlu.model.quantized import Method, quantize_linears

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Case = tuple[Method, str]
CASES: list[Case] = [("int8", "float32"), ("int8", "bfloat16"), ("int4", "float32"), ("int4", "bfloat16")]


class Models:
    """Packed models by method and dtype, and replies of requests that run alone."""

    def __init__(self, lab: Any) -> None:
        self._lab = lab
        self._models = {case: self._build(*case) for case in CASES}
        self._alone: dict[tuple[object, ...], tuple[object, ...]] = {}

    def _build(self, method: Method, dtype: str) -> Any:
        model = self._lab.build(architecture="qwen2", attention_bias=True)
        quantize_linears(model, method)
        model.to(DTYPES[dtype])
        pack_linears(model)
        return model

    def engine(self, case: Case, **fields: object) -> Engine:
        made: Engine = self._lab.engine(EngineConfig.model_validate({"dtype": case[1], **fields}), self._models[case])
        return made

    def alone(self, case: Case, request: Request, kv: str) -> tuple[object, ...]:
        key = (case, request.prompt, kv)
        if key not in self._alone:
            event = self._lab.run(self.engine(case, max_tokens=256, prefix_cache=False, kv=kv), [request])[0]
            self._alone[key] = (event.token_ids, event.logprobs)
        return self._alone[key]


@pytest.fixture(scope="module")
def models(lab: Any) -> Models:
    return Models(lab)


schedules = st.fixed_dictionaries(
    {
        "max_batch_tokens": st.integers(6, 80),
        "speculation": st.sampled_from([None, {"kind": "ngram", "shortest_match": 1}]),
        "prefix_cache": st.booleans(),
        "kv": st.sampled_from(["auto", "int8"]),
    }
)


@settings(max_examples=20, deadline=None)
@given(case=st.sampled_from(CASES), lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6), schedule=schedules)
def test_a_request_does_not_depend_on_its_company(
    lab: Any, models: Models, case: Case, lengths: list[int], schedule: dict[str, Any]
) -> None:
    prompts = [tuple(1 + (place * place + length) % 60 for place in range(length)) for length in lengths]
    wanted = [Request(prompt, Sampling(max_tokens=12, logprobs=2), ignore_eos=True) for prompt in prompts]
    engine = models.engine(case, max_tokens=192, block_size=8, max_running=4, **schedule)
    for one, event in zip(wanted, lab.run(engine, wanted), strict=True):
        assert (event.token_ids, event.logprobs) == models.alone(case, one, schedule["kv"])
