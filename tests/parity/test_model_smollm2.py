"""The real SmolLM2-135M-Instruct out of its GGUF, against transformers reading the same file."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from lianlu.kernels.attention import PackedCausal
from lianlu.model.decoder import Decoder
from lianlu.model.load import load_model, read_config
from lianlu.tokenizer.tokenizer import Tokenizer

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()

NUM_NEW = 16


@pytest.fixture(scope="module")
def ours(smollm2: Path) -> Decoder:
    return load_model(smollm2)


@pytest.fixture(scope="module")
def theirs(smollm2: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32)


@pytest.fixture(scope="module")
def prompt(smollm2: Path) -> torch.Tensor:
    text = "<|im_start|>user\nWhat is the capital of France, and what is it known for?<|im_end|>\n<|im_start|>assistant\n"
    return torch.tensor(Tokenizer.load(smollm2).encode(text, specials=True))


def test_weights_are_equal_to_the_bit(ours: Decoder, theirs: Any) -> None:
    q, k, v = (getattr(theirs.model.layers[7].self_attn, name).weight for name in ("q_proj", "k_proj", "v_proj"))
    group = torch.cat([q.view(3, 3, 64, 576), k.view(3, 1, 64, 576), v.view(3, 1, 64, 576)], dim=1)
    assert torch.equal(ours.layers[7].attention.wqkv.weight, group.reshape(960, 576))
    assert torch.equal(ours.layers[7].mlp.down.weight, theirs.model.layers[7].mlp.down_proj.weight)
    assert torch.equal(ours.embed_tokens.weight, theirs.model.embed_tokens.weight)


@torch.inference_mode()
def test_logits_of_the_reference_kernels(
    ours: Decoder, theirs: Any, prompt: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lianlu.kernels.linear.HAS_ONEDNN", False)
    logits = ours(prompt, torch.arange(len(prompt)), PackedCausal([0, len(prompt)]))
    torch.testing.assert_close(logits, theirs(prompt[None]).logits[0], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_logits_of_the_fast_kernels(ours: Decoder, theirs: Any, prompt: torch.Tensor) -> None:
    """Another order of summation: logits reach 35, and each library is 6e-5 from the exact value after thirty layers."""
    logits = ours(prompt, torch.arange(len(prompt)), PackedCausal([0, len(prompt)]))
    reference = theirs(prompt[None]).logits[0]
    assert (logits - reference).abs().max() < 1e-5 * reference.abs().max()
    torch.testing.assert_close(logits.log_softmax(-1), reference.log_softmax(-1), rtol=1e-5, atol=2e-4)


@torch.inference_mode()
def test_greedy_text(ours: Decoder, theirs: Any, prompt: torch.Tensor) -> None:
    expected = theirs.generate(prompt[None], max_new_tokens=NUM_NEW, do_sample=False)[0, len(prompt) :].tolist()
    ids = prompt
    while len(ids) - len(prompt) < len(expected):
        hidden = ours.hidden(ids, torch.arange(len(ids)), PackedCausal([0, len(ids)]))
        ids = torch.cat([ids, ours.head(hidden[-1:]).argmax(-1)])
    assert ids[len(prompt) :].tolist() == expected


def test_config(smollm2: Path, theirs: Any) -> None:
    config = read_config(smollm2)
    assert config.eos_token_ids == (2,)
    assert config.rms_norm_eps == 1e-5
    for name in ("vocab_size", "hidden_size", "num_key_value_heads", "max_position_embeddings", "tie_word_embeddings"):
        assert getattr(config, name) == getattr(theirs.config, name)
