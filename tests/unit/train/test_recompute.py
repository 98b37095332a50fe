"""Blocks that keep less or are compiled compute the same loss and the same gradients, and look the same from outside."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lianlu.core.config import validate
from lianlu.core.errors import MissingExtraError
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.load import load_model
from lianlu.model.lora import LoraSpec, add_lora
from lianlu.model.quantized import quantize_linears
from lianlu.model.save import save_model
from lianlu.train import recompute
from lianlu.train.config import TrainConfig
from lianlu.train.packing import Packed, Segment, pack, packed_loss
from lianlu.train.recompute import apply_recompute, compile_blocks, prepare_blocks

SHAPE = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
CONFIG = ModelConfig(vocab_size=50, num_hidden_layers=3, initializer_range=0.2, **SHAPE)
PRODUCTS = {"mkldnn::_linear_pointwise", "aten::mm", "aten::addmm", "lianlu::nf4_product"}
Made = Callable[[], Decoder]


def batches() -> list[Packed]:
    source = np.random.default_rng(3)
    lengths = [(5, 17, 9), (30, 2), (1,), (11, 13, 7, 3), (40,), (150, 20)]
    return [pack([Segment(source.integers(0, 50, n), source.integers(0, 50, n)) for n in row]) for row in lengths]


BATCHES = batches()


def full() -> Decoder:
    return build_model(CONFIG, seed=1)


def lora(quant: Any = None, **changes: Any) -> Decoder:
    model = full()
    if quant:
        quantize_linears(model, quant)
    add_lora(model, LoraSpec(rank=4, dropout=0.2, **changes), seed=2)
    generator = torch.Generator().manual_seed(4)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0.0, 0.1, generator=generator)
    return model


def int8_lora() -> Decoder:
    return lora("int8")


def nf4_dora() -> Decoder:
    return lora("nf4", dora=True)


def computed(model: Decoder, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Losses and summed gradients of all batches in training mode, dropout seeded."""
    model.train()
    torch.manual_seed(0)
    found = {}
    for number, batch in enumerate(BATCHES):
        with torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext():
            loss = packed_loss(model, batch)
        loss.backward()
        found[f"loss {number}"] = loss.detach()
    found["drawn"] = torch.rand(1)
    return found | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [full, lora, int8_lora, nf4_dora])
def test_recomputing_changes_no_bit(make: Made, dtype: torch.dtype) -> None:
    wanted = computed(make(), dtype)
    assert any(float(value.abs().sum()) > 0 for name, value in wanted.items() if "layers.0." in name)
    for kind in ("selective", "full"):
        model = make()
        apply_recompute(model, kind)
        assert_equal(computed(model, dtype), wanted)


class Counted(TorchDispatchMode):
    """Counts what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.name()] += 1
        return func(*args, **(kwargs or {}))


def counted(kind: Any, make: Made) -> tuple[int, int, int]:
    """Products, attentions and other operations of one step."""
    model = make()
    apply_recompute(model, kind)
    with Counted() as mode:
        packed_loss(model, BATCHES[0]).backward()
    products = sum(mode.calls[name] for name in PRODUCTS)
    attentions = sum(count for name, count in mode.calls.items() if "scaled_dot_product" in name)
    return products, attentions, mode.calls.total() - products - attentions


@pytest.mark.parametrize("make", [full, lora, nf4_dora])
def test_selective_repeats_no_product_and_no_attention(make: Made) -> None:
    none, selective, whole = (counted(kind, make) for kind in ("none", "selective", "full"))
    assert selective[:2] == none[:2]
    assert selective[2] > none[2]
    assert whole[0] > none[0]
    assert whole[1] > none[1]


def test_names_files_and_evaluation_are_as_before(tmp_path: Path) -> None:
    plain, model = full(), full()
    apply_recompute(model, "selective")
    apply_recompute(model, "full")
    assert list(model.state_dict()) == list(plain.state_dict())
    save_model(model, tmp_path)
    assert_equal(load_model(tmp_path).state_dict(), plain.state_dict())
    assert_equal(computed(copy.deepcopy(model)), computed(plain))
    with torch.no_grad():
        assert torch.equal(packed_loss(model, BATCHES[0]), packed_loss(plain, BATCHES[0]))


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile without the C++ compiler: what is traced, guarded and differentiated is the same, only not fused."""
    compile_it = torch.compile
    torch._dynamo.reset()
    recompute._compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda function, options: compile_it(function, backend="aot_eager"))
    yield
    recompute._compiled.cache_clear()
    torch._dynamo.reset()


def num_graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.usefixtures("traced")
def test_compiled_blocks_compute_the_same_and_serve_all_layers_and_lengths() -> None:
    wanted, model = computed(full()), full()
    prepare_blocks(model, validate(TrainConfig, {"compile": True, "checkpointing": "full"}))
    assert list(model.state_dict()) == list(full().state_dict())
    torch._dynamo.utils.counters.clear()
    found = computed(model)
    assert found.keys() == wanted.keys()
    assert all(float((found[name] - wanted[name]).norm() / wanted[name].norm()) < 1e-5 for name in wanted)
    # before attention and after it, each in two functions; what names the layer once more for layers but the first
    assert num_graphs() <= 5
    computed(model)
    assert num_graphs() <= 5


@pytest.mark.usefixtures("traced")
def test_evaluation_is_not_compiled() -> None:
    model = full()
    compile_blocks(model)
    torch._dynamo.utils.counters.clear()
    with torch.no_grad():
        assert torch.equal(packed_loss(model, BATCHES[0]), packed_loss(full(), BATCHES[0]))
    assert num_graphs() == 0


def test_the_config_says_what_is_done() -> None:
    plain = full()
    prepare_blocks(plain, TrainConfig())
    assert all("forward" not in vars(block) for block in plain.layers)
    selective = full()
    prepare_blocks(selective, validate(TrainConfig, {"checkpointing": "selective"}))
    assert all("forward" in vars(block) for block in selective.layers)


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingExtraError, match="no-such-compiler") as caught:
        compile_blocks(full())
    assert "apt install g" in caught.value.hint
