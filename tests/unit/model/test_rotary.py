import torch

from lianlu.kernels.rope import frequencies
from lianlu.model.config import preset
from lianlu.model.rotary import Rotary

torch.set_num_threads(1)

DYNAMIC = {"max_position_embeddings": 8, "rope_scaling": {"kind": "dynamic", "factor": 2.0}}


def test_without_lengths_the_batch_is_one_sequence() -> None:
    rotary = Rotary(preset("internlm2-nano", **DYNAMIC))
    positions = torch.arange(20)
    for mine, theirs in zip(rotary(positions), rotary(positions, torch.full((20,), 20)), strict=True):
        assert torch.equal(mine, theirs)


def test_a_long_sequence_beside_a_short_one_does_not_move_it() -> None:
    rotary = Rotary(preset("internlm2-nano", **DYNAMIC))
    positions, lengths = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([3, 3, 3, 30, 30, 30])
    cos, _ = rotary(positions, lengths)
    plain, _ = Rotary(preset("internlm2-nano"))(positions)
    assert torch.equal(cos[:3], plain[:3])
    assert not torch.equal(cos[3:], plain[3:])


def test_frequencies_stay_fp32_and_are_made_once() -> None:
    rotary = Rotary(preset("internlm2-nano"))
    cos, sin = rotary(torch.tensor([5]))
    assert cos.dtype == sin.dtype == torch.float32
    torch.testing.assert_close(cos[0, :8], (5 * frequencies(1e4, 16)).cos())
    assert torch.equal(rotary(torch.tensor([5]))[0], cos)


def test_yarn_magnitude_scales_both() -> None:
    scaling = {"kind": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 2.0}
    cos, sin = Rotary(preset("internlm2-nano", rope_scaling=scaling))(torch.tensor([0, 3]))
    torch.testing.assert_close(cos.square() + sin.square(), torch.full((2, 16), 4.0))


def test_no_tokens() -> None:
    cos, sin = Rotary(preset("internlm2-nano", **DYNAMIC))(torch.zeros(0, dtype=torch.int64))
    assert cos.shape == sin.shape == (0, 16)
