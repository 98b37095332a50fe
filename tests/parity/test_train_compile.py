"""Training with blocks compiled by PyTorch's compiler against the same blocks run as they are written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from lianlu.core.config import validate
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.lora import LoraSpec, add_lora
from lianlu.model.quantized import quantize_linears
from lianlu.train import recompute
from lianlu.train.config import TrainConfig
from lianlu.train.packing import Segment, pack, packed_loss
from lianlu.train.recompute import prepare_blocks

SHAPE = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
CONFIG = ModelConfig(vocab_size=50, num_hidden_layers=3, initializer_range=0.2, **SHAPE)


def full() -> Decoder:
    return build_model(CONFIG, seed=1)


def lora() -> Decoder:
    model = full()
    add_lora(model, LoraSpec(rank=4, dropout=0.2), seed=2)
    return model


def nf4_dora() -> Decoder:
    model = full()
    quantize_linears(model, "nf4")
    add_lora(model, LoraSpec(rank=4, dropout=0.2, dora=True), seed=2)
    return model


def computed(model: Decoder, table: dict[str, object]) -> dict[str, torch.Tensor]:
    """Losses of batches of different lengths, and the sum of their gradients."""
    prepare_blocks(model.train(), validate(TrainConfig, table))
    torch.manual_seed(0)
    source = np.random.default_rng(3)
    found = {}
    for number, lengths in enumerate([(5, 17, 9), (30, 2), (40,)]):
        batch = pack([Segment(source.integers(0, 50, n), source.integers(0, 50, n)) for n in lengths])
        loss = packed_loss(model, batch)
        loss.backward()
        found[f"loss {number}"] = loss.detach()
    return found | {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler needs a C++ compiler")
def test_compiled_blocks_give_the_loss_and_the_gradients_of_plain_ones() -> None:
    torch._dynamo.reset()
    assert_close(computed(lora(), {"compile": True, "checkpointing": "full"}), computed(lora(), {}))


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is traced, guarded and kept for the backward pass is the same, only not fused."""
    compile_it = torch.compile
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    recompute._compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda function, options: compile_it(function, backend="aot_eager"))
    yield
    recompute._compiled.cache_clear()
    torch._functorch.config.ban_recompute_materialized_backward = True


@pytest.mark.usefixtures("traced")
def test_blocks_with_dora_over_nf4_are_compiled_once_for_all_lengths() -> None:
    assert_close(computed(nf4_dora(), {"compile": True}), computed(nf4_dora(), {}))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 5


@pytest.mark.usefixtures("traced")
def test_selective_lets_the_compiler_keep_less() -> None:
    def kept_bytes(checkpointing: str) -> int:
        torch._dynamo.reset()
        model = full()
        prepare_blocks(model, validate(TrainConfig, {"compile": True, "checkpointing": checkpointing}))
        sizes: dict[int, int] = {}
        held = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            held.append(tensor)
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        batch = pack([Segment(np.arange(40), np.arange(40))])
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            packed_loss(model, batch)
        return sum(sizes.values())

    # at least the output of a norm and the feed-forward's activations, of each block
    activations = 40 * (CONFIG.hidden_size + CONFIG.intermediate_size) * 4 * CONFIG.num_hidden_layers
    assert kept_bytes("none") - kept_bytes("selective") >= activations


def assert_close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    apart = {name: float((found[name] - wanted[name]).norm()) for name in wanted}
    assert [name for name in wanted if apart[name] > 1e-5 * float(wanted[name].norm())] == []
