import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lianlu.kernels import attention
from lianlu.kernels.attention import (
    LENGTH_MULTIPLE,
    WIDENED_TOKENS,
    PackedCausal,
    as_boundaries,
    packed_positions,
    varlen_attention,
)
from lianlu.kernels.blocked_attention import BLOCK, blocked_attention

torch.set_num_threads(1)


def dense(q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, ends: list[int]) -> Tensor:
    """The definition, one token and one head at a time over a full mask."""
    num_tokens, num_heads, width = q_THK.shape
    repeats = num_heads // k_TGK.shape[1]
    k_THK, v_THK = k_TGK.repeat_interleave(repeats, 1), v_TGK.repeat_interleave(repeats, 1)
    segment_T = torch.bucketize(torch.arange(num_tokens), torch.tensor(ends[1:]), right=True)
    order_T = torch.arange(num_tokens)
    allowed = (segment_T[:, None] == segment_T) & (order_T[:, None] >= order_T)
    scores_HTT = torch.einsum("thk,shk->hts", q_THK, k_THK) / width**0.5
    return torch.einsum("hts,shk->thk", scores_HTT.masked_fill(~allowed, float("-inf")).softmax(-1), v_THK)


def random_qkv(num_tokens: int, heads: int, groups: int, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_tokens * 31 + heads)
    return tuple(torch.randn(num_tokens, n, width, generator=generator).requires_grad_() for n in (heads, groups, groups))


@settings(max_examples=25, deadline=None)
@given(
    spans=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    groups=st.sampled_from([1, 2, 3]),
    queries=st.sampled_from([1, 2, 4]),
)
def test_equals_masked_dense_attention(spans: list[int], groups: int, queries: int) -> None:
    if not sum(spans):
        spans = [*spans, 1]
    ends = [sum(spans[:i]) for i in range(len(spans) + 1)]
    q, k, v = random_qkv(ends[-1], groups * queries, groups)
    ours, oracle = varlen_attention(q, k, v, ends), dense(q, k, v, ends)
    torch.testing.assert_close(ours, oracle, rtol=1e-5, atol=1e-6)
    weight = torch.linspace(-1, 1, ours.numel()).view_as(ours)
    for mine, theirs in zip(
        torch.autograd.grad((ours * weight).sum(), (q, k, v)),
        torch.autograd.grad((oracle * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_sequence_does_not_see_its_neighbours() -> None:
    q, k, v = random_qkv(12, 4, 2)
    packed = varlen_attention(q, k, v, [0, 5, 12])
    assert torch.equal(packed[:5], varlen_attention(q[:5], k[:5], v[:5], [0, 5]))
    assert torch.equal(packed[5:], varlen_attention(q[5:], k[5:], v[5:], [0, 7]))


def test_boundaries_may_be_a_tensor() -> None:
    q, k, v = random_qkv(6, 2, 2)
    ends = torch.tensor([0, 2, 6], dtype=torch.int32)
    assert torch.equal(PackedCausal(ends)(0, q, k, v), varlen_attention(q, k, v, [0, 2, 6]))
    assert as_boundaries(ends) == [0, 2, 6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_dtype_and_shape(dtype: torch.dtype) -> None:
    q, k, v = (x.detach().to(dtype) for x in random_qkv(7, 6, 3))
    out = varlen_attention(q, k, v, [0, 3, 7])
    assert out.dtype == dtype
    assert out.shape == q.shape


def test_positions_start_anew_in_every_segment() -> None:
    positions, lengths = packed_positions([0, 3, 3, 5])
    assert positions.tolist() == [0, 1, 2, 0, 1]
    assert lengths.tolist() == [3, 3, 3, 2, 2]


def test_bfloat16_of_any_length_is_near_the_definition() -> None:
    spans = [50, LENGTH_MULTIPLE * 4, 193, 300, WIDENED_TOKENS]
    ends = [sum(spans[:i]) for i in range(len(spans) + 1)]
    q, k, v = random_qkv(ends[-1], 4, 2)
    narrow = tuple(x.detach().bfloat16().requires_grad_() for x in (q, k, v))
    ours, oracle = varlen_attention(*narrow, ends), dense(q, k, v, ends)
    weight = torch.linspace(-1, 1, oracle.numel()).view_as(oracle)
    assert float((ours.detach() - oracle.detach()).norm() / oracle.detach().norm()) < 0.01
    mine = torch.autograd.grad((ours * weight).sum(), narrow)
    theirs = torch.autograd.grad((oracle * weight).sum(), (q, k, v))
    for one, other in zip(mine, theirs, strict=True):
        assert one.shape == other.shape
        assert float((one - other).norm() / other.norm()) < 0.02


def test_bfloat16_asks_for_few_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = set()

    def spy(q: Tensor, *rest: Tensor) -> Tensor:
        asked.add(q.shape[2])
        return torch.zeros_like(q)

    monkeypatch.setattr(attention, "blocked_attention", spy)
    for length in range(1, 5 * LENGTH_MULTIPLE + 1):
        q, k, v = (torch.zeros(length, heads, 8, dtype=torch.bfloat16) for heads in (2, 1, 1))
        assert varlen_attention(q, k, v, [0, length]).shape == q.shape
    assert asked == {count * LENGTH_MULTIPLE for count in (2, 3, 4, 5)}


@pytest.mark.parametrize("num_tokens", [1, 100, BLOCK, BLOCK + 1, 3 * BLOCK - 7])
def test_blocks_of_queries_are_one_attention(num_tokens: int) -> None:
    """In fp32, where nothing is rounded: outputs and gradients are those of dense attention, also under autocast."""
    q, k, v = random_qkv(num_tokens, 6, 2)
    q_GQSK = q.view(num_tokens, 2, 3, -1).permute(1, 2, 0, 3)
    with torch.autocast("cpu", torch.bfloat16):
        o_GQSK = blocked_attention(q_GQSK, k.transpose(0, 1), v.transpose(0, 1))
    ours, oracle = o_GQSK.permute(2, 0, 1, 3).reshape(q.shape), dense(q, k, v, [0, num_tokens])
    torch.testing.assert_close(ours, oracle, rtol=1e-5, atol=1e-6)
    weight = torch.linspace(-1, 1, oracle.numel()).view_as(oracle)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad((ours * weight).sum(), (q, k, v))
    for mine, theirs in zip(found, torch.autograd.grad((oracle * weight).sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
