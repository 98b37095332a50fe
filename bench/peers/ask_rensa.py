"""rensa's sketches with plain bands and union-find, which is all there is to near duplicates in its examples."""

from __future__ import annotations

from typing import Any

from lines import Spent, counted, rows, serve
from rensa import RMinHash

NUM_BANDS, NUM_ROWS, SHINGLE_WORDS = 16, 8, 5


def bands(text: str) -> list[bytes]:
    """The band keys of one text."""
    words = text.lower().split()
    sketch = RMinHash(num_perm=NUM_BANDS * NUM_ROWS, seed=42)
    sketch.update([" ".join(words[n : n + SHINGLE_WORDS]) for n in range(max(len(words) - SHINGLE_WORDS + 1, 1))])
    digest = sketch.digest()
    return [repr(digest[start : start + NUM_ROWS]).encode() for start in range(0, len(digest), NUM_ROWS)]


def near_dedup(documents: str, folder: str) -> dict[str, Any]:
    """The ids that are removed: all of a connected group but its first; reading is counted, writing is not."""
    spent = Spent()
    with counted(spent, "near_dedup"):
        found = rows(documents)
        root = list(range(len(found)))

        def first(index: int) -> int:
            while root[index] != index:
                root[index] = index = root[root[index]]
            return index

        seen: list[dict[bytes, int]] = [{} for _ in range(NUM_BANDS)]
        for index, row in enumerate(found):
            for table, key in zip(seen, bands(row["text"]), strict=True):
                a, b = first(table.setdefault(key, index)), first(index)
                root[max(a, b)] = min(a, b)
    return {"seconds": spent, "removed": [row["id"] for index, row in enumerate(found) if first(index) != index]}


if __name__ == "__main__":
    serve({"near_dedup": near_dedup})
