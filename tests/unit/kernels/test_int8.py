import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.kernels import int8
from lianlu.kernels.int8 import PackedInt8, can_pack_int8

torch.set_num_threads(1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-6, 1.0, 1e4]))
def test_error_is_at_most_half_a_step(seed: int, scale: float) -> None:
    weight = torch.randn(6, 10, generator=torch.Generator().manual_seed(seed)) * scale
    quantised, steps = int8.quantise_rows(weight)
    error = (int8.dequantise_rows(quantised, steps) - weight).abs()
    assert (error <= steps[:, None] * 0.5001).all()
    assert quantised.abs().amax(1).eq(127).all()


def test_zero_rows_stay_zero() -> None:
    weight = torch.zeros(3, 4)
    weight[1] = torch.tensor([1.0, -2.0, 0.5, 0.0])
    quantised, steps = int8.quantise_rows(weight)
    assert torch.equal(int8.dequantise_rows(quantised, steps)[0], torch.zeros(4))
    assert not torch.isnan(steps).any()


@pytest.mark.parametrize("block", [int8.BLOCK_WEIGHTS, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product_and_gradient_equal_the_dequantised_layer(
    dtype: torch.dtype, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "BLOCK_WEIGHTS", block)
    quantised, steps = int8.quantise_rows(torch.randn(13, 10))
    bias = torch.randn(13).to(dtype)
    x = torch.randn(5, 10).to(dtype).requires_grad_()
    wide = x.detach().float().requires_grad_()
    ours = int8.int8_linear(x, quantised, steps, bias)
    theirs = torch.nn.functional.linear(wide, int8.dequantise_rows(quantised, steps), bias.float())
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), theirs, rtol=tolerance, atol=tolerance)
    ours.float().square().sum().backward()
    theirs.square().sum().backward()
    torch.testing.assert_close(x.grad.float(), wide.grad, rtol=4 * tolerance, atol=40 * tolerance)


needs_twin = pytest.mark.skipif(
    not can_pack_int8(torch.zeros(16, 16, dtype=torch.int8)), reason="needs an x86 processor with VNNI"
)


def drawn(*shape: int, seed: int = 0, outlier: float = 1.0) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    made[..., shape[-1] // 2] *= outlier
    return made


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e20]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_two_bytes_hold_a_row_within_half_a_step(seed: int, scale: float, dtype: torch.dtype) -> None:
    x = (drawn(5, 33, seed=seed, outlier=20.0) * scale).to(dtype)
    x[2] = 0
    bytes_, step = int8.two_bytes(x)
    low, high = bytes_.double().chunk(2)
    found = (low - 128 + 256 * (high - 128)) * step.double()
    assert ((found - x.double()).abs() <= 0.505 * step.double()).all()
    assert torch.equal(found[2], torch.zeros(33, dtype=torch.float64))


@needs_twin
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(13, 10), (1, 1), (7, 31), (96, 64), (130, 1100)])
def test_the_twin_is_the_reference(shape: tuple[int, int], dtype: torch.dtype) -> None:
    quantised, steps = int8.quantise_rows(drawn(*shape))
    bias, x = drawn(shape[0], seed=1).to(dtype), drawn(9, shape[1], seed=2).to(dtype)
    packed = PackedInt8(quantised, steps)
    for some in (None, bias):
        found, expected = packed.linear(x, some), int8.int8_linear(x, quantised, steps, some)
        assert found.dtype == dtype
        tolerance = 2e-4 if dtype == torch.float32 else 0.02
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())
    assert packed.linear(x[:0]).shape == (0, shape[0])


@needs_twin
@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from([(96, 64), (37, 129), (192, 576), (16, 1536)]),
    spans=st.lists(st.tuples(st.integers(0, 299), st.integers(1, 300)), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_row_of_the_twin_does_not_depend_on_the_rows_beside_it(
    shape: tuple[int, int], spans: list[tuple[int, int]], dtype: torch.dtype
) -> None:
    x = drawn(300, shape[1], seed=3, outlier=50.0).to(dtype)
    packed = PackedInt8(*int8.quantise_rows(drawn(*shape)))
    whole = packed.linear(x)
    for begin, count in [*spans, *((0, count) for count in (1, 2, 3, 4, 17, 256))]:
        assert torch.equal(packed.linear(x[begin : begin + count]), whole[begin : begin + count])


@needs_twin
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_that_is_no_number_stays_none_and_alone(value: float) -> None:
    x = drawn(4, 64)
    packed = PackedInt8(*int8.quantise_rows(drawn(96, 64)))
    sound = packed.linear(x)
    x[1, 5] = value
    found = packed.linear(x)
    assert not found[1].isfinite().any()
    assert torch.equal(found[[0, 2, 3]], sound[[0, 2, 3]])


@needs_twin
def test_sums_are_exact_where_they_are_largest() -> None:
    """All weights and all inputs at their limits, to the most inputs a sum can hold."""
    inputs = 60_000
    weight = torch.full((16, inputs), 127, dtype=torch.int8)
    weight[1] = -127
    packed = PackedInt8(weight, torch.ones(16))
    found = packed.linear(torch.ones(1, inputs))[0]
    assert found[0].item() == pytest.approx(127.0 * inputs, rel=1e-6)
    assert found[1].item() == pytest.approx(-127.0 * inputs, rel=1e-6)
    assert not can_pack_int8(torch.empty(1, 70_000, dtype=torch.int8, device="meta"))
