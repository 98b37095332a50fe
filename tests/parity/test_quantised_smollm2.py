"""What int8 and int4 cost on the real SmolLM2-135M-Instruct: divergence from the model in fp32, as the engine runs it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lianlu.kernels.attention import PackedCausal
from lianlu.model.decoder import Decoder
from lianlu.model.load import load_model
from lianlu.model.packed import pack_linears
from lianlu.model.quantized import Method
from lianlu.tokenizer.tokenizer import Tokenizer

torch.set_num_threads(1)

# a text of this repository that nobody edits
TEXT = Path(__file__).resolve().parent.parent.parent / "LICENSE"
NUM_TOKENS = 400


@pytest.fixture(scope="module")
def ids(smollm2: Path) -> Tensor:
    return torch.tensor(Tokenizer.load(smollm2).encode(TEXT.read_text(encoding="utf-8"))[:NUM_TOKENS])


@torch.inference_mode()
def log_probabilities(model: Decoder, ids: Tensor) -> Tensor:
    return model(ids, torch.arange(len(ids)), PackedCausal([0, len(ids)])).float().log_softmax(-1)


@pytest.fixture(scope="module")
def expected(smollm2: Path, ids: Tensor) -> Tensor:
    return log_probabilities(load_model(smollm2), ids)


CASES: list[tuple[Method | None, torch.dtype, float, float]] = [
    (None, torch.bfloat16, 0.004, 0.96),
    ("int8", torch.float32, 0.008, 0.95),
    ("int8", torch.bfloat16, 0.012, 0.95),
    ("int4", torch.float32, 0.004, 0.96),
    ("int4", torch.bfloat16, 0.006, 0.96),
]


@pytest.mark.parametrize("case", CASES)
def test_divergence(smollm2: Path, ids: Tensor, expected: Tensor, case: tuple[Method | None, torch.dtype, float, float]) -> None:
    """int4 is so near because the file has blocks of 32 with 16 levels itself."""
    method, dtype, divergence, agreement = case
    model = load_model(smollm2, dtype, quant=method)
    pack_linears(model)
    found = log_probabilities(model, ids)
    per_token = (expected.exp() * (expected - found)).sum(-1)
    assert 0 < per_token.mean() < divergence
    assert (expected.argmax(-1) == found.argmax(-1)).float().mean() > agreement
