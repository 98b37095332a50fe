"""lianlu, asked as its peers are: families of rules, personal data, near duplicates, and the whole clean stage."""

from __future__ import annotations

import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from lines import Spent, counted, rows, serve

from lianlu.core.store import Output
from lianlu.data import clean
from lianlu.data.rules import edits, language, pii
from lianlu.data.rules.assets import Assets
from lianlu.data.rules.families import PROSE, prose_signals
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Limits, Thresholds, broken, shipped
from lianlu.formats.documents import read_documents

FAMILIES = tuple(family for family in PROSE if family not in ("safety", "filters", "perplexity"))  # these ask for assets
COMPARING = ("exact_dedup", "near_dedup", "decide", "compare")
NO_ALARM = {"alarm": {"max_source_loss": False, "max_cluster_share": False}}


def filters(documents: str, lang: str = "en") -> dict[str, Any]:
    """Every family, with all of its signals, on every document at the values of web pages; words are split by each anew."""
    thresholds, assets, spent, passed = Thresholds(shipped()), Assets(), Spent(), Spent()
    for row in rows(documents):
        kind = ("web", TextView(row["text"]).script, lang)
        for family in FAMILIES:
            with counted(spent, family):
                found, _ = prose_signals(TextView(row["text"]), "", (family,), partial(_limits, thresholds, kind), assets)
                own = ((name.split(".")[1], value) for name, value in found.items())
                passed[family] += broken(family, thresholds.of(family, *kind), own) is None
        with counted(spent, "language"):
            language.identify(row["text"])
    return {"seconds": spent, "passed": passed}


def _limits(thresholds: Thresholds, kind: tuple[str, str, str], family: str) -> Limits:
    return thresholds.of(family, *kind)


def personal(documents: str, keep: bool = False) -> dict[str, Any]:
    """All kinds of personal data replaced."""
    spent, texts = Spent(), [row["text"] for row in rows(documents)]
    with counted(spent, "pii"):
        made = [edits.applied(text, pii.find(text)) for text in texts]
    return {"seconds": spent, "texts": made if keep else []}


def near_dedup(documents: str, folder: str, max_jaccard: float = 0.7) -> dict[str, Any]:
    """The ids that are removed with the ids they repeat: the clean stage from reading to writing, with no other rules.

    `near_dedup operators` is the part of it that is no reading, writing or reporting: its share of the clock.
    """
    thresholds = {**NO_ALARM, "near_dedup": {"max_jaccard": max_jaccard}}
    out = Output(Path(folder))
    config = {"source": documents, "rules": ["exact_dedup", "near_dedup"], "thresholds": thresholds, "workers": 1}
    spent, began = Spent(), time.perf_counter()
    with counted(spent, "near_dedup"):
        clean.run(clean.CleanConfig.model_validate(config), out)
    wall_s, costs = time.perf_counter() - began, json.loads((out.logs / "cost.json").read_text(encoding="utf-8"))
    share = sum(costs[name]["seconds"] for name in COMPARING if name in costs) / wall_s
    spent["near_dedup operators"] = spent["near_dedup"] * share
    kept = {document.id for document in read_documents(Path(folder))}
    records = [json.loads(line) for line in (Path(folder) / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    repeats = {record["id"]: record["kept"] for record in records if "kept" in record}
    return {"seconds": spent, "removed": [row["id"] for row in rows(documents) if row["id"] not in kept], "repeats": repeats}


def cleaned(folder: str, **config: Any) -> dict[str, Any]:
    """The clean stage as it is: seconds by the clock, processor time of all processes, and what each operator took."""
    spent, out = Spent(), Output(Path(folder))
    began = time.perf_counter()
    with counted(spent, "all"):
        clean.run(clean.CleanConfig.model_validate(config), out)
    costs = json.loads((out.logs / "cost.json").read_text(encoding="utf-8"))
    return {"wall_s": time.perf_counter() - began, "cpu_s": spent["all"], "costs": costs, "figures": out.figures}


def warm(documents: str) -> dict[str, Any]:
    """One small run of everything, so that nothing is loaded later."""
    with tempfile.TemporaryDirectory() as folder:
        few = Path(folder) / "few.jsonl"
        few.write_text("".join(json.dumps(row) + "\n" for row in rows(documents)[:20]), encoding="utf-8")
        filters(str(few))
        personal(str(few))
        near_dedup(str(few), f"{folder}/out")
    return {}


if __name__ == "__main__":
    serve({"filters": filters, "pii": personal, "near_dedup": near_dedup, "clean": cleaned, "warm": warm})
