"""The best part of each domain by a score: DCLM and InternLM2 keep a top fraction, and what is good differs by domain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lianlu.core.errors import ConfigError

Scores = npt.NDArray[np.float64]


def top_thresholds(scores: Scores, domains: Sequence[str], fraction: float) -> dict[str, float]:
    """The score that a document of each domain needs to be in the top `fraction` (0 < fraction <= 1) of it.

    Documents without a score (NaN) are not counted; equal scores are kept together, so that slightly more may stay.
    Raises: ConfigError for another fraction.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"a fraction of {fraction} cannot be kept", hint="give a number above 0 and up to 1, for example 0.1")
    names = np.asarray(domains)
    found = {}
    for domain in sorted(set(domains)):
        own = np.sort(scores[(names == domain) & ~np.isnan(scores)])
        if len(own):
            found[domain] = float(own[len(own) - max(round(fraction * len(own)), 1)])
    return found


def in_top(scores: Scores, domains: Sequence[str], fraction: float) -> npt.NDArray[np.bool_]:
    """Which documents are in the top fraction of their domain; one without a score is."""
    needed = top_thresholds(scores, domains, fraction)
    limits = np.array([needed.get(domain, -np.inf) for domain in domains], dtype=np.float64)
    return np.isnan(scores) | (scores >= limits)
