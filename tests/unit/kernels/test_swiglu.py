import pytest
import torch
from torch.nn import functional as F

from lianlu.kernels.swiglu import swiglu

torch.set_num_threads(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient(dtype: torch.dtype) -> None:
    fused = torch.randn(7, 24, dtype=dtype, requires_grad=True)
    pull = torch.randn(7, 12, dtype=dtype)
    gate, up = fused.chunk(2, dim=-1)
    ours, theirs = swiglu(fused), F.silu(gate) * up
    assert torch.equal(ours, theirs)
    (mine,), (oracle,) = torch.autograd.grad(ours, fused, pull), torch.autograd.grad(theirs, fused, pull)
    torch.testing.assert_close(mine, oracle)
