"""Vectors: those of a dense pass, the same to the bit in any list, long texts in passes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.core.errors import EngineError, RequestError
from lianlu.engine import embedding
from lianlu.engine.embedding import Vector, embed, fitted, scaled
from lianlu.kernels.attention import PackedCausal
from lianlu.model.lora import load_adapter, merge_adapter
from lianlu.model.packed import pack_linears
from lianlu.model.quantized import quantize_linears


def dense(model: Any, ids: list[int], pooling: str) -> Any:
    with torch.inference_mode():
        h = model.hidden(torch.tensor(ids), torch.arange(len(ids)), PackedCausal([0, len(ids)]))
    pooled = h.mean(0) if pooling == "mean" else h[-1]
    return torch.nn.functional.normalize(pooled, dim=0).numpy()


def random_texts(seed: int, count: int = 9, longest: int = 60) -> list[list[int]]:
    """Texts of which many have a beginning in common."""
    rng = random.Random(seed)
    found: list[list[int]] = []
    for _ in range(count):
        begin = rng.choice(found)[: rng.randrange(1, 40)] if found and rng.random() < 0.6 else []
        found.append(begin + [rng.randrange(64) for _ in range(rng.randrange(1, longest))])
    return found


def vectors(model: Any, texts: list[list[int]], **options: Any) -> list[Vector]:
    return [vector for batch in embed(model, texts, **options) for vector in batch]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["mean", "last"]), st.sampled_from([16, 48, 512]))
def test_a_vector_is_that_of_a_dense_pass_and_does_not_depend_on_its_neighbours(
    lab: Any, seed: int, pooling: str, size: int
) -> None:
    texts = random_texts(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "PASS_TOKENS", size)
        together = vectors(lab.model, texts, pooling=pooling)
        alone = [vectors(lab.model, [text], pooling=pooling)[0] for text in texts]
    assert [one.tobytes() for one in together] == [one.tobytes() for one in alone]
    for text, vector in zip(texts, together, strict=True):
        assert vector.dtype == np.float32
        assert vector == pytest.approx(dense(lab.model, text, pooling), abs=1e-5)


@pytest.mark.parametrize("kind", ["packed", "int8", "int4", "bfloat16"])
def test_neighbours_do_not_matter_to_models_of_any_kind(lab: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lab.build(dtype=torch.bfloat16 if kind == "bfloat16" else torch.float32)
    if kind.startswith("int"):
        quantize_linears(model, kind)
    pack_linears(model)
    monkeypatch.setattr(embedding, "PASS_TOKENS", 48)
    texts = random_texts(4, count=20)
    together = vectors(model, texts)
    assert [one.tobytes() for one in together] == [vectors(model, [text])[0].tobytes() for text in texts]
    backwards = vectors(model, texts[::-1])[::-1]
    assert [one.tobytes() for one in together] == [one.tobytes() for one in backwards]


def test_an_adapter_applies_to_all_rows(lab: Any, adapters: dict[str, Path]) -> None:
    texts = random_texts(5)
    plain = vectors(lab.model, texts)
    engine = lab.engine(model=lab.build())
    engine.adapters.load("a", adapters["a"])
    with engine.adapters.everywhere("a"):
        found = vectors(engine.model, texts)
    merged = lab.build()
    load_adapter(merged, adapters["a"])
    merge_adapter(merged)
    for one, expected, other in zip(found, vectors(merged, texts), plain, strict=True):
        assert one == pytest.approx(expected, abs=1e-5)
        assert abs(one - other).max() > 1e-3
    with engine.adapters.everywhere(""):
        assert [one.tobytes() for one in vectors(engine.model, texts)] == [one.tobytes() for one in plain]


def test_passes_are_small_and_long_texts_are_cut(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "PASS_TOKENS", 32)
    rows = []
    hidden = lab.model.hidden
    monkeypatch.setattr(lab.model, "hidden", lambda ids, *rest: rows.append(len(ids)) or hidden(ids, *rest))
    texts = [[1] * 20, [2] * 12, [3] * 70, [4] * 32, [5]]
    sizes = [len(batch) for batch in embed(lab.model, texts)]
    assert sizes == [2, 0, 0, 1, 1, 1]
    assert rows == [32, 32, 32, 8, 32, 4]


def test_long_texts_under_dynamic_ntk_are_rotated_for_their_length(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lab.build(max_position_embeddings=32, rope_scaling={"kind": "dynamic", "factor": 2.0})
    texts = random_texts(1, longest=90)
    whole = vectors(model, texts)
    monkeypatch.setattr(embedding, "PASS_TOKENS", 24)
    for one, other in zip(vectors(model, texts), whole, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_length_is_one_unless_asked_otherwise(lab: Any) -> None:
    texts = random_texts(2)
    raw, unit = vectors(lab.model, texts, normalize=False), vectors(lab.model, texts)
    for one, other in zip(raw, unit, strict=True):
        assert np.linalg.norm(other) == pytest.approx(1.0, abs=1e-6)
        assert abs(np.linalg.norm(one) - 1) > 0.01
        assert (scaled(one) == other).all()
    assert (scaled(np.zeros(4, dtype=np.float32)) == 0).all()


def test_other_precisions_give_fp32_vectors(lab: Any) -> None:
    model = lab.build(dtype=torch.bfloat16)
    texts = random_texts(3)
    for one, other in zip(vectors(model, texts), vectors(lab.model, texts), strict=True):
        assert one.dtype == np.float32
        assert float(one @ other) > 0.99


def test_weights_that_give_no_numbers_are_an_error(lab: Any) -> None:
    model = lab.build()
    with torch.no_grad():
        model.embed_tokens.weight[5].fill_(float("nan"))
    with pytest.raises(EngineError, match="no usable numbers"):
        vectors(model, [[1, 5, 2]])
    assert len(vectors(model, [[1, 2]])) == 1


def test_what_fits() -> None:
    assert fitted([1, 2, 3], 64, 3) == [1, 2, 3]
    assert fitted([1, 2, 3, 4], 64, 3, -1) == [1, 2, 3]
    assert fitted([1, 2, 3, 4], 64, 3, 2) == [1, 2]
    for ids, message in (([], "empty"), ([1, 2, 3, 4], "4 tokens.*3 tokens"), ([64], "outside"), ([-1], "outside")):
        with pytest.raises(RequestError, match=message) as caught:
            fitted(ids, 64, 3)
        assert caught.value.status == 400
    with pytest.raises(RequestError, match="4 tokens"):
        fitted([1, 2, 3, 4, 5], 64, 3, 4)


def test_nothing_is_nothing(lab: Any) -> None:
    assert vectors(lab.model, []) == []
