"""Our decoder against transformers: logits, loss and every gradient, from one set of small random weights in fp32."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.nn import functional as F

from lianlu.kernels.attention import PackedCausal, packed_positions
from lianlu.model import layouts
from lianlu.model.config import preset
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.load import load_model
from lianlu.model.save import save_model

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "rms_norm_eps": 1e-6,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"num_key_value_heads": 2, "rope_theta": 5e4}),
    "llama-tied-one-kv-head": ("LlamaConfig", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama-bias-all-heads": ("LlamaConfig", {"num_key_value_heads": 6, "attention_bias": True}),
    "llama-explicit-head-dim": ("LlamaConfig", {"num_key_value_heads": 3, "head_dim": 16}),
    "qwen2": ("Qwen2Config", {"num_key_value_heads": 2, "rope_theta": 1e6}),
    "qwen2-tied": ("Qwen2Config", {"num_key_value_heads": 3, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"num_key_value_heads": 2, "head_dim": 20}),
    "qwen3-bias": ("Qwen3Config", {"num_key_value_heads": 3, "head_dim": 8, "attention_bias": True}),
}
SPANS = [11, 1, 20]
ENDS = [0, 11, 12, 32]


def reference(family: str) -> Any:
    """A model of transformers with random weights, norms and biases included."""
    name, change = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**{**SHAPE, **change}, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def tokens() -> torch.Tensor:
    return torch.randint(0, 97, (ENDS[-1],), generator=torch.Generator().manual_seed(1))


def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, labels)


def their_gradients(model: Any, ours: Decoder) -> dict[str, torch.Tensor]:
    """The gradients of transformers in our fused form."""
    held = {name: parameter.grad for name, parameter in model.named_parameters()}
    names = layouts.LAYOUTS[ours.config.architecture]
    return {
        name: layouts.fuse(name, [held[piece] for piece in names.pieces(name)], ours.config)
        for name, _ in ours.named_parameters()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_loss_and_gradients(family: str, tmp_path: Path) -> None:
    theirs = reference(family)
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    ids, labels = tokens(), tokens().roll(-1)
    positions, lengths = packed_positions(ENDS)
    my_logits = ours(ids, positions, PackedCausal(ENDS), lengths)
    logits = torch.cat([theirs(part[None]).logits[0] for part in ids.split(SPANS)])
    torch.testing.assert_close(my_logits, logits, rtol=1e-5, atol=1e-5)
    my_loss, loss = loss_of(my_logits, labels), loss_of(logits, labels)
    torch.testing.assert_close(my_loss, loss, rtol=0, atol=1e-6)
    my_loss.backward()
    loss.backward()
    gradients = their_gradients(theirs, ours)
    for name, parameter in ours.named_parameters():
        error = (parameter.grad - gradients[name]).norm() / gradients[name].norm()
        assert error < 1e-4, f"{name}: {error}"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_we_write_transformers_reads(family: str, tmp_path: Path) -> None:
    theirs = reference(family)
    theirs.save_pretrained(tmp_path / "theirs")
    save_model(load_model(tmp_path / "theirs"), tmp_path / "ours", max_shard_bytes=60_000)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert type(again) is type(theirs)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert again.dtype == torch.float32
    assert again.config.rope_parameters == theirs.config.rope_parameters
    for name in (*SHAPE, "num_key_value_heads", "head_dim", "tie_word_embeddings", "eos_token_id", "bos_token_id"):
        assert getattr(again.config, name, None) == getattr(theirs.config, name, None) or name == "head_dim"


@pytest.mark.parametrize("norm_head", [False, True])
@pytest.mark.parametrize("change", [{}, {"num_key_value_heads": 4}, {"attention_bias": True}])
def test_internlm2_through_its_llama_form(norm_head: bool, change: dict[str, Any], tmp_path: Path) -> None:
    """transformers has no InternLM2: what we convert to Llama, it computes."""
    model = build_model(preset("internlm2-nano", norm_head=norm_head, initializer_range=0.1, **change), 0)
    save_model(model, tmp_path, "llama")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(0, 512, (30,), generator=torch.Generator().manual_seed(2))
    logits = model(ids, torch.arange(30), PackedCausal([0, 30]))
    torch.testing.assert_close(logits, theirs(ids[None]).logits[0], rtol=1e-5, atol=1e-5)


def test_internlm2_rows_by_the_official_recipe(tmp_path: Path) -> None:
    """`tools/convert2llama.py` of InternLM: reshape wqkv to (groups, queries + 2, head_dim, hidden), then deal out."""
    model = build_model(preset("internlm2-nano"), 0)
    save_model(model, tmp_path / "internlm2")
    save_model(model, tmp_path / "llama", "llama")
    internlm2, llama = (load_file(tmp_path / name / "model.safetensors") for name in ("internlm2", "llama"))
    wqkv = internlm2["model.layers.1.attention.wqkv.weight"].view(2, 4, 16, 64)
    queries, keys, values = wqkv.split([2, 1, 1], dim=1)
    for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", values)):
        assert torch.equal(llama[f"model.layers.1.self_attn.{name}.weight"], rows.reshape(-1, 64))


def test_bf16_is_as_near_to_fp32_as_transformers_bf16(tmp_path: Path) -> None:
    theirs = reference("qwen3")
    theirs.save_pretrained(tmp_path)
    ids = tokens()
    exact = theirs(ids[None]).logits[0]
    narrow = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)(ids[None]).logits[0]
    ours = load_model(tmp_path, torch.bfloat16)(ids, torch.arange(len(ids)), PackedCausal([0, len(ids)]))
    assert (ours - exact).norm() < 1.3 * (narrow - exact).norm()
