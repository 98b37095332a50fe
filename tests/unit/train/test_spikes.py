"""What counts as a spike."""

from __future__ import annotations

import math

import pytest

from lianlu.core.config import validate
from lianlu.train.config import SpikeConfig
from lianlu.train.spikes import Spikes


def watch(values: list[float], norm: float = 1.0, **changes: object) -> Spikes:
    spikes = Spikes(validate(SpikeConfig, {"window": 8, **changes}))
    for value in values:
        spikes.note({"loss": value, "grad_norm": norm}, False)
    return spikes


CALM = [2.0, 2.1, 1.9, 2.0, 2.05, 1.95, 2.0, 2.1]


@pytest.mark.parametrize(
    ("loss", "norm", "spike"), [(2.2, 1, False), (2.55, 1, False), (4.0, 1, True), (2.0, 2.5, False), (2, 9, True)]
)
def test_a_leap_above_the_window_is_a_spike(loss: float, norm: float, spike: bool) -> None:
    assert bool(watch(CALM).judge({"loss": loss, "grad_norm": norm})) == spike


def test_before_the_window_is_full_only_what_is_no_number_is() -> None:
    spikes = watch(CALM[:5])
    assert not spikes.judge({"loss": 100.0, "grad_norm": 1.0})
    assert "nan" in spikes.judge({"loss": math.nan, "grad_norm": 1.0})
    assert "inf" in spikes.judge({"loss": 1.0, "grad_norm": math.inf})


def test_spikes_do_not_enter_the_window() -> None:
    spikes = watch(CALM)
    for _ in range(20):
        spikes.note({"loss": 50.0, "grad_norm": 1.0}, True)
    assert spikes.in_a_row == 20
    assert spikes.judge({"loss": 50.0, "grad_norm": 1.0})
    spikes.note({"loss": 2.0, "grad_norm": 1.0}, False)
    assert spikes.in_a_row == 0


def test_a_noisy_loss_is_given_more_room() -> None:
    noisy = [1.0, 3.0, 2.0, 1.5, 2.5, 1.2, 2.8, 2.2]
    assert not watch(noisy).judge({"loss": 5.0, "grad_norm": 1.0})
    assert watch(CALM).judge({"loss": 5.0, "grad_norm": 1.0})


def test_replaying_a_log_gives_the_same_judge() -> None:
    log = [{"step": i, "loss": value, "grad_norm": 1.0} for i, value in enumerate(CALM)]
    log.append({"step": 9, "loss": 50.0, "grad_norm": 1.0, "spike": "loss 50"})
    replayed = watch([])
    replayed.replay([{"step": 0, "held_out_loss": 3.0}, *log])
    assert replayed.in_a_row == 1
    assert replayed.judge({"loss": 4.0, "grad_norm": 1.0}) == watch(CALM).judge({"loss": 4.0, "grad_norm": 1.0})
