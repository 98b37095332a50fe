"""What fractions come to: the threshold of every `top_x` and `bottom_x` for each domain, found before anything is decided.

A fraction is taken of the documents that are left when its rule is asked, so that each takes a walk over the columns of scores.
In memory are the scores of one rule, some 16 bytes a document for as long as it takes. What came out lies in the artifact,
`decisions/top.json`, so that later looks at it (explain, tune, report) find the thresholds that decided.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from lianlu.core import console
from lianlu.core.errors import ConfigError, DataError
from lianlu.core.files import write_json
from lianlu.data.rules.top_fraction import Cut, Scores, threshold, value_of
from lianlu.data.scores.corpus import Corpus
from lianlu.data.scores.decide import STEPS, Rules, is_broken, left_for
from lianlu.data.scores.decisions import DECISIONS

FILE = f"{DECISIONS}/top.json"
FORMAT = 1
MAX_TIES = 0.02
"""Share of the documents that ties may add before that is said."""
Group = tuple[str, str]
"""A domain, and a language or script in it."""


def with_cuts(rules: Rules, corpus: Corpus, artifact: Path) -> Rules:
    """The rules with the thresholds that their fractions come to, which are written to the artifact."""
    asked = [(family, key) for family in STEPS if family in rules.families for key in rules.thresholds.fractions(family)]
    for family, key in asked:
        found = list(_cuts(f"{family}.{key}", corpus, rules))
        _warn_of(family, key, rules, found)
        rules = replace(rules, cuts=(*rules.cuts, *found))
    if asked:
        write_json(artifact / FILE, {"format": FORMAT, "cuts": [asdict(cut) for cut in rules.cuts]})
    return rules


def read_cuts(artifact: Path) -> tuple[Cut, ...]:
    """Those that an artifact was decided by; none where no fraction was taken. Raises: DataError if the file is damaged."""
    path = artifact / FILE
    try:
        return tuple(Cut(**own) for own in json.loads(path.read_text(encoding="utf-8"))["cuts"]) if path.exists() else ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="run the clean step again, so that it is made anew") from error


def check_earlier(rules: Rules, earlier: Sequence[Path], domain: str = "") -> None:
    """Refuse a fraction where an earlier corpus was cut by the same one; `domain` is that of all documents, if it is given.

    Raises: ConfigError with the threshold that the fraction came to there.
    """
    for artifact in earlier:
        for cut in read_cuts(artifact):
            family, key = cut.rule.split(".")
            own = rules.thresholds.of(family, cut.domain, "", cut.part).get(key, False)
            if family in rules.families and own is not False and domain in ("", cut.domain):
                bound = value_of(cut.rule).replace(".", f".{cut.part or cut.domain}.")
                hint = f"keep to the threshold that it came to there: thresholds.{bound} = {cut.threshold!r}, and no {key}"
                message = f"{cut.rule} would be taken of the new documents alone, and {artifact} was cut by it: {cut.told}"
                raise ConfigError(message, hint=hint)


def scores_left(rule: str, corpus: Corpus, rules: Rules) -> dict[Group, list[Scores]]:
    """The values that a fraction is taken by, of the documents that are left for its rule; those without one are not counted."""
    found: dict[Group, list[Scores]] = {}
    for chunk in corpus.chunks:
        signals = chunk.signals()
        for kind, rows in left_for(rule, signals, chunk.kinds(), rules):
            values = signals[value_of(rule)][rows]
            found.setdefault(rules.group(rule, kind), []).append(values[~np.isnan(values)])
    return found


def _cuts(rule: str, corpus: Corpus, rules: Rules) -> Iterator[Cut]:
    family, key = rule.split(".")
    groups = scores_left(rule, corpus, rules)
    for group in sorted(groups):
        pieces = groups.pop(group)
        if count := sum(map(len, pieces)):
            fraction = rules.thresholds.of(family, group[0], "", group[1])[key]
            limit = threshold(pieces, fraction, key.startswith("top_"))
            kept = count - sum(int(is_broken(rule, piece, limit).sum()) for piece in pieces)
            yield Cut(rule, *group, float(fraction), limit, count, kept)


def _warn_of(family: str, key: str, rules: Rules, found: list[Cut]) -> None:
    """Say where a fraction met no document, and where many equal scores make it larger than was asked for."""
    for name in rules.thresholds.fractions(family)[key]:
        if not any(name in ("", cut.domain, cut.part) for cut in found):
            where = ".".join(filter(None, ("thresholds", family, name, key)))
            console.warn(f"{where} is not used: no document that is left for it has a score")
    for cut in found:
        if cut.kept > (cut.fraction + MAX_TIES) * cut.documents + 1:
            kept = f"{cut.kept:,} of {cut.documents:,} documents"
            console.warn(f"{cut.rule}, {cut.told}: {kept} are kept, since many score {cut.threshold:g} alike")
