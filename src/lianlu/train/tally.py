"""What is known about training data while it is rendered: how far, how much, and why records were left out.

It is the state that a killed run goes on with, and the figures that people see.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lianlu.core.console import format_value
from lianlu.core.errors import DataError
from lianlu.formats.examples.sources import Source
from lianlu.train.conversations import Outcome

JUDGED_AFTER = 1000
"""Records after which data that is mostly wrong is given up without reading on."""
NUM_QUESTIONS, MAX_QUESTION_CHARS = 64, 2000
_SHOWN_REASONS = 4
_MAX_REASONS = 50
OTHER = "other reasons"


class Tally(BaseModel):
    """Counts and place; `key` says what it all was made from, `at` is the last record: number of its source, place in it.

    `understood` counts the records that are shared out between training and held-out, `sizes` are those of the files.
    """

    model_config = ConfigDict(extra="forbid")
    key: str
    formats: list[str]
    is_done: bool = False
    at: tuple[int, int] = (0, -1)
    part: Literal["train", "held_out"] = "train"
    continues: bool = False
    records: int = 0
    understood: int = 0
    wrong: int = 0
    unwanted: int = 0
    tokens: int = 0
    targets: int = 0
    rejected: dict[str, int] = {}
    firsts: dict[str, str] = {}
    notes: dict[str, int] = {}
    questions: list[str] = []
    sizes: dict[str, dict[str, int]] = {}

    @staticmethod
    def read(path: Path, key: str) -> Tally | None:
        """The tally in a file, if it is of the same data and settings."""
        try:
            found = Tally.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None
        return found if found.key == key else None

    def take(self, source: Source, outcome: Outcome, every: int) -> Literal["train", "held_out"]:
        """Count one record; returns the part its examples belong to: its source's own, else one of `every` is held out."""
        self.records += 1
        if source.part:
            self.part = source.part
        elif outcome.is_understood and not self.continues:
            self.part = "train" if self.understood % every else "held_out"
        self.understood += outcome.is_understood and not self.continues
        self.continues = outcome.continues
        for note in outcome.notes:
            self.notes[note] = self.notes.get(note, 0) + 1
        if outcome.rejection is not None:
            self.wrong += outcome.rejection.is_wrong
            self.unwanted += not outcome.rejection.is_wrong
            self._count(outcome.rejection.reason, source.where(outcome.place))
        elif self.part == "held_out":
            new = [outcome.question[:MAX_QUESTION_CHARS]] * len(outcome.pieces)
            self.questions += new[: NUM_QUESTIONS - len(self.questions)]
        else:
            self.tokens += sum(len(piece.ids) - 1 for piece in outcome.pieces)
            self.targets += sum(int(piece.mask.sum()) for piece in outcome.pieces)
        return self.part

    def require_mostly_right(self, data: str, ledger: Path) -> None:
        """Raises: DataError if more than half of the records are wrong, with the main reasons."""
        if 2 * self.wrong <= self.records:
            return
        found = ", ".join(self.formats)
        hint = f'read as {found}: if it is something else, name it, for example format="pairs"; {ledger} lists the records'
        raise DataError(f"{self.wrong:,} of {self.records:,} records of {data} are wrong: {self.reasons()}", hint=hint)

    def require(self, what: str, count: int, data: str) -> None:
        """Raises: DataError if there are no examples for `what`, with the reasons."""
        if count:
            return
        reasons = self.reasons() or f"it holds {self.records} {'record' if self.records == 1 else 'records'}"
        hint = "give more data, raise max_length, or bring train.jsonl and held_out.jsonl in a folder"
        raise DataError(f"{data} leaves no {what} examples: {reasons}", hint=hint)

    def reasons(self) -> str:
        """The main reasons for rejections: how many, and where the first one is."""
        most = sorted(self.rejected.items(), key=lambda item: (-item[1], item[0]))
        shown = [f"{count:,} {reason} (first: {self.firsts[reason]})" for reason, count in most[:_SHOWN_REASONS]]
        rest = sum(count for _, count in most[_SHOWN_REASONS:])
        return ", ".join(shown + ([f"{rest:,} for other reasons"] if rest else []))

    def summary(self, num_train: int, num_held_out: int) -> str:
        """One line for people."""
        parts = [f"{self.records:,} records", f"{num_train:,} examples to train on ({format_value(self.tokens)} tokens)"]
        parts += [f"{num_held_out:,} held out", *(f"{count:,} {note}" for note, count in sorted(self.notes.items()))]
        return ", ".join(parts)

    def figures(self) -> dict[str, Any]:
        """For the manifest."""
        counts = {"format": ", ".join(self.formats), "records": self.records, "tokens": self.tokens}
        named = {"rejected": dict(sorted(self.rejected.items())), "notes": dict(sorted(self.notes.items()))}
        return {**counts, "answer_tokens": self.targets, **named}

    def _count(self, reason: str, where: str) -> None:
        if reason not in self.rejected and len(self.rejected) >= _MAX_REASONS:
            reason = OTHER
        self.rejected[reason] = self.rejected.get(reason, 0) + 1
        self.firsts.setdefault(reason, where)
