"""Cosines and sines of every scaling kind against transformers, and a dynamic model beyond its trained length."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import preset
from lianlu.model.decoder import build_model
from lianlu.model.hf_config import to_hf
from lianlu.model.load import load_model, read_config
from lianlu.model.rotary import Rotary
from lianlu.model.save import save_model

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()

KINDS: dict[str, dict[str, Any]] = {
    "none": {"kind": "none"},
    "linear": {"kind": "linear", "factor": 4.0},
    "dynamic": {"kind": "dynamic", "factor": 2.0},
    "dynamic-2.5": {"kind": "dynamic", "factor": 2.5},
    "yarn": {"kind": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "yarn-betas": {
        "kind": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 128,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "attention_factor": 1.3,
    },
    "llama3": {"kind": "llama3", "factor": 8.0, "original_max_position_embeddings": 128},
}


def theirs(scaling: dict[str, Any], theta: float) -> LlamaRotaryEmbedding:
    config = preset("internlm2-nano", architecture="llama", rope_scaling=scaling, rope_theta=theta)
    return LlamaRotaryEmbedding(transformers.LlamaConfig(**to_hf(config, "llama", "float32")))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize("length", [40, 256, 257, 700])
def test_cos_and_sin(kind: str, theta: float, length: int) -> None:
    positions = torch.arange(length)
    config = preset("internlm2-nano", rope_scaling=KINDS[kind], rope_theta=theta)
    cos, sin = Rotary(config)(positions, torch.full((length,), length))
    their_cos, their_sin = theirs(KINDS[kind], theta)(torch.zeros(1), positions[None])
    signs = torch.cat([-torch.ones(8), torch.ones(8)])
    torch.testing.assert_close(cos, their_cos[0], rtol=0, atol=1e-6 if length <= 256 else 3e-5)
    torch.testing.assert_close(sin * signs, their_sin[0], rtol=0, atol=1e-6 if length <= 256 else 3e-5)


@pytest.mark.parametrize("length", [30, 64, 65, 150])
def test_dynamic_model_within_and_beyond_its_length(length: int, tmp_path: Path) -> None:
    shape = {"max_position_embeddings": 64, "rope_scaling": KINDS["dynamic"], "rope_theta": 1e6, "initializer_range": 0.1}
    model = build_model(preset("internlm2-nano", **shape), 0)
    save_model(model, tmp_path, "llama")
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(0, 512, (length,), generator=torch.Generator().manual_seed(3))
    logits = model(ids, torch.arange(length), PackedCausal([0, length]))
    torch.testing.assert_close(logits, reference(ids[None]).logits[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_far_positions_within_the_rounding_of_their_angles(kind: str) -> None:
    """They multiply in fp32, so their angles are off by up to half a bit of themselves; ours are right."""
    positions = torch.tensor([4095, 4096, 32_768, 100_000, 199_999])
    cos, sin = Rotary(preset("internlm2-nano", rope_scaling=KINDS[kind]))(positions, positions + 1)
    for index, position in enumerate(positions.tolist()):
        # dynamic NTK looks at the length, so that each position is asked for as the last of its sequence
        their_cos, their_sin = theirs(KINDS[kind], 1e4)(torch.zeros(1), torch.tensor([[position]]))
        for mine, other in ((cos[index, :8], their_cos[0, 0, :8]), (sin[index, 8:], their_sin[0, 0, 8:])):
            torch.testing.assert_close(mine, other, rtol=0, atol=position * 2**-22)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_far_beyond_its_trained_length(kind: str, tmp_path: Path) -> None:
    """With the scaling put on a plain checkpoint, as the engine's rope does it."""
    plain = build_model(preset("internlm2-nano", max_position_embeddings=64, initializer_range=0.1), 0)
    save_model(plain, tmp_path / "plain", "llama")
    config = read_config(tmp_path / "plain")
    stretched = type(config).model_validate({**config.model_dump(), "rope_scaling": KINDS[kind]})
    model = load_model(tmp_path / "plain", config=stretched)
    save_model(model, tmp_path / "stretched", "llama")
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "stretched")
    ids = torch.randint(0, 512, (900,), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        logits = model(ids, torch.arange(900), PackedCausal([0, 900]))
        torch.testing.assert_close(logits, reference(ids[None]).logits[0], rtol=1e-4, atol=1e-4)
