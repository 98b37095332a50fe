"""The score of code, its tiers and their weights."""

from __future__ import annotations

import random
import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.code import quality
from lianlu.data.code.lexer import CODE, pieces
from lianlu.data.read.python_source import module_files
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Thresholds, shipped

LIMITS = Thresholds(shipped()).of("code_quality", "code", "", "python")


def scored(text: str, lang: str = "python") -> float:
    return dict(quality.signals(TextView(text), LIMITS, lang))["min_score"]


def test_the_score_is_the_weighted_sum_of_the_features_also_for_columns() -> None:
    texts = ["def f(a):\n    return a\n", "# TODO\n" + "x = 'data'\n" * 30]
    rows = [quality.features(TextView(text), "python") for text in texts]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    assert np.allclose(quality.score(columns, LIMITS), [scored(text) for text in texts])
    assert quality.score({"comments": 0.5, "data": 0.25}, {"weight_comments": 2.0, "weight_data": -4.0}) == 0


def test_a_classifier_counts_only_where_the_table_trusts_it() -> None:
    view = TextView("x = 1\n")

    def value(weight: float, says: float) -> float:
        return dict(quality.signals(view, {**LIMITS, "weight_classifier": weight}, "python", lambda _: says))["min_score"]

    plain = scored(view.text)
    assert value(0.0, 1.0) == plain
    assert value(4.0, 0.5) == plain
    assert value(4.0, 1.0) == plain + 2
    assert value(4.0, 0.0) == plain - 2


def test_tiers_and_sampling_weights() -> None:
    limits = {"min_score": 1.0, "min_score_high": 2.0}
    scores = np.array([0.99, 1.0, 1.99, 2.0])
    assert quality.tiers(scores, limits).tolist() == ["low", "moderate", "moderate", "high"]
    assert quality.sampling_weights(scores, limits).tolist() == [0, 1, 1, 2]
    assert quality.sampling_weights(scores, {**limits, "times_high": 3.5, "times_moderate": 0.5}).tolist() == [0, 0.5, 0.5, 3.5]
    assert quality.standings(scores[1:], limits) == [("moderate", 1), ("moderate", 1), ("high", 2)]
    assert quality.tiers(scores, {"min_score": False}).tolist() == ["moderate"] * 4


def stripped(text: str, rng: random.Random) -> str:
    """The same code without comments, every name one letter or two."""
    names: dict[str, str] = {}

    def renamed(match: re.Match[str]) -> str:
        return names.setdefault(match[0], rng.choice("abcdefgh") + rng.choice(["", "1", "2"]))

    return "".join(re.sub(r"[^\W\d]\w*", renamed, piece) for kind, piece in pieces(text, "python") if kind == CODE)


def test_the_standard_library_scores_above_itself_without_names_and_comments() -> None:
    rng = random.Random(0)
    texts = [path.read_text("utf-8", "replace") for path in module_files()[::8]]
    scores = np.array([scored(text) for text in texts if len(text) > 1000])
    worse = np.array([scored(stripped(text, rng)) for text in texts if len(text) > 1000])
    assert len(scores) > 20
    assert np.mean(scores[:, None] > worse) > 0.97
    assert np.mean(quality.tiers(scores, LIMITS) == quality.LOW) < 0.2
    assert np.mean(quality.tiers(worse, LIMITS) == quality.LOW) > 0.9


def test_only_languages_whose_definitions_are_known_have_a_score() -> None:
    view = TextView("main = print 1\n")
    assert "min_score" in dict(quality.signals(view, LIMITS, "rust"))
    assert not any(list(quality.signals(view, LIMITS, lang)) for lang in ("haskell", "json", "jupyter", ""))


@given(st.text(max_size=300), st.sampled_from(["python", "c", "javascript", "", "sql"]))
def test_features_of_any_text_are_shares(text: str, lang: str) -> None:
    assert all(0 <= value <= 1 for value in quality.features(TextView(text), lang).values())
