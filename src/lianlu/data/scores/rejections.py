"""`rejected.jsonl`, written while a run goes on: what is rejected is on disk and not in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from lianlu.data.scores.decisions import Decision
from lianlu.data.scores.ledger import Ledger

REJECTED = "rejected.jsonl"


@dataclass(frozen=True)
class Rejections:
    """The file, open for writing."""

    file: IO[Any]

    def take(self, ledger: Ledger) -> None:
        """Write what a ledger has noted, which then forgets it; its counts stay."""
        for record in ledger.rejected:
            self.file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        ledger.rejected = []

    def between(self, decided: Iterable[Sequence[Decision]], ledger: Ledger) -> Iterator[Sequence[Decision]]:
        """The same decisions; what those about one chunk led to is written before the next."""
        for decisions in decided:
            self.take(ledger)
            yield decisions
