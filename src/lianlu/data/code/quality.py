"""How good a source file is: a linear score of features one can look at, and the tiers high, moderate and low.

InternLM2 (arXiv 2403.17297, section 3.1.2) repeats the high tier, takes the moderate one once and drops the low one (16.8,
69.9 and 13.3 % of its code); its scorer, trained on annotations, is not published. Here the score is the sum of features
(0..1, as signals) times weights of the rules table, plus `weight_classifier` times what a trained classifier says (a
probability; 0.5 counts nothing), where one is given and the table trusts it for the language. A document below
`min_score` breaks that rule like any other: it is the low tier. From `min_score_high` on it belongs to the high tier.
Languages whose definitions are not known (`imports.LANGUAGES`) have no score, and so no tier: the features miss too much there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lianlu.data.code.imports import LANGUAGES, definitions
from lianlu.data.code.lexer import CODE, COMMENT, STRING, pieces, statements
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Limits

HIGH, MODERATE, LOW = "high", "moderate", "low"
Scores = npt.NDArray[np.float64]
_NAME = re.compile(r"[^\W\d]\w*")
_DIGIT = re.compile(r"\d")
_TODO = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")
_LOOKS_LIKE_CODE = re.compile(
    r"\W*\w[\w.\[\]]*\s*=\s*\S+$|\W*\w[\w.]*\([^()]*\)[;:]?\s*$|\W*(?:if|for|while)\b.*:\s*$|.*[;{]\s*$"
)
_CODE_ENDS = tuple(";{):")
_NO_CODE = (">>>", "@", "...", "://", "sourceMapping")
_DEEP = re.compile(r"(?m)^(?: {20}|\t{5})[ \t]*\S")
_LONG_LINE, _REPEATABLE = 100, 12


def features(view: TextView, lang: str) -> dict[str, float]:
    """Each 0..1. Good: comments, names (length), structure. Bad: the rest. All are shares, with caps where more says nothing."""
    text, lines = view.text, view.lines
    cut: dict[str, list[str]] = {CODE: [], COMMENT: [], STRING: []}
    for kind, piece in pieces(text, lang):
        cut[kind].append(piece)
    code = " ".join(cut[CODE])
    remarks = [line for piece in cut[COMMENT] for line in piece.split("\n") if line.strip()]
    names = _NAME.findall(code)
    num_lines, size = max(len(lines), 1), max(len(text), 1)
    distinct = set(names)
    long_enough = [line for line in lines if len(line) >= _REPEATABLE]
    num_data = sum(map(len, cut[STRING])) + len(_DIGIT.findall(code))
    return {
        "comments": min(sum(map(len, cut[COMMENT])) / size, 0.25) * 4,
        "names": _clipped((sum(map(len, distinct)) / max(len(distinct), 1) - 3) / 6),
        "structure": _clipped(20 * len(definitions(statements(text, lang), lang)) / num_lines),
        "short_names": sum(len(name) == 1 for name in names) / max(len(names), 1),
        "deep_lines": len(_DEEP.findall(text)) / num_lines,
        "long_lines": sum(len(line) > _LONG_LINE for line in lines) / num_lines,
        "repeated_lines": 1 - len(set(long_enough)) / max(len(long_enough), 1),
        "data": num_data / size,
        "dead_code": sum(map(_looks_like_code, remarks)) / max(len(remarks), 1),
        "todos": _clipped(20 * sum(len(_TODO.findall(piece)) for piece in cut[COMMENT]) / num_lines),
        "brevity": 1 - _clipped(len(lines) / 40),
    }


def _looks_like_code(remark: str) -> bool:
    """Whether a line of a comment is code that was put out of use; examples, addresses and tags are not."""
    likely = len(remark) < 200 and (remark.rstrip().endswith(_CODE_ENDS) or "=" in remark)
    return likely and not any(mark in remark for mark in _NO_CODE) and _LOOKS_LIKE_CODE.match(remark) is not None


def _clipped(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def signals(
    view: TextView, limits: Limits, lang: str, classifier: Callable[[str], float] | None = None
) -> Iterator[tuple[str, float]]:
    """The features, what the classifier says (0..1) if there is one, and the score as `min_score`; of other languages nothing."""
    if lang not in LANGUAGES:
        return
    values = features(view, lang)
    if classifier is not None and limits.get("weight_classifier"):
        values["classifier"] = classifier(view.text)
    yield from values.items()
    yield "min_score", score(values, limits)


def score(values: Mapping[str, Any], limits: Limits) -> Any:
    """The linear score of features: numbers, or whole columns of them."""
    total = sum(limits.get(f"weight_{name}", 0.0) * value for name, value in values.items() if name != "classifier")
    return total + limits.get("weight_classifier", 0.0) * (values["classifier"] - 0.5) if "classifier" in values else total


def tiers(scores: Scores, limits: Limits) -> npt.NDArray[np.str_]:
    """The tier of each score."""
    low, high = (_bound(limits, name) for name in ("min_score", "min_score_high"))
    return np.where(scores < low, LOW, np.where(scores >= high, HIGH, MODERATE))


def _bound(limits: Limits, name: str) -> float:
    limit = limits.get(name, False)
    if limit is False:
        return -np.inf if name == "min_score" else np.inf
    return float(limit)


def sampling_weights(scores: Scores, limits: Limits) -> Scores:
    """How often each document is taken: `times_high`, `times_moderate` (2 and 1 where nothing is said), low ones never."""
    times = {HIGH: limits.get("times_high", 2), MODERATE: limits.get("times_moderate", 1), LOW: 0}
    return np.array([times[str(tier)] for tier in tiers(scores, limits)], dtype=np.float64)


def standings(scores: Scores, limits: Limits) -> list[tuple[str, float]]:
    """Tier and sampling weight of each score."""
    return list(zip(tiers(scores, limits).tolist(), sampling_weights(scores, limits).tolist(), strict=True))
