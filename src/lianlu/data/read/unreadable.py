"""What could not be read, and how much of it a run takes before it stops.

Each such record is on record anyway (`rejected.jsonl`). This is about many of them: a download that broke off, a wrong field of
text, a wrong encoding, which nobody wants to find at the end of a long run. What is no text in the first place (pictures, empty
files, archives inside archives, pages that were not found) does not count.

The share is that of what has been read so far. It is looked at from `EARLY` bad records on, and once more at the end; there a
small source counts as one of `SMALL` records, so that one bad file among three stops nobody.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from lianlu.core.errors import DataError

EARLY, SMALL = 1000, 100
FIRST = 5
HINTS = {
    "read.bad_line": "if the text is in another field, name it with text_fields",
    "read.crashed": "look at the files that are named, and run again with fewer workers if memory was short",
    "read.max_seconds": "give a chunk more time with chunk_limit_s",
    "read.damaged": "get the damaged files again",
    "read.encoding": "turn texts into UTF-8 first, for example with iconv -f GB18030 -t UTF-8",
    "read.unreadable": "check permissions and the disk they are on",
    "extract.max_seconds": "give pages more time with html_limit_s",
    "extract.crashed": "choose another extractor",
    "extract.pdf": "get the damaged files again",
}
"""The rules that count, and what to do about each."""


class Unreadable:
    """Counts records that could not be read. `limit`: below 1 the share that is allowed, from 1 on how many are."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.num_records = 0
        self.rules = Counter[str]()
        self._first: list[str] = []

    @property
    def count(self) -> int:
        """How many could not be read."""
        return self.rules.total()

    def add(self, num_records: int, rejected: list[dict[str, Any]]) -> None:
        """Note what a chunk had and what was rejected of it. Raises: DataError if that is too much."""
        self.num_records += num_records
        for record in rejected:
            if record["rule"] in HINTS:
                self.rules[record["rule"]] += 1
                if len(self._first) < FIRST:
                    self._first.append(f"{record['id']} ({record['rule']}: {record['value']})")
        if self.limit >= 1 or self.count >= EARLY:
            self._check(self.num_records)

    def end(self) -> None:
        """All has been read. Raises: DataError if too much of it could not be."""
        self._check(max(self.num_records, SMALL))

    def _check(self, num_records: int) -> None:
        allowed = self.limit if self.limit >= 1 else self.limit * num_records
        if self.count > allowed:
            found = f"{self.count:,} of {self.num_records:,} records could not be read, and max_bad = {self.limit:g} allows fewer"
            mend = "; ".join(HINTS[rule] for rule, _ in self.rules.most_common(2))
            hint = f"{mend}; or allow more with max_bad (a share, or from 1 on a count): what has been read is kept"
            raise DataError(f"{found}: {'; '.join(self._first)}", hint=hint)
