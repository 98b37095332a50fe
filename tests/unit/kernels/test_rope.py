import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.kernels import rope

torch.set_num_threads(1)


@settings(max_examples=20, deadline=None)
@given(shift=st.integers(0, 500), distance=st.integers(0, 60))
def test_scores_depend_on_distance_only(shift: int, distance: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    frequencies = rope.frequencies(100.0, 16).double()

    def score(position: int) -> float:
        angles = [rope.cos_sin(torch.tensor([p]), frequencies) for p in (position + distance, position)]
        return float((rope.rotate(q, *angles[0]) * rope.rotate(k, *angles[1])).sum())

    assert math.isclose(score(shift), score(0), rel_tol=1e-4, abs_tol=1e-4)


def test_rotation_is_the_definition() -> None:
    x = torch.randn(3, 2, 8)
    angles = torch.tensor([0, 1, 7])[:, None] * rope.frequencies(10.0, 8)
    first, second = x[..., :4], x[..., 4:]
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    expected = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    turned = rope.rotate(x, *rope.cos_sin(torch.tensor([0, 1, 7]), rope.frequencies(10.0, 8)))
    torch.testing.assert_close(turned, expected)
    assert torch.equal(turned[0], x[0])


def test_gradient_is_the_rotation_back() -> None:
    x = torch.randn(4, 2, 3, 8, dtype=torch.float64, requires_grad=True)
    cos, sin = rope.cos_sin(torch.arange(4), rope.frequencies(10.0, 8))
    assert torch.autograd.gradcheck(lambda value: rope.rotate(value, cos.double(), sin.double()), (x,))


def test_dynamic_ntk_is_plain_within_the_trained_length() -> None:
    lengths = torch.tensor([10, 64, 65, 128])
    found = rope.dynamic_frequencies(1e4, 16, 2.0, 64, lengths)
    plain = rope.frequencies(1e4, 16)
    assert torch.equal(found[0], plain)
    assert torch.equal(found[1], plain)
    assert (found[2, 1:] < plain[1:]).all()
    assert (found[3, 1:] < found[2, 1:]).all()
    base = 1e4 * (2.0 * 128 / 64 - 1.0) ** (16 / 14)
    torch.testing.assert_close(found[3], rope.frequencies(base, 16), rtol=1e-5, atol=0)


def test_scalings_leave_fast_frequencies_and_slow_down_the_slow_ones() -> None:
    plain = rope.frequencies(1e4, 64)
    for found in (
        rope.yarn_frequencies(1e4, 64, 4.0, 2048, (32.0, 1.0)),
        rope.llama3_frequencies(1e4, 64, 4.0, 2048, (1.0, 4.0)),
    ):
        torch.testing.assert_close(found[0], plain[0])
        torch.testing.assert_close(found[-1], plain[-1] / 4)
        assert ((plain / 4 <= found * 1.001) & (found <= plain * 1.001)).all()


def test_bf16_rotates_in_bf16() -> None:
    x = torch.randn(5, 2, 8)
    angles = rope.cos_sin(torch.arange(5), rope.frequencies(10.0, 8))
    turned = rope.rotate(x.bfloat16(), *angles)
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned.float(), rope.rotate(x, *angles), rtol=0.02, atol=0.03)


@pytest.mark.parametrize("base", [1e4, 1e6])
def test_far_positions_turn_by_the_right_angle(base: float) -> None:
    """Within the rounding of fp32 for any position; the product in fp32 is off by thousands of times as much."""
    frequencies = rope.frequencies(base, 64)
    positions = torch.tensor([0, 1, rope.NEAR, 32_768, 199_999, 200_000, 1_000_000])
    cos, sin = rope.cos_sin(positions, frequencies)
    exact = positions[:, None].double() * frequencies.double()
    far = positions >= rope.NEAR
    assert (cos[far, :32] - exact[far].cos()).abs().max() < 2e-7
    assert (sin[far, 32:] - exact[far].sin()).abs().max() < 2e-7
    assert (cos[:, :32] - exact.cos()).abs().max() < 2e-7
    assert ((positions[-2] * frequencies).cos() - exact[-2].cos()).abs().max() > 1e-4


@settings(max_examples=30, deadline=None)
@given(near=st.integers(0, rope.NEAR), far=st.integers(rope.NEAR, 200_000), distance=st.integers(0, 3000))
def test_scores_far_away_depend_on_distance_only(near: int, far: int, distance: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 64, generator=generator) for _ in range(2))
    frequencies = rope.frequencies(1e6, 64)

    def score(position: int) -> float:
        angles = [rope.cos_sin(torch.tensor([p]), frequencies) for p in (position + distance, position)]
        return float((rope.rotate(q, *angles[0]).double() * rope.rotate(k, *angles[1])).sum())

    assert math.isclose(score(far), score(far + 12_345), abs_tol=2e-5)
    assert math.isclose(score(far), score(near), abs_tol=5e-3)


def test_near_positions_have_the_angles_of_fp32() -> None:
    frequencies = rope.frequencies(1e4, 64)
    positions = torch.arange(rope.NEAR)
    cos, sin = rope.cos_sin(positions, frequencies)
    angles = positions[:, None].float() * frequencies
    assert torch.equal(cos[:, 32:], angles.cos())
    assert torch.equal(sin[:, 32:], angles.sin())


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 250_000), st.integers(1, 300_000)), min_size=1, max_size=70),
    head_dim=st.sampled_from([8, 64, 80, 128]),
    seed=st.integers(0, 100),
)
def test_the_angles_of_a_token_do_not_depend_on_the_tokens_beside_it(
    rows: list[tuple[int, int]], head_dim: int, seed: int
) -> None:
    """To the bit, for dynamic NTK too, for rows in multiples of four as the engine has them."""
    rows += [rows[-1]] * (-len(rows) % 4)
    positions, lengths = (torch.tensor(column) for column in zip(*rows, strict=True))
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:4]
    table = rope.dynamic_frequencies(1e4, head_dim, 3.7, 2048, lengths)
    assert torch.equal(rope.dynamic_frequencies(1e4, head_dim, 3.7, 2048, lengths[chosen]), table[chosen])
    for frequencies, fewer in ((table, table[chosen]), (rope.frequencies(1e4, head_dim),) * 2):
        whole, some = rope.cos_sin(positions, frequencies), rope.cos_sin(positions[chosen], fewer)
        assert all(torch.equal(one[chosen], other) for one, other in zip(whole, some, strict=True))
