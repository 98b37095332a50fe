"""Planned memory held against every byte that PyTorch allocates in a step of the real model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile, record_function

from lianlu.model.config import ModelConfig, preset
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.frozen import hold_frozen
from lianlu.model.lora import LoraSpec, add_lora
from lianlu.model.quantized import quantize_linears
from lianlu.train.packing import Segment, pack, packed_hidden
from lianlu.train.parallel.vocab import summed_loss
from lianlu.train.plan.memory import MOMENTS, memory
from lianlu.train.plan.setting import Adapter, Division, Setting
from lianlu.train.precision import mixed
from lianlu.train.recompute import apply_recompute

SHAPE = ModelConfig(
    architecture="llama",
    vocab_size=3000,
    hidden_size=192,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=6,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
UNTIED = SHAPE.model_copy(update={"tie_word_embeddings": False, "qk_norm": True})
# Lengths of sequences here are multiples of 64, so that batches and attention need no filling, which is not planned.
# What stays from step to step, and what the process has besides: not allocated inside a step.
LASTING = ("weights, trained", "weights, frozen", "optimiser states", "runtime")
LOSS, BACKWARD = MOMENTS.index("loss"), slice(1, None)


def build(setting: Setting) -> Decoder:
    model = build_model(setting.model, 0)
    if setting.adapter is not None:
        if setting.adapter.quantised:
            quantize_linears(model, "nf4")
        hold_frozen(model, getattr(torch, setting.precision), setting.adapter.quantised)
        add_lora(model, LoraSpec(rank=setting.adapter.rank, target=setting.adapter.target))
    apply_recompute(model, setting.checkpointing)
    return model


def allocated(setting: Setting, lengths: list[int]) -> dict[str, int]:
    """The most bytes that a step allocates, forwards and backwards, beyond what was there before it."""
    model = build(setting)
    segments = [Segment(np.zeros(n, dtype=np.int64), np.ones(n, dtype=np.int64)) for n in lengths]

    def step() -> None:
        batch = pack(segments)
        with mixed(getattr(torch, setting.precision), torch.device("cpu")):
            hidden_TD = packed_hidden(model, batch)
            with record_function("part:loss"):
                loss = summed_loss(model, hidden_TD, batch.targets)
            del hidden_TD
        with record_function("part:backward"):
            loss.backward()
        model.zero_grad(set_to_none=True)

    step()
    return peaks(step)


def peaks(step: Callable[[], None]) -> dict[str, int]:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    events = list(walk(seen.profiler.kineto_results.experimental_event_tree()))
    changes = sorted((e.start_time_ns, e.extra_fields.alloc_size) for e in events if e.tag == _EventType.Allocation)
    parts = [(e.name.removeprefix("part:"), e.start_time_ns, e.end_time_ns) for e in events if e.name.startswith("part:")]
    now, most = 0, dict.fromkeys([name for name, _, _ in parts], 0)
    for at, change in changes:
        now += change
        for name, start, end in parts:
            if start <= at <= end:
                most[name] = max(most[name], now)
    return most


def walk(nodes: list[Any]) -> Iterator[Any]:
    for node in nodes:
        yield node
        yield from walk(node.children)


def planned(setting: Setting) -> dict[str, float]:
    """The same as the plan has it."""
    rows = [row for row in memory(setting).classes if row.name not in LASTING]
    sums = [sum(row.at[moment] for row in rows) for moment in range(len(MOMENTS))]
    return {"loss": sums[LOSS], "backward": max(sums[BACKWARD])}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", [SHAPE, UNTIED], ids=["tied", "untied"])
@pytest.mark.parametrize("adapter", [None, Adapter(4), Adapter(4, ("q_proj", "down_proj")), Adapter(4, quantised=True)])
def test_what_a_step_allocates_is_planned(precision: Any, model: ModelConfig, adapter: Adapter | None) -> None:
    lengths = [256, 256, 256]
    setting = Setting(model, precision, adapter=adapter, micro_tokens=sum(lengths), sequence=256)
    measured, wanted = allocated(setting, lengths), planned(setting)
    assert wanted["loss"] == pytest.approx(measured["loss"], rel=0.01)
    assert wanted["backward"] == pytest.approx(measured["backward"], rel=0.06)


@pytest.mark.parametrize("checkpointing", ["selective", "full"])
@pytest.mark.parametrize("adapter", [None, Adapter(4)])
def test_activation_checkpointing_is_planned(checkpointing: Any, adapter: Adapter | None) -> None:
    lengths = [256, 256, 256]
    setting = Setting(SHAPE, "bfloat16", adapter=adapter, micro_tokens=sum(lengths), sequence=256, checkpointing=checkpointing)
    measured, wanted = allocated(setting, lengths), planned(setting)
    assert wanted["loss"] == pytest.approx(measured["loss"], rel=0.02)
    assert wanted["backward"] == pytest.approx(measured["backward"], rel=0.06)


@pytest.mark.parametrize("lengths", [[96] * 6, [640]], ids=["short", "single"])
def test_short_and_single_sequences_are_planned(lengths: list[int]) -> None:
    setting = Setting(SHAPE, "bfloat16", micro_tokens=sum(lengths), sequence=max(lengths))
    measured, wanted = allocated(setting, lengths), planned(setting)
    assert wanted["loss"] == pytest.approx(measured["loss"], rel=0.01)


def named(setting: Setting) -> dict[str, float]:
    return {row.name: max(row.at) for row in memory(setting).classes}


def test_the_classes_of_mixed_precision_adamw() -> None:
    found = named(Setting(preset("internlm2-7b"), gpu=True, division=Division(data=1)))
    parameters = 7.738e9
    assert found["weights, trained"] == pytest.approx(4 * parameters, rel=1e-3)
    assert found["optimiser states"] == pytest.approx(8 * parameters, rel=1e-3)
    assert found["gradients"] == pytest.approx(4 * parameters, rel=1e-3)


def test_qlora_holds_four_bits_a_weight() -> None:
    setting = Setting(preset("internlm2-7b"), adapter=Adapter(16, quantised=True), micro_tokens=512, checkpointing="full")
    found = named(setting)
    assert found["weights, frozen"] == pytest.approx(6.979e9 * 4.127 / 8 + 2 * 2 * 92544 * 4096, rel=1e-3)
    assert memory(setting).peak_bytes < 8e9


@pytest.mark.parametrize(("optimizer", "state"), [("adamw", 8.0), ("adamw8", 2.03), ("muon", 4.0)])
def test_optimisers_remember_what_they_say(optimizer: str, state: float) -> None:
    found = named(Setting(SHAPE.model_copy(update={"vocab_size": 10}), optimizer=optimizer))
    assert found["optimiser states"] / found["weights, trained"] == pytest.approx(state / 4, rel=0.01)


def test_sharding_divides_what_it_says() -> None:
    whole = Setting(preset("internlm2-1.8b"), gpu=True)
    none, gradient, full = (named(replace(whole, division=Division(8, sharding))) for sharding in ("none", "gradient", "full"))
    alone = named(whole)
    assert none == alone
    for shared in (gradient, full):
        assert shared["optimiser states"] == pytest.approx(alone["optimiser states"] / 8)
        assert shared["weights, trained"] == pytest.approx(alone["weights, trained"] / 8)
    assert full["weights, copies"] < gradient["weights, copies"] / 2


SETTINGS = st.builds(
    Setting,
    model=st.sampled_from([SHAPE, UNTIED, preset("internlm2-1.8b")]),
    precision=st.sampled_from(["float32", "bfloat16"]),
    optimizer=st.sampled_from(["adamw", "adamw8", "muon"]),
    adapter=st.sampled_from([None, Adapter(8), Adapter(8, quantised=True)]),
    micro_tokens=st.sampled_from([512, 2048, 8192]),
    checkpointing=st.sampled_from(["none", "selective", "full"]),
    accumulates=st.booleans(),
    gpu=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(setting=SETTINGS, devices=st.sampled_from([2, 4, 8]))
def test_more_devices_and_less_work_never_need_more(setting: Setting, devices: int) -> None:
    need = memory(setting).peak_bytes
    assert memory(replace(setting, micro_tokens=setting.micro_tokens // 2)).peak_bytes <= need
    assert memory(replace(setting, division=Division(tensor=2))).peak_bytes <= need
    shared = [memory(replace(setting, division=Division(n, "full"))).peak_bytes for n in (devices, 2 * devices)]
    assert shared[1] <= shared[0]
    assert all(size >= 0 for row in memory(setting).classes for size in row.at)
