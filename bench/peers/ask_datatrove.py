"""datatrove, asked for its filters of four papers, its PII formatter and its MinHash (four stages, one worker)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from lines import Spent, counted, rows, serve
from loguru import logger

FILTERS = {
    "gopher_quality": GopherQualityFilter(),
    "gopher_repetition": GopherRepetitionFilter(),
    "c4": C4QualityFilter(filter_no_terminal_punct=False),
    "fineweb": FineWebQualityFilter(),
}
BANDS = MinhashConfig(n_grams=5, num_buckets=16, hashes_per_bucket=8)


def filters(documents: str) -> dict[str, Any]:
    """Each filter on every document."""
    for item in FILTERS.values():
        item.filter(Document(text="The first call loads what is needed. It is not counted.", id="0"))
    spent, passed = Spent(), Spent()
    for row in rows(documents):
        for family, item in FILTERS.items():
            document = Document(text=row["text"], id=row["id"])
            with counted(spent, family):
                passed[family] += item.filter(document) is True
    return {"seconds": spent, "passed": passed}


def pii(documents: str, keep: bool = False) -> dict[str, Any]:
    """E-mail and public IP addresses replaced."""
    formatter, spent = PIIFormatter(), Spent()
    texts = [row["text"] for row in rows(documents)]
    with counted(spent, "pii"):
        made = [formatter.format(text) for text in texts]
    return {"seconds": spent, "texts": made if keep else []}


def near_dedup(documents: str, folder: str) -> dict[str, Any]:
    """The ids that MinHash removes, from reading to writing."""
    place, source = Path(folder), Path(documents)

    def stage(*steps: Any, tasks: int = 1) -> None:
        LocalPipelineExecutor(list(steps), tasks=tasks, workers=1, logging_dir=str(place / f"logs{len(spent_on)}")).run()
        spent_on.append(tasks)

    spent, spent_on = Spent(), list[int]()
    reader = JsonlReader(str(source.parent), glob_pattern=source.name)
    with counted(spent, "near_dedup"):
        stage(reader, MinhashDedupSignature(str(place / "signatures"), config=BANDS))
        stage(MinhashDedupBuckets(str(place / "signatures"), str(place / "buckets"), config=BANDS), tasks=BANDS.num_buckets)
        stage(MinhashDedupCluster(str(place / "buckets"), str(place / "remove"), config=BANDS))
        stage(reader, MinhashDedupFilter(str(place / "remove")), JsonlWriter(str(place / "kept"), compression=None))
    kept = {row["id"] for path in (place / "kept").glob("*.jsonl") for row in rows(str(path))}
    return {"seconds": spent, "removed": [row["id"] for row in rows(documents) if row["id"] not in kept]}


if __name__ == "__main__":
    logger.remove()
    logger.add(sys.stderr, level="ERROR")
    serve({"filters": filters, "pii": pii, "near_dedup": near_dedup})
