"""Portions of a pretraining mix: what is weighted and capped by itself, a source or one quality tier of it. Imports no torch.

    names = ["text", "code"]
    weights = [0.7, 0.3]                                              # shares of the tokens
    tiers = { code = { high = 1.0, moderate = 0.5, low = 0.1 } }      # within code: how often each is read, beside the others
    max_epochs = { text = 2, code = { high = 4, moderate = 1 } }      # or one number for all

A tier is what `meta.tier` of the documents says (the clean stage sets it for code); one that is not named has rate 1, and
documents without one are the tier `untiered`. Tiers divide the share of their source by rate times tokens, so that a document
of rate 1 is read twice as often as one of rate 0.5.

No portion is read more often than `max_epochs` in the whole run. What a capped one may not take goes to the others of the same
phase, in proportion to their shares, until all keep to their caps. A pure function of configuration and shards.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lianlu.core.errors import ConfigError, DataError
from lianlu.core.stage import Table
from lianlu.formats.shard_index import tiers as tiers_of
from lianlu.formats.shards import TokenShard
from lianlu.train.phases import Phase

UNTIERED = "untiered"
MANIFEST = "manifest.json"
Tiers = Mapping[str, Mapping[str, float]]
Caps = float | Mapping[str, float | Mapping[str, float]]


@dataclass(frozen=True)
class Portion:
    """A part of source number `source`: its documents of one tier, or (None) all of them.

    `rate` is how often it is read beside other tiers of its source, `max_epochs` how often at most (inf: no cap).
    """

    name: str
    source: int
    num_tokens: int
    tier: str | None = None
    rate: float = 1.0
    max_epochs: float = math.inf


@dataclass(frozen=True)
class Share:
    """What a portion gets of the whole run: tokens as its weight asks for, and as its cap leaves it."""

    portion: Portion
    asked: float
    tokens: float

    @property
    def epochs(self) -> float:
        """How often it is read."""
        return self.tokens / self.portion.num_tokens


def portions(shards: Sequence[TokenShard], names: Sequence[str], tiers: Tiers, max_epochs: Caps) -> list[Portion]:
    """The portions of the sources, source by source; one that holds no tokens is left out.

    Raises: ConfigError for a table about no source; DataError where no document has a tier that is named.
    """
    caps = max_epochs if isinstance(max_epochs, Mapping) else dict.fromkeys(names, max_epochs)
    for field, table in (("tiers", tiers), ("max_epochs", caps)):
        if unknown := sorted(set(table) - set(names)):
            raise ConfigError(f"{field} names {unknown[0]}, which is no source", hint=f"the sources are {', '.join(names)}")
    found: list[Portion] = []
    for number, (shard, name) in enumerate(zip(shards, names, strict=True)):
        cap = caps.get(name, 0.0)
        if name in tiers or isinstance(cap, Mapping):
            found += _tiered(shard, Portion(name, number, 0), tiers.get(name, {}), cap)
        else:
            found.append(Portion(name, number, shard.num_tokens, max_epochs=float(cap) or math.inf))
    return found


def _tiered(shard: TokenShard, whole: Portion, rates: Mapping[str, float], cap: float | Mapping[str, float]) -> Iterator[Portion]:
    codes, known = tiers_of(shard)
    tokens = np.bincount(codes, np.diff(shard.offsets), minlength=len(known)).astype(np.int64)
    named = set(rates) | (set(cap) if isinstance(cap, Mapping) else set())
    there = {tier or UNTIERED: int(count) for tier, count in zip(known, tokens, strict=True) if count}
    if named and not named & set(there):
        message = f"no document of {whole.name} is of the tier {' or '.join(sorted(named))}, only {', '.join(sorted(there))}"
        raise DataError(message, hint="tiers are meta.tier of the documents that the shard stage was given")
    for tier, count in sorted(there.items()):
        own = cap.get(tier, 0.0) if isinstance(cap, Mapping) else cap
        mark = "" if tier == UNTIERED else tier
        yield Portion(f"{whole.name}.{tier}", whole.source, count, mark, rates.get(tier, 1.0), own or math.inf)


def asked_weights(own: Sequence[Portion], phase: Phase) -> list[float]:
    """The share of each portion in a phase before any cap, 1 together. Raises: ConfigError for a source that no tier gives to."""
    rated = [portion.rate * portion.num_tokens for portion in own]
    num_sources = own[-1].source + 1
    sizes, totals = np.zeros(num_sources), np.zeros(num_sources)
    for portion, amount in zip(own, rated, strict=True):
        sizes[portion.source] += portion.num_tokens
        totals[portion.source] += amount
    weights = np.array(phase.weights) if phase.weights else sizes
    for number in np.flatnonzero((totals == 0) & (weights > 0)):
        names = ", ".join(portion.name for portion in own if portion.source == number)
        raise ConfigError(f"{names}: every tier that is there has rate 0", hint="give the source weight 0, or a tier a rate")
    parts = [weights[p.source] * amount / totals[p.source] if amount else 0.0 for p, amount in zip(own, rated, strict=True)]
    return [part / sum(parts) for part in parts]


def capped_weights(own: Sequence[Portion], phases: Sequence[Phase]) -> list[list[float]]:
    """The share of each portion in each phase, 1 together in a phase, with all caps kept over the run.

    Raises: ConfigError if the portions of a phase together may not give its tokens.
    """
    shares = np.array([asked_weights(own, phase) for phase in phases])
    sizes = np.array([phase.num_tokens for phase in phases], dtype=np.float64)
    limits = np.array([portion.max_epochs * portion.num_tokens for portion in own])
    fixed = np.zeros(len(own), dtype=np.bool_)
    while (over := ~fixed & (sizes @ shares > limits * (1 + 1e-12))).any():
        shares[:, over] *= limits[over] / (sizes @ shares[:, over])
        fixed |= over
        left, free = 1 - shares[:, fixed].sum(axis=1), shares[:, ~fixed].sum(axis=1)
        for number in np.flatnonzero((free <= 0) & (left > 1e-9)):
            raise _too_little(own, phases[int(number)], float(left[number]))
        shares[:, ~fixed] *= np.divide(left, free, out=np.ones_like(free), where=free > 0)[:, None]
    return [[float(share) for share in row] for row in shares]


def _too_little(own: Sequence[Portion], phase: Phase, missing: float) -> ConfigError:
    names = ", ".join(portion.name for portion in own if math.isfinite(portion.max_epochs))
    message = f"phase {phase.number + 1} lacks {missing:.1%} of its {phase.num_tokens:,} tokens: max_epochs caps {names}"
    return ConfigError(message, hint="raise max_epochs, train on fewer tokens, or give another source some weight")


def shares(own: Sequence[Portion], phases: Sequence[Phase]) -> list[Share]:
    """What each portion gets of the whole run. Raises: ConfigError as `capped_weights` does."""
    rows = zip(phases, [asked_weights(own, phase) for phase in phases], capped_weights(own, phases), strict=True)
    asked, given = np.zeros(len(own)), np.zeros(len(own))
    for phase, before, after in rows:
        asked += np.array(before) * phase.num_tokens
        given += np.array(after) * phase.num_tokens
    return [Share(portion, float(a), float(g)) for portion, a, g in zip(own, asked, given, strict=True)]


def describe(share: Share, num_tokens: int) -> str:
    """What a portion gets of a run of `num_tokens`, and what its cap took from it, as a line."""
    said = f"{share.portion.name}: {share.tokens / num_tokens:.2%} of the tokens, {share.epochs:.2f} epochs"
    if share.tokens < share.asked * (1 - 1e-9):
        return f"{said} (its weight asks for {share.asked / num_tokens:.2%}, capped at {share.portion.max_epochs:g})"
    return f"{said} (asked for {share.asked / num_tokens:.2%})" if share.tokens > share.asked * (1 + 1e-9) else said


def mix_table(found: Sequence[Share]) -> Table:
    """Shares, tokens and epochs of all portions, with what their caps took from them."""
    total = sum(share.tokens for share in found)
    rows = tuple(
        (
            share.portion.name,
            f"{share.tokens / total:.2%}",
            f"{share.asked / total:.2%}",
            round(share.tokens),
            f"{share.epochs:.2f}",
            f"{share.portion.max_epochs:g}" if math.isfinite(share.portion.max_epochs) else "",
        )
        for share in found
    )
    return Table("what is read", ("portion", "share", "asked for", "tokens", "epochs", "at most"), rows)


def folder_names(folders: Sequence[str]) -> list[str]:
    """A name for each folder, made of letters, digits and underscores; numbers tell equal ones apart."""
    found = [re.sub(r"\W+", "_", _name(Path(folder))).strip("_") or "source" for folder in folders]
    return [name if found.count(name) == 1 else f"{name}_{found[: index + 1].count(name)}" for index, name in enumerate(found)]


def _name(folder: Path) -> str:
    """The step that made a folder, without the name of its stage; else the name of the folder."""
    try:
        step = str(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name
    return re.sub(r"^shards?[-_]|[-_]shards?$", "", step) or step
