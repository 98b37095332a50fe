"""Which number type is taken where."""

from __future__ import annotations

import pytest
import torch

from lianlu.train import precision
from lianlu.train.precision import compute_dtype, mixed

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ({"avx2", "avx512_bf16"}, torch.bfloat16),
        ({"amx_bf16"}, torch.bfloat16),
        ({"avx512f"}, torch.float32),
        (set(), torch.float32),
    ],
)
def test_auto_takes_bfloat16_only_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "cpu_flags", lambda: flags)
    assert compute_dtype("auto", CPU) == dtype


def test_what_is_asked_for_is_what_is_used() -> None:
    weight, x = torch.ones(2, 2), torch.ones(1, 2)
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with mixed(compute_dtype(name, CPU), CPU):
            assert (x @ weight).dtype == dtype
