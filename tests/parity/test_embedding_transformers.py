"""Vectors of texts are the pooled last hidden states of transformers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from lianlu.engine import embedding
from lianlu.engine.embedding import Pooling, embed
from lianlu.model.load import load_model

SHAPE = {
    "vocab_size": 128,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
}


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
def test_hidden_states_pooled(family: str, pooling: Pooling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(5)
    config = getattr(transformers, f"{family}Config")(**SHAPE, **({"head_dim": 16} if family == "Qwen3" else {}))
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    theirs.save_pretrained(tmp_path)
    monkeypatch.setattr(embedding, "PASS_TOKENS", 64)
    rng = random.Random(1)
    texts = [[rng.randrange(1, 128) for _ in range(size)] for size in (1, 7, 64, 65, 200, 3)]
    found = [vector for batch in embed(load_model(tmp_path), texts, pooling) for vector in batch]
    for text, vector in zip(texts, found, strict=True):
        with torch.inference_mode():
            h = theirs(torch.tensor([text]), output_hidden_states=True).hidden_states[-1][0]
        expected = torch.nn.functional.normalize(h.mean(0) if pooling == "mean" else h[-1], dim=0)
        assert vector == pytest.approx(expected.numpy(), abs=1e-5)
