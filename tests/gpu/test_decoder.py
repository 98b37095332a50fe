"""The decoder on a GPU computes what it computes on the processor."""

from __future__ import annotations

import pytest
import torch

from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import preset
from lianlu.model.decoder import build_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def test_logits_and_gradients_agree_with_the_processor() -> None:
    model = build_model(preset("internlm2-nano"), seed=0)
    ids = torch.randint(0, model.config.vocab_size, (48,), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(30), torch.arange(18)])
    found = []
    for device in ("cpu", "cuda"):
        moved = model.to(device)
        moved.zero_grad()
        boundaries = torch.tensor([0, 30, 48], dtype=torch.int32, device=device)
        logits = moved(ids.to(device), positions.to(device), PackedCausal(boundaries))
        logits.square().mean().backward()
        gradient = next(moved.parameters()).grad
        assert gradient is not None
        found.append((logits.detach().cpu(), gradient.detach().cpu()))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-5)
