"""The timeline of a run: which step belongs to which phase, with which tokens, at which rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.core.errors import ConfigError
from lianlu.model.config import DynamicScaling, ModelConfig, preset
from lianlu.train.config import CosineSchedule
from lianlu.train.phases import PhaseConfig, Timeline
from lianlu.train.schedule import rate

WHOLE = PhaseConfig(share=1, sequence_length=128, batch_tokens=100)


def timeline(*phases: PhaseConfig, tokens: int = 10_000) -> Timeline:
    return Timeline(phases, WHOLE, tokens, CosineSchedule())


@given(
    shares=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    batches=st.lists(st.sampled_from([0, 30, 100, 250]), min_size=5, max_size=5),
    tokens=st.integers(60_000, 200_000),
)
def test_steps_lie_end_to_end_and_shares_are_off_by_less_than_a_batch(shares: list[int], batches: list[int], tokens: int) -> None:
    phases = [PhaseConfig(share=s / sum(shares), batch_tokens=b) for s, b in zip(shares, batches, strict=False)]
    line = timeline(*phases, tokens=tokens)
    token = 0
    for step in range(line.num_steps):
        place = line.place(step)
        assert place.first_token == token
        assert place.phase.first_step <= step < place.phase.last_step
        assert place.start == token - place.phase.first_token
        token += place.batch_tokens
    assert token == line.num_tokens
    assert tokens <= line.num_tokens < tokens + 250
    share = 0.0
    for phase, laid in zip(phases, line.phases, strict=True):
        share += phase.share
        assert abs(laid.first_token + laid.num_tokens - share * tokens) <= laid.batch_tokens


def test_a_phase_takes_over_what_it_does_not_say() -> None:
    line = timeline(PhaseConfig(share=0.5, rope_theta=5e4), PhaseConfig(share=0.5, sequence_length=512, batch_tokens=50))
    first, second = line.phases
    assert (first.sequence_length, first.batch_tokens, first.rope_theta) == (128, 100, 5e4)
    assert (second.sequence_length, second.batch_tokens, second.rope_theta) == (512, 50, 0)
    assert (line.longest, line.shortest) == (512, 128)
    assert line.num_steps == 50 + 100


def test_without_phases_the_run_is_one() -> None:
    line = timeline(tokens=1050)
    assert line.num_steps == 11
    assert [line.phase(step).number for step in (0, 10)] == [0, 0]
    assert line.phases[0].short_length == 0


def test_the_schedule_runs_over_all_phases_and_is_scaled() -> None:
    line = timeline(PhaseConfig(share=0.8), PhaseConfig(share=0.2, lr_scale=0.3))
    for step in (0, 40, 79):
        assert line.rate(step) == rate(CosineSchedule(), step, 100)
    for step in (80, 99):
        assert line.rate(step) == pytest.approx(0.3 * rate(CosineSchedule(), step, 100))


def test_the_rotary_base_of_a_phase_is_its_own_or_the_models() -> None:
    model = preset("internlm2-1.8b")
    line = timeline(PhaseConfig(share=0.5, rope_theta=5e4), PhaseConfig(share=0.5))
    early, late = (phase.rotated(model) for phase in line.phases)
    assert early.rope_theta == 5e4
    assert late == model
    assert early.rope_scaling == late.rope_scaling == DynamicScaling(factor=2.0)
    changed = timeline(PhaseConfig(share=1, rope_scaling=DynamicScaling(factor=3.0))).phases[0].rotated(model)
    assert changed.rope_scaling == DynamicScaling(factor=3.0)
    assert isinstance(changed, ModelConfig)


def test_what_does_not_add_up_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"add up to 0\.9"):
        timeline(PhaseConfig(share=0.9))
    with pytest.raises(ConfigError, match="phase 2 is no step long"):
        timeline(PhaseConfig(share=0.999), PhaseConfig(share=0.001))
    with pytest.raises(ConfigError, match="short_length 128 is not below"):
        timeline(PhaseConfig(share=1, short_share=0.5))
