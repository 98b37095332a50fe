"""The largest clusters of duplicates: the document that is kept, those that repeat it, and where they differ.

Three times over the decisions: count clusters, collect their members, fetch their texts. Kept in memory are eight bytes for
each duplicate, and the members that are shown. Documents of one id count as one cluster, since decisions name ids.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from lianlu.data.dedup.duplicates import Place
from lianlu.data.report.excerpts import EXCERPT_CHARS, ID_CHARS, documents_at, shown
from lianlu.data.rules.characters import CJK
from lianlu.data.scores.columns import decision_columns, num_chunks

MAX_CLUSTERS = 40
MAX_MEMBERS = 5
_TEXT_CHARS = 100_000
"""How far two texts are read in search of a difference."""
_BEFORE, _WINDOW = 60, 420
_SIZES = (2, 3, 6, 11, 101)
_PIECE = re.compile(f"\\s+|[{CJK}]|[^\\s{CJK}]+")


@dataclass
class Cluster:
    """A kept document (`place` is None where it belongs to an earlier corpus) and how many repeat it."""

    size: int
    id: str = ""
    place: Place | None = None
    rule: str = ""
    """What took the kept document afterwards, if anything did."""
    members: list[tuple[float, str, str, Place]] = field(default_factory=list)
    """Similarity, step, id and place of those shown: the least similar."""

    def add(self, member: tuple[float, str, str, Place]) -> None:
        """Take a member in if it is less similar than one of those there."""
        self.members = sorted([*self.members, member], key=lambda own: (own[0], own[3]))[:MAX_MEMBERS]


def clusters(scored: Path, artifact: Path) -> dict[str, Any]:
    """How many clusters of which size there are, and the largest of them with their texts, as JSON values."""
    hashes = [np.empty(0, np.uint64)]
    for number in range(num_chunks(scored)):
        (repeats,) = decision_columns(artifact, number, "repeats")
        own = [_hash(other) for other in repeats if other]
        hashes.append(np.array(own, dtype=np.uint64))
    keys, counts = np.unique(np.concatenate(hashes), return_counts=True)
    largest = np.lexsort((keys, -counts))[:MAX_CLUSTERS]
    chosen = {int(keys[at]): Cluster(int(counts[at]) + 1) for at in largest}
    _collect(scored, artifact, chosen)
    edges = [*_SIZES, np.iinfo(np.int64).max]
    return {
        "clusters": len(keys),
        "duplicates": int(counts.sum()),
        "sizes": list(zip(map(_size_name, range(len(_SIZES))), np.histogram(counts + 1, edges)[0].tolist(), strict=True)),
        "shown": _with_texts(scored, list(chosen.values())),
    }


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "replace"))


def _step(rule: str) -> str:
    return rule.split(".", maxsplit=1)[0]


def _size_name(number: int) -> str:
    first = _SIZES[number]
    last = _SIZES[number + 1] - 1 if number + 1 < len(_SIZES) else None
    return f"{first}+" if last is None else str(first) if last == first else f"{first}\u2013{last}"


def _collect(scored: Path, artifact: Path, chosen: dict[int, Cluster]) -> None:
    """Fill in who is kept and who repeats it."""
    for number in range(num_chunks(scored)):
        columns = decision_columns(artifact, number, "id", "rule", "value", "repeats")
        for row, (name, rule, value, repeats) in enumerate(zip(*columns, strict=True)):
            if repeats and (cluster := chosen.get(_hash(repeats))):
                cluster.id = repeats
                cluster.add((float(json.loads(value)), _step(rule), name, (number, row)))
            if (cluster := chosen.get(_hash(name))) and (cluster.place is None or (cluster.rule and not rule)):
                cluster.place, cluster.rule = (number, row), rule


def _with_texts(scored: Path, found: list[Cluster]) -> list[dict[str, Any]]:
    places = [cluster.place for cluster in found if cluster.place]
    places += [place for cluster in found for *_, place in cluster.members]
    texts = {place: document.text[:_TEXT_CHARS] for place, document in documents_at(scored, places)}
    return [
        {
            "id": shown(cluster.id, ID_CHARS),
            "size": cluster.size,
            "earlier": cluster.place is None,
            "rule": shown(cluster.rule, 80),
            "excerpt": shown(texts[cluster.place], EXCERPT_CHARS) if cluster.place else "",
            "members": [
                {
                    "id": shown(name, ID_CHARS),
                    "step": step,
                    "similarity": similarity,
                    "difference": difference(texts[cluster.place], texts[place])
                    if cluster.place
                    else [("same", shown(texts[place], EXCERPT_CHARS))],
                }
                for similarity, step, name, place in cluster.members
            ],
        }
        for cluster in found
    ]


def difference(kept: str, other: str) -> list[tuple[str, str]]:
    """Where two texts first differ: pieces that are the `same`, only in the `kept` one, only in the `other` one.

    Empty if they are the same but for white space, as far as they were read.
    """
    pieces = [[part for part in _PIECE.findall(text) if not part.isspace()] for text in (kept, other)]
    first = next((at for at, (a, b) in enumerate(zip(*pieces, strict=False)) if a != b), min(map(len, pieces)))
    if first == max(map(len, pieces)):
        return []
    a, b = (_window(own, first) for own in pieces)
    found: list[tuple[str, str]] = []
    for tag, a_start, a_end, b_start, b_end in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag == "equal":
            found.append(("same", _joined(a[a_start:a_end])))
            continue
        found += [("kept", _joined(a[a_start:a_end]))] if a_end > a_start else []
        found += [("other", _joined(b[b_start:b_end]))] if b_end > b_start else []
    return found


def _window(pieces: list[str], first: int) -> list[str]:
    """Some words from before the difference on, up to a number of characters."""
    own: list[str] = []
    start = first
    while start > 0 and sum(map(len, pieces[start - 1 : first])) < _BEFORE:
        start -= 1
    room = _WINDOW
    for piece in pieces[start:]:
        room -= len(piece) + 1
        if room < 0:
            break
        own.append(piece)
    return own or [pieces[start][:_WINDOW]] if start < len(pieces) else own


def _joined(pieces: list[str]) -> str:
    """Words with spaces between them, CJK characters without."""
    text = " ".join(pieces)
    return shown(re.sub(f"(?<=[{CJK}]) (?=[{CJK}])", "", text), _WINDOW + _BEFORE)
