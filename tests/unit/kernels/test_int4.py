import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.kernels import int4
from lianlu.kernels.int4 import PackedInt4, can_pack_int4

torch.set_num_threads(1)

needs_twin = pytest.mark.skipif(not can_pack_int4(torch.zeros(16, 16, dtype=torch.uint8)), reason="needs an x86 processor")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-6, 1.0, 1e4]), shift=st.sampled_from([0.0, -0.5, 10.0, 1000.0]))
def test_error_is_half_a_scale_and_what_bf16_loses(seed: int, scale: float, shift: float) -> None:
    weight = (drawn(6, 96, seed=seed) + shift) * scale
    packed, scales, zeros = int4.quantise_groups(weight)
    assert (packed.shape, packed.dtype) == ((6, 48), torch.uint8)
    assert scales.shape == zeros.shape == (6, 3)
    assert scales.dtype == zeros.dtype == torch.bfloat16
    error = (int4.dequantise_groups(packed, scales, zeros) - weight).abs().unflatten(1, (-1, 32))
    largest = weight.abs().unflatten(1, (-1, 32)).amax(-1, keepdim=True)
    assert (error <= scales.float()[..., None] * 0.501 + largest / 256).all()


def test_what_lies_on_the_levels_is_kept() -> None:
    """The blocks of Q4_0 (symmetric) and Q4_1 with scales that bf16 holds come back to the bit."""
    generator = torch.Generator().manual_seed(1)
    numbers = torch.randint(0, 16, (5, 4, 32), generator=generator)
    numbers[..., 0], numbers[..., 1] = 0, 15
    scale = torch.tensor([0.5, 0.0078125, 2.0, 1.5])[:, None]
    for weight in ((numbers - 8) * scale, numbers * scale - 2 * scale):
        packed, scales, zeros = int4.quantise_groups(weight.flatten(1))
        assert torch.equal(int4.levels(packed).view(5, 4, 32), numbers.to(torch.uint8))
        assert torch.equal(int4.dequantise_groups(packed, scales, zeros), weight.flatten(1))


def test_constant_groups() -> None:
    weight = torch.zeros(3, 64)
    weight[1], weight[2, 32:] = 0.5, -3.0
    assert torch.equal(int4.dequantise_groups(*int4.quantise_groups(weight)), weight)


def test_layout() -> None:
    """Byte j holds input 2 j low and input 2 j + 1 high; a level counts from 8 at the zero of its group."""
    packed = torch.zeros(1, 32, dtype=torch.uint8)
    packed[0, 3] = 0xA1
    scales, zeros = torch.tensor([[1.0, 2.0]]).bfloat16(), torch.tensor([[8.0, 0.5]]).bfloat16()
    weight = int4.dequantise_groups(packed, scales, zeros)[0]
    assert weight[6:8].tolist() == [1.0, 10.0]
    assert weight[0].item() == 0.0
    assert weight[32].item() == -15.5


@pytest.mark.parametrize("block", [int4.BLOCK_WEIGHTS, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reference_and_gradient_equal_the_dequantised_layer(
    dtype: torch.dtype, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int4, "BLOCK_WEIGHTS", block)
    quantised = int4.quantise_groups(drawn(13, 64))
    bias = drawn(13, seed=1).to(dtype)
    x = drawn(5, 64, seed=2).to(dtype).requires_grad_()
    wide = x.detach().float().requires_grad_()
    ours = int4.int4_linear(x, *quantised, bias)
    theirs = torch.nn.functional.linear(wide, int4.dequantise_groups(*quantised), bias.float())
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), theirs, rtol=tolerance, atol=2 * tolerance)
    ours.float().sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(x.grad.float(), wide.grad, rtol=4 * tolerance, atol=4 * tolerance)


@needs_twin
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16, 32), (96, 64), (48, 1120), (272, 96)])
def test_the_twin_is_the_reference(shape: tuple[int, int], dtype: torch.dtype) -> None:
    quantised = int4.quantise_groups(drawn(*shape))
    bias, x = drawn(shape[0], seed=1).to(dtype), drawn(9, shape[1], seed=2).to(dtype)
    packed = PackedInt4(*quantised)
    assert packed.shape == shape
    for some in (None, bias):
        found, expected = packed.linear(x, some), int4.int4_linear(x, *quantised, some)
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01 * expected.abs().max().item())
    assert packed.linear(x[:0]).shape == (0, shape[0])


@needs_twin
@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from([(96, 64), (32, 160), (192, 576), (16, 1536)]),
    spans=st.lists(st.tuples(st.integers(0, 299), st.integers(1, 300)), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_row_of_the_twin_does_not_depend_on_the_rows_beside_it(
    shape: tuple[int, int], spans: list[tuple[int, int]], dtype: torch.dtype
) -> None:
    x = drawn(300, shape[1], seed=3).to(dtype)
    packed = PackedInt4(*int4.quantise_groups(drawn(*shape)))
    whole = packed.linear(x)
    for begin, count in [*spans, *((0, count) for count in (1, 2, 3, 4, 17, 256))]:
        assert torch.equal(packed.linear(x[begin : begin + count]), whole[begin : begin + count])


@needs_twin
def test_a_row_that_is_no_number_stays_alone() -> None:
    x = drawn(4, 64)
    packed = PackedInt4(*int4.quantise_groups(drawn(96, 64)))
    sound = packed.linear(x)
    x[1, 5] = torch.nan
    found = packed.linear(x)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2, 3]], sound[[0, 2, 3]])


def test_other_shapes_have_no_twin() -> None:
    assert not can_pack_int4(torch.zeros(17, 16, dtype=torch.uint8))
    assert not can_pack_int4(torch.zeros(16, 16, dtype=torch.uint8, device="meta"))
