"""Which GPUs a run fits on, how many of them, and what is advised."""

from __future__ import annotations

import pytest

from lianlu.model.config import preset
from lianlu.train.plan import advice
from lianlu.train.plan.gpus import find_gpu, gpus
from lianlu.train.plan.layouts import describe, fits, planned_gpus, smallest
from lianlu.train.plan.setting import Adapter, Division, Setting
from lianlu.train.plan.time import pace


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090 24 GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40 GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80 GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80 GB"),
        ("NVIDIA H100 80GB HBM3", "H100 80 GB"),
        ("NVIDIA H100 PCIe", "H100 PCIe 80 GB"),
        ("NVIDIA H200", "H200 141 GB"),
        ("NVIDIA L40S", "L40S 48 GB"),
    ],
)
def test_gpus_are_known_by_their_drivers_names(name: str, title: str) -> None:
    gpu = find_gpu(name)
    assert gpu is not None
    assert gpu.title == title


def test_unknown_gpus_are_nothing() -> None:
    assert find_gpu("NVIDIA T4") is None
    assert all(gpu.flops["bfloat16"] > gpu.flops["float32"] > 0 for gpu in gpus())


def test_seven_billion_in_full_takes_several_large_gpus_and_qlora_a_small_one() -> None:
    model = preset("internlm2-7b")
    full = smallest(Setting(model, micro_tokens=4096, sequence=4096), find_gpu("H100"))
    assert full is not None
    assert full.setting.division.num_devices in (2, 4)
    assert full.setting.division.sharding == "full" or full.setting.division.tensor > 1
    qlora = smallest(Setting(model, adapter=Adapter(16, quantised=True), micro_tokens=1024), find_gpu("RTX 4090"))
    assert qlora is not None
    assert qlora.setting.division.num_devices == 1
    assert smallest(Setting(preset("internlm2-20b"), micro_tokens=4096), find_gpu("RTX 4090"), 8) is None


def test_what_fits_easily_is_left_plain() -> None:
    found = smallest(Setting(preset("internlm2-nano")), find_gpu("H200"))
    assert found is not None
    assert describe(found.setting) == "plain"


def test_the_layout_shown_fits_and_fewer_gpus_do_not() -> None:
    setting = Setting(preset("internlm2-20b"), micro_tokens=4096, sequence=4096)
    for gpu in planned_gpus():
        found = smallest(setting, gpu)
        assert found is not None
        assert fits(found.memory_bytes, gpu)
        count = found.setting.division.num_devices
        assert count == 1 or smallest(setting, gpu, count // 2) is None


def test_a_layout_is_told_in_the_fields_of_the_configuration() -> None:
    setting = Setting(preset("internlm2-nano"), checkpointing="full", division=Division(4, "full", tensor=2))
    assert describe(setting) == "sharding full, tensor 2, checkpointing full"


def test_computing_twice_costs_time_and_gpus_save_it() -> None:
    gpu = find_gpu("H100")
    model = preset("internlm2-1.8b")
    plain, again = (pace(Setting(model, gpu=True, checkpointing=kind), gpu).tokens_per_s for kind in ("none", "full"))
    assert 0.7 < again / plain < 0.8
    assert pace(Setting(model, gpu=True, division=Division(4)), gpu).tokens_per_s == pytest.approx(4 * plain)


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "memory_bytes", lambda: 16_000_000_000)
    monkeypatch.setattr(advice, "gpu_names", list)


@pytest.mark.usefixtures("small_machine")
def test_sixteen_gigabytes_are_enough_for_qlora_of_seven_billion_only() -> None:
    setting = Setting(preset("internlm2-7b"), adapter=Adapter(16), micro_tokens=1024, checkpointing="full")
    ways = {way.name: way for way in advice.ways(setting)}
    assert list(ways) == ["full", "lora", "qlora"]
    assert ways["qlora"].here == "fits"
    assert ways["lora"].here.startswith("lacks ")
    assert ways["full"].here.startswith("lacks 1")
    assert ways["full"].memory_bytes > ways["lora"].memory_bytes > ways["qlora"].memory_bytes
    assert "4 bits" in ways["qlora"].reason
    assert ways["full"].elsewhere.endswith("H200 141 GB")


def test_a_machine_with_gpus_is_asked_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "gpu_names", lambda: ["NVIDIA GeForce RTX 4090"] * 4)
    setting = Setting(preset("internlm2-7b"), adapter=Adapter(16), micro_tokens=1024, checkpointing="full")
    ways = {way.name: way.here for way in advice.ways(setting)}
    assert ways["qlora"] == "fits one RTX 4090 24 GB"
    assert ways["full"] == "does not fit"
