"""data-juicer, asked for its text filters, its PII mappers and its MinHash; operators called as its executor calls them.

It knows no filters of the four papers; `filters` are those of its own that look at the same things: counts of words, shares of
letters and of special characters, repeated n-grams, lengths of lines. It installs what it misses by itself, which is forbidden.
"""

from __future__ import annotations

import os
from typing import Any

from lines import Spent, counted, rows, serve

os.environ |= {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

from data_juicer.ops.deduplicator.document_minhash_deduplicator import DocumentMinhashDeduplicator
from data_juicer.ops.filter.alphanumeric_filter import AlphanumericFilter
from data_juicer.ops.filter.average_line_length_filter import AverageLineLengthFilter
from data_juicer.ops.filter.character_repetition_filter import CharacterRepetitionFilter
from data_juicer.ops.filter.maximum_line_length_filter import MaximumLineLengthFilter
from data_juicer.ops.filter.special_characters_filter import SpecialCharactersFilter
from data_juicer.ops.filter.word_repetition_filter import WordRepetitionFilter
from data_juicer.ops.filter.words_num_filter import WordsNumFilter
from data_juicer.ops.mapper.clean_email_mapper import CleanEmailMapper
from data_juicer.ops.mapper.clean_ip_mapper import CleanIpMapper
from data_juicer.utils.constant import Fields
from datasets import Dataset, disable_progress_bars

FILTERS = {
    "words_num": WordsNumFilter(min_num=50, max_num=100_000),
    "alphanumeric": AlphanumericFilter(),
    "special_characters": SpecialCharactersFilter(),
    "character_repetition": CharacterRepetitionFilter(),
    "word_repetition": WordRepetitionFilter(),
    "average_line_length": AverageLineLengthFilter(),
    "maximum_line_length": MaximumLineLengthFilter(),
}
MAPPERS = (CleanEmailMapper(repl="[EMAIL]"), CleanIpMapper(repl="[IP]"))
BATCH = 1000


def filters(documents: str) -> dict[str, Any]:
    """Each filter on every document."""
    texts, spent, passed = [row["text"] for row in rows(documents)], Spent(), Spent()
    for name, item in FILTERS.items():
        for start in range(0, len(texts), BATCH):
            batch = {"text": texts[start : start + BATCH], Fields.stats: [{} for _ in texts[start : start + BATCH]]}
            with counted(spent, name):
                item.compute_stats_batched(batch)
                passed[name] += sum(item.process_batched(batch))
    return {"seconds": spent, "passed": passed}


def pii(documents: str, keep: bool = False) -> dict[str, Any]:
    """E-mail and IP addresses replaced."""
    batch, spent = {"text": [row["text"] for row in rows(documents)]}, Spent()
    with counted(spent, "pii"):
        for item in MAPPERS:
            batch = item.process_batched(batch)
    return {"seconds": spent, "texts": batch["text"] if keep else []}


def near_dedup(documents: str, folder: str) -> dict[str, Any]:
    """The ids that MinHash removes; reading and writing are not counted."""
    found, spent = rows(documents), Spent()
    own = DocumentMinhashDeduplicator(num_permutations=128, num_bands=16, num_rows_per_band=8)
    dataset = Dataset.from_dict({"id": [row["id"] for row in found], "text": [row["text"] for row in found]})
    with counted(spent, "near_dedup"):
        left, _ = own.process(dataset.map(own.compute_hash))
    kept = set(left["id"])
    return {"seconds": spent, "removed": [row["id"] for row in found if row["id"] not in kept]}


if __name__ == "__main__":
    disable_progress_bars()
    serve({"filters": filters, "pii": pii, "near_dedup": near_dedup})
