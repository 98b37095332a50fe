"""From hits to verdicts: which items found in a document make it unfit for training; and canaries that prove the search.

A document is unfit if it holds half of the tokens of a question or an answer, or any part of a question together with a part
of its answer. An answer shorter than a window counts beside its question only: six words of code or of a common phrase prove
nothing by themselves. These bounds are ours.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lianlu.core.errors import DataError
from lianlu.data.contamination.ngram_index import Hit, NgramIndex, names_of
from lianlu.data.read.normalise import normalise
from lianlu.data.rules.thresholds import Verdict
from lianlu.formats.documents import Document

ANSWER = "answer"
CANARY = "canary: "
_SHOUTED = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)
_FILLER = "Nobody would expect to find what follows on a page about {}. "


@dataclass(frozen=True)
class Found:
    """A hit in a document, and whether it is one of those that make the document unfit."""

    hit: Hit
    unfit: bool

    def record(self, document: str) -> dict[str, Any]:
        """The line of `contamination.jsonl`."""
        part, hit = self.hit.part, self.hit
        names = {"document": document, "task": part.task, "item": part.item, "part": part.part}
        return {
            **names,
            "overlap": round(hit.overlap, 4),
            "start": hit.start,
            "end": hit.end,
            "text": hit.text,
            "unfit": self.unfit,
        }


def judge(hits: Sequence[Hit], max_overlap: float) -> list[Found]:
    """The hits of one document, each with its part in the verdict."""
    answered = {_item(hit) for hit in hits if hit.part.part == ANSWER}
    asked = {_item(hit) for hit in hits if hit.part.part != ANSWER}
    whole = answered & asked

    def is_unfit(hit: Hit) -> bool:
        alone = hit.overlap >= max_overlap and not (hit.part.part == ANSWER and hit.part.is_short)
        return alone or _item(hit) in whole

    return [Found(hit, is_unfit(hit)) for hit in hits]


def _item(hit: Hit) -> tuple[str, str]:
    return hit.part.task, hit.part.item


def verdict(found: Sequence[Found], max_overlap: float) -> Verdict | None:
    """The rule that a document breaks, if it does: too much of one part, or a question with its answer."""
    unfit = [one.hit for one in found if one.unfit]
    if not unfit:
        return None
    most = max(unfit, key=lambda hit: hit.overlap)
    if most.overlap >= max_overlap:
        return Verdict("decontaminate.max_overlap", round(most.overlap, 4), max_overlap)
    return Verdict("decontaminate.answer", f"{most.part.task} {most.part.item}", "no question with its answer")


def canaries(items: Iterable[Document], index: NgramIndex) -> list[Document]:
    """A document for each task that can be searched: an item of it, shouted, with other white space, amid other words."""
    fit = [part for part in index.complete_parts() if not (part.is_short and part.part == ANSWER)]
    wanted = {(part.task, part.item, part.part) for part in fit}
    made: dict[str, Document] = {}
    for item in items:
        task, *part = names_of(item)
        if task not in made and (task, *part) in wanted:
            text = normalise(item.text).translate(_SHOUTED).replace(" ", "\n  ")
            filler = _FILLER.format(task) * 9
            made[task] = Document(f"{CANARY}{task}", f"{filler}\n\n{text}\n\n{filler}", meta={"task": task})
    return list(made.values())


def check(planted: Iterable[Document], found: Mapping[str, Sequence[Found]]) -> None:
    """Raises: DataError if a canary was not found: then nothing else that was not found means anything."""
    for canary in planted:
        own = [one for one in found.get(canary.id, ()) if one.unfit and one.hit.part.task == canary.meta["task"]]
        if not own:
            hint = "do not train on this: the search is broken; report it with the configuration of the step"
            raise DataError(f"the planted item of {canary.meta['task']} was not found in the documents", hint=hint)
