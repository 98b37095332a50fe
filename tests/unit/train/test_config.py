"""Optimisers and schedules as users write them: kinds, stage defaults, overrides, rules, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from lianlu.core.config import canonical, validate, with_overrides
from lianlu.core.errors import ConfigError
from lianlu.train.config import AdamW, AdamW8, GroupRule, Muon, Optim, TrainConfig, WsdSchedule
from lianlu.train.sft import SftConfig

SFT = {"model": "m", "data": "d"}


def optim(*overrides: str, **table: Any) -> Optim:
    return validate(TrainConfig, with_overrides(table, overrides)).optim


def sft_optim(*overrides: str) -> Optim:
    return validate(SftConfig, with_overrides(SFT, overrides)).optim


def test_without_a_kind_it_is_adamw() -> None:
    assert optim() == AdamW()
    assert optim(optim={"lr": 2e-3}) == AdamW(lr=2e-3)
    assert optim("optim.lr=3e-4") == AdamW(lr=3e-4)


@pytest.mark.parametrize(("kind", "wanted"), [("adamw", AdamW()), ("adamw8", AdamW8()), ("muon", Muon())])
def test_a_kind_alone_is_enough(kind: str, wanted: Optim) -> None:
    assert optim(f"optim.kind={kind}") == wanted


def test_overrides_come_in_any_order() -> None:
    wanted = Muon(lr=1e-2, momentum=0.9)
    assert optim("optim.kind=muon", "optim.lr=1e-2", "optim.momentum=0.9") == wanted
    assert optim("optim.lr=1e-2", "optim.momentum=0.9", "optim.kind=muon") == wanted
    assert optim("optim.kind=muon", "optim.lr=1e-2", "optim.momentum=0.9", optim={"lr": 5.0, "betas": [0.5, 0.5]}) == wanted


def test_what_a_stage_sets_holds_for_what_is_left_out_and_for_other_kinds() -> None:
    assert sft_optim("optim.lr=1e-3") == AdamW(lr=1e-3, weight_decay=0.0, betas=(0.9, 0.999))
    assert sft_optim("optim.kind=adamw8") == AdamW8(lr=5e-4, weight_decay=0.0, betas=(0.9, 0.999))
    assert sft_optim("optim.kind=muon", "optim.weight_decay=0.1") == Muon(lr=5e-4, weight_decay=0.1, betas=(0.9, 0.999))
    schedule = validate(SftConfig, {**SFT, "schedule": {"kind": "wsd", "decay": 0.5}}).schedule
    assert schedule == WsdSchedule(warmup=0.05, decay=0.5)


def test_rules_are_tables() -> None:
    config = optim('optim.groups=[{match = "lm_head", lr = 0.1}, {match = "norm", weight_decay = 0.2}]')
    assert config.groups == (GroupRule(match="lm_head", lr=0.1), GroupRule(match="norm", weight_decay=0.2))
    assert validate(TrainConfig, canonical(TrainConfig(optim=config))).optim == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.kind=moun", r"optim.kind: there is no moun, only adamw, adamw8, muon; did you mean muon\?"),
        ("optim.momentum=0.9", r"unknown field optim.adamw.momentum"),
        ("optim.betas=[0.9, 1.0]", r"optim.adamw.betas.1: .* less than 1"),
        ('optim.groups=[{match="("}]', r"groups.0.match: .*no regular expression"),
        ('optim.groups=[{match="a", rl=1}]', r"unknown field .*groups.0.rl"),
        ("schedule={kind='wsd', warmup=0.5, decay=0.6}", r"warmup 0.5 and decay 0.6 are more than all steps"),
    ],
)
def test_what_cannot_be_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        optim(override)
