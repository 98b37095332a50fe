"""Codecs of keys and values: bounded errors, records that depend on themselves alone, numbers that are none stay none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lianlu.core.errors import ConfigError
from lianlu.kernels import kv_codec
from lianlu.kernels.kv_codec import codec_for

NAMES = ("auto", "bfloat16", "int8", "int4")
QUANTISED = ("int8", "int4")
numbers = st.one_of(st.floats(-1e4, 1e4, width=32), st.sampled_from([0.0, -0.0, 1e-30, -1e-42, 3e30, -3e30]))
tokens = arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.sampled_from([4, 16, 36])), elements=numbers)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@settings(max_examples=300, deadline=None)
@given(tokens, st.sampled_from(QUANTISED))
def test_an_element_comes_back_within_half_a_step(values: np.ndarray, name: str) -> None:
    """The step is the range over the levels, and what rounding the parameters outwards adds to it."""
    x = torch.from_numpy(values)
    codec = codec_for(name, x.shape[1], torch.float32)
    found = codec.decode(codec.encode(x)).double()
    low, high = x.double().aminmax(dim=-1, keepdim=True)
    levels = 255 if name == "int8" else 15
    step = (high - low + low.abs() / 128) / levels * 1.01 + 2.0**-99
    assert ((found - x.double()).abs() <= step / 2 + 2.0**-22 * x.double().abs().amax(-1, keepdim=True)).all()


@settings(max_examples=100, deadline=None)
@given(tokens, st.sampled_from(NAMES), st.data())
def test_a_record_depends_on_its_own_numbers_only(values: np.ndarray, name: str, data: st.DataObject) -> None:
    x = torch.from_numpy(values)
    codec = codec_for(name, x.shape[1], torch.float32)
    together = codec.encode(x)
    row = data.draw(st.integers(0, len(x) - 1))
    assert torch.equal(codec.encode(x[row]), together[row])
    assert torch.equal(codec.decode(together)[row], codec.decode(together[row]))
    scattered = torch.stack((together, together), 1)[:, 1]
    assert torch.equal(codec.decode(scattered), codec.decode(together))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ordinary_heads_come_back_nearly_as_they_were(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(50, 3, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    codec = codec_for(name, 64, dtype)
    found = codec.decode(codec.encode(x))
    assert found.dtype == dtype
    assert found.shape == x.shape
    error = ((found.float() - x.float()).norm() / x.float().norm()).item()
    assert error <= {"auto": 0.0, "bfloat16": 0.003, "int8": 0.009, "int4": 0.12}[name]
    if name == "auto" or dtype == torch.bfloat16 == codec.stored:
        assert torch.equal(found, x)


@pytest.mark.parametrize("name", NAMES)
def test_empty_memory_is_zero(name: str) -> None:
    codec = codec_for(name, 16, torch.float32)
    assert not codec.decode(torch.zeros(3, codec.record_size, dtype=codec.stored)).any()
    assert not codec.decode(codec.encode(torch.zeros(3, 16))).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_does_not_become_one(name: str, bad: float) -> None:
    x = torch.ones(2, 16)
    x[1, 3] = bad
    codec = codec_for(name, 16, torch.float32)
    found = codec.decode(codec.encode(x))
    assert found[0].isfinite().all()
    assert not found[1].isfinite().all()


def test_sizes_of_records() -> None:
    sizes = {name: codec_for(name, 64, torch.float32).record_bytes for name in NAMES}
    assert sizes == {"auto": 256, "bfloat16": 128, "int8": 68, "int4": 36}
    assert codec_for("auto", 64, torch.bfloat16).record_bytes == 128


def test_two_small_numbers_share_a_byte() -> None:
    levels = torch.arange(16, dtype=torch.uint8)
    packed = kv_codec._pack(levels)
    assert packed.tolist() == [low | (low + 8) << 4 for low in range(8)]
    assert torch.equal(kv_codec._unpack(packed), levels)


def test_a_head_that_cannot_be_packed_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 4, this model's have 18") as caught:
        codec_for("int4", 18, torch.float32)
    assert "int8" in caught.value.hint
    assert codec_for("int8", 18, torch.float32).record_bytes == 22
    with pytest.raises(ConfigError, match="multiple of 2"):
        codec_for("int8", 17, torch.float32)
