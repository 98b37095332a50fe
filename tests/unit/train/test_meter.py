"""Utilisation and memory: what is counted of which model, and against which peak."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lianlu.core.config import validate
from lianlu.model.config import preset
from lianlu.model.decoder import build_model
from lianlu.model.lora import LoraSpec, add_lora
from lianlu.train import meter
from lianlu.train.config import TrainConfig
from lianlu.train.flops import Flops
from lianlu.train.meter import Meter, count_flops, device_peak
from lianlu.train.parallel.layout import Layout

NANO = preset("internlm2-nano")
CPU = torch.device("cpu")


@pytest.fixture
def layout() -> Layout:
    return Layout(validate(TrainConfig, {"precision": "float32"}))


def test_models_are_counted_by_what_of_them_is_trained() -> None:
    model = build_model(NANO, 0)
    assert count_flops(model) == Flops(NANO)
    add_lora(model, LoraSpec(rank=4))
    assert count_flops(model) == Flops(NANO, sum(p.numel() for p in model.parameters() if p.requires_grad))
    assert count_flops(nn.Linear(2, 2)) is None


def test_utilisation_is_operations_over_time_over_peak(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "device_peak", lambda device, dtype: (1e12, "a made-up device"))
    found = Meter(build_model(NANO, 0), layout)
    assert found.mfu([100, 50], 120, 0.5) == pytest.approx(Flops(NANO).step([100, 50], 120) / 0.5 / 1e12)
    assert found.begin() == f"MFU counts {Flops(NANO).formula()}; of 1000 GFLOP/s (a made-up device)"
    layout.num_ranks = 4
    assert Meter(build_model(NANO, 0), layout).mfu([100, 50], 120, 0.5) == pytest.approx(
        (found.mfu([100, 50], 120, 0.5) or 0) / 4
    )


def test_other_modules_have_memory_and_no_utilisation(layout: Layout) -> None:
    found = Meter(nn.Linear(2, 2), layout)
    assert found.mfu([1], 1, 1.0) is None
    assert found.begin() == ""
    assert 10_000_000 < found.memory_bytes() <= found.peak_memory_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peak_of_a_processor_is_measured_once(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "MEASURED_S", 0.02)
    device_peak.cache_clear()
    state = torch.random.get_rng_state()
    peak, source = device_peak(CPU, dtype)
    assert peak > 1e8
    assert source == f"measured product, {str(dtype).removeprefix('torch.')}"
    assert device_peak(CPU, dtype) == (peak, source)
    assert torch.equal(torch.random.get_rng_state(), state)
    device_peak.cache_clear()


def test_gpus_that_are_known_have_the_peak_of_their_data_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    device_peak.cache_clear()
    assert device_peak(torch.device("cuda"), torch.bfloat16) == (989.4e12, "data sheet of H100 80 GB, bfloat16")
    device_peak.cache_clear()
