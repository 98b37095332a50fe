"""Weights by source and tier, and epoch caps: shares add up, caps hold, what they take goes to the others in proportion."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.core.config import validate
from lianlu.core.errors import ConfigError, DataError
from lianlu.core.store import Output
from lianlu.formats.shard_index import origins
from lianlu.formats.shards import open_shard
from lianlu.train.config import ConstantSchedule
from lianlu.train.mix import mixtures
from lianlu.train.phases import Phase, PhaseConfig, Timeline
from lianlu.train.portions import Portion, asked_weights, capped_weights, describe, mix_table, portions, shares
from lianlu.train.pretrain import PretrainConfig, estimate, portions_of, run
from lianlu.train.sources import open_corpora, portion_sources

MakeConfig = Callable[..., PretrainConfig]
MakeOutput = Callable[[str], Output]
TIERS = {"code": {"high": 1.0, "moderate": 0.5, "low": 0.0}}
NAMES = ("words", "code")


def timeline(tokens: int, *weights: tuple[float, ...]) -> tuple[Phase, ...]:
    phases = [PhaseConfig(share=1 / len(weights), weights=own) for own in weights]
    return Timeline(phases, PhaseConfig(share=1, sequence_length=8, batch_tokens=10), tokens, ConstantSchedule()).phases


@st.composite
def mixes(draw: st.DrawFn) -> tuple[list[Portion], tuple[Phase, ...]]:
    """Up to four sources of up to three tiers, some of them capped, in up to three phases."""
    own: list[Portion] = []
    for source in range(draw(st.integers(1, 4))):
        for tier in range(draw(st.integers(1, 3))):
            cap = draw(st.sampled_from([math.inf, 0.3, 1.0, 2.5]))
            rate = draw(st.sampled_from([0.1, 0.5, 1.0, 3.0]))
            own.append(Portion(f"{source}.{tier}", source, draw(st.integers(1, 5000)), str(tier), rate, cap))
    weight = st.sampled_from([0.0, 0.1, 0.5, 1.0])
    rows = st.tuples(*[weight] * (own[-1].source + 1)).filter(any)
    return own, timeline(draw(st.integers(300, 30_000)), *draw(st.lists(rows, min_size=1, max_size=3)))


@settings(max_examples=300)
@given(mixes())
def test_caps_hold_and_what_they_take_goes_to_the_others_in_proportion(mix: tuple[list[Portion], tuple[Phase, ...]]) -> None:
    own, phases = mix
    asked = np.array([asked_weights(own, phase) for phase in phases])
    sizes = np.array([phase.num_tokens for phase in phases])
    limits = np.array([portion.max_epochs * portion.num_tokens for portion in own])
    try:
        found = np.array(capped_weights(own, phases))
    except ConfigError:
        # only where a phase has nothing that is not at its cap: with one phase, where all together are too little
        if len(phases) == 1:
            assert limits[asked[0] > 0].sum() < sizes[0] * (1 + 1e-6)
        return
    assert np.allclose(found.sum(axis=1), 1)
    assert (found >= 0).all()
    assert (found[asked == 0] == 0).all()
    given_tokens = sizes @ found
    assert (given_tokens <= limits * (1 + 1e-6)).all()
    free = given_tokens < limits * (1 - 1e-6)
    for before, after in zip(asked, found, strict=True):
        there = free & (before > 0)
        if there.any():
            assert np.allclose((after / np.where(before > 0, before, 1))[there], after[there].sum() / before[there].sum())
    if (sizes @ asked <= limits).all():
        assert np.array_equal(found, asked)


def test_tiers_divide_the_share_of_their_source_by_rate_and_size() -> None:
    own = [Portion("text", 0, 700), Portion("a.high", 1, 100, "high", 1.0), Portion("a.low", 1, 400, "low", 0.5)]
    (phase,) = timeline(1000, (0.7, 0.3))
    assert asked_weights(own, phase) == pytest.approx([0.7, 0.1, 0.2])
    high, low = (share.epochs for share in shares(own, [phase])[1:])
    assert high == pytest.approx(2 * low)
    (by_size,) = timeline(1200, ())
    assert asked_weights(own, by_size) == pytest.approx([700 / 1200, 500 / 1200 / 3, 500 / 1200 * 2 / 3])


def test_what_sources_cannot_give_is_said_with_the_phase() -> None:
    own = [Portion("a", 0, 100, max_epochs=2), Portion("b", 1, 100, max_epochs=1)]
    with pytest.raises(ConfigError, match=r"phase 2 lacks .* of its 200 tokens: max_epochs caps a, b"):
        capped_weights(own, timeline(400, (1.0, 1.0), (0.0, 1.0)))
    assert capped_weights(own, timeline(300, (1.0, 1.0)))[0] == pytest.approx([2 / 3, 1 / 3])
    with pytest.raises(ConfigError, match="c: every tier that is there has rate 0"):
        asked_weights([Portion("c", 0, 5, "low", 0.0)], timeline(100, (1.0,))[0])


def test_portions_are_the_tiers_that_are_there(shards: Path, tiered_shards: Path) -> None:
    opened = [open_shard(folder / "train.bin") for folder in (shards, tiered_shards)]
    found = portions(opened, NAMES, TIERS, {"words": 2.0, "code": {"high": 3.0}})
    assert [(p.name, p.source, p.rate, p.max_epochs) for p in found] == [
        ("words", 0, 1.0, 2.0),
        ("code.high", 1, 1.0, 3.0),
        ("code.low", 1, 0.0, math.inf),
        ("code.moderate", 1, 0.5, math.inf),
        ("code.untiered", 1, 1.0, math.inf),
    ]
    assert sum(portion.num_tokens for portion in found[1:]) == opened[1].num_tokens
    assert [portion.max_epochs for portion in portions(opened, NAMES, {}, 4.0)] == [4.0, 4.0]
    with pytest.raises(ConfigError, match="tiers names cod, which is no source"):
        portions(opened, NAMES, {"cod": {}}, 0.0)
    with pytest.raises(DataError, match="no document of code is of the tier best, only high, low, moderate, untiered"):
        portions(opened, NAMES, {"code": {"best": 1.0}}, 0.0)


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(1, 400), min_size=1, max_size=6), seed=st.integers(0, 9), short=st.sampled_from([0.0, 0.5]))
def test_any_division_into_steps_gives_the_same_tokens_of_the_right_tiers(
    shards: Path, tiered_shards: Path, cuts: list[int], seed: int, short: float
) -> None:
    folders = (str(shards), str(tiered_shards))
    config = PretrainConfig(data=folders, names=NAMES, weights=(0.4, 0.6), tiers=TIERS, max_epochs={"code": {"high": 2}})
    corpora, own = open_corpora(folders, NAMES, 400), portions_of(config)
    phase = PhaseConfig(share=1, weights=(0.4, 0.6), sequence_length=16, short_share=short, short_length=8)
    whole = PhaseConfig(share=1, batch_tokens=sum(cuts), sequence_length=16)
    phases = Timeline([phase], whole, sum(cuts), ConstantSchedule()).phases
    weights = capped_weights(own, phases)
    sources = portion_sources(corpora, own)
    (mixture,), _ = mixtures(sources, [portion.name for portion in own], phases, seed, weights)
    (again,), _ = mixtures(portion_sources(corpora, own), [p.name for p in own], phases, seed, weights)
    starts = np.cumsum([0, *cuts])[:-1].tolist()
    parts = [again.segments(start, cut) for start, cut in reversed(list(zip(starts, cuts, strict=True)))][::-1]
    first, tiers = corpora[1].train.first_document, [origin.tier for origin in origins(corpora[1].train.shard)]

    def tokens(segments: list[Any]) -> Counter[tuple[int, int]]:
        return Counter((segment.source, int(token)) for segment in segments for token in segment.targets)

    assert tokens([segment for part in parts for segment in part]) == tokens(mixture.segments(0, sum(cuts)))
    taken = Counter[str]()
    for segment in mixture.segments(0, sum(cuts)):
        taken["words" if segment.source < first else f"code.{tiers[segment.source - first] or 'untiered'}"] += segment.num_tokens
    for portion, weight in zip(own, weights[0], strict=True):
        assert abs(taken[portion.name] - weight * sum(cuts)) <= 2 * len(own)
        assert taken[portion.name] <= portion.max_epochs * portion.num_tokens + 2 * len(own)
    assert not taken["code.low"]


def test_a_run_by_tiers_prints_its_shares_and_resumes_to_the_same_bits(
    pretrain_config: MakeConfig, new_output: MakeOutput, shards: Path, tiered_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mix = {"data": [str(shards), str(tiered_shards)], "names": NAMES, "weights": [0.2, 0.8], "tiers": TIERS}
    config = pretrain_config(**mix, max_epochs={"code": {"high": 0.5}}, sample_tokens=0, ngram_bytes=0)
    out, stopped = new_output("a"), new_output("b")
    run(config, out)
    told = capsys.readouterr().err
    given_shares, epochs = out.figures["shares"], {name: out.figures[f"epochs_{name}"] for name in out.figures["shares"]}
    assert sum(given_shares.values()) == pytest.approx(1)
    assert epochs["code.high"] == pytest.approx(0.5, abs=0.02)
    assert epochs["code.low"] == given_shares["code.low"] == 0
    assert epochs["code.untiered"] == pytest.approx(2 * epochs["code.moderate"], rel=0.02)
    assert "code.high: " in told
    assert "capped at 0.5)" in told
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lianlu.train.pretrain_task.PretrainTask.rate", _stopping_before(5))
        with pytest.raises(KeyboardInterrupt):
            run(config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"every": 2})}), stopped)
    run(config, stopped)
    for name in ("losses.jsonl", "model.safetensors"):
        assert (out.path / name).read_bytes() == (stopped.path / name).read_bytes()


def _stopping_before(last: int) -> Callable[[Any, int], float]:
    def rate(self: Any, step: int) -> float:
        if step == last:
            raise KeyboardInterrupt
        return float(self._timeline.rate(step))

    return rate


def test_the_plan_says_what_is_read_of_each_portion(shards: Path, tiered_shards: Path) -> None:
    table = {"data": [str(shards), str(tiered_shards)], "names": NAMES, "weights": [0.5, 0.5], "tokens": 20_000}
    plain = estimate(validate(PretrainConfig, table))
    planned = estimate(validate(PretrainConfig, {**table, "max_epochs": {"words": 1}}))
    mix = planned.tables[-1]
    assert len(planned.tables) == len(plain.tables) + 1
    assert [row[0] for row in mix.rows] == ["words", "code"]
    assert mix.rows[0][4:] == ("1.00", "1")
    found = shares(portions_of(validate(PretrainConfig, {**table, "max_epochs": {"words": 1}})), timeline(20_000, (0.5, 0.5)))
    assert mix_table(found).rows[0][0] == "words"
    assert "capped at 1" in describe(found[0], 20_000)
    assert "asked for 50.00%" in describe(found[1], 20_000)


def test_a_table_about_no_source_is_refused_at_once(shards: Path) -> None:
    for field in ({"tiers": {"x": {"high": 1}}}, {"max_epochs": {"x": 2}}):
        with pytest.raises(ConfigError, match="name x, which is no source"):
            validate(PretrainConfig, {"data": [str(shards)], "names": ["y"], **field})
