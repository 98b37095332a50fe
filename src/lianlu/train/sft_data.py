"""The data of a fine-tuning run: found, recognised, rendered once into memory-mapped files, divided, and reported on.

    .resume/examples/train.* held_out.*   the examples (`example_file`)
    .resume/examples/state.json           how far it is (`tally`), and what it was made from
    rejected.jsonl                        every record that gives no example, with file, line or index, and the reason

It goes on after a kill where the last commit was; what was made from other data or settings is thrown away. Of several
processes the main one does it and the others wait for state.json, without a collective operation that could time out.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lianlu.core import console, machine
from lianlu.core.files import disk_errors, sha256_json, write_json
from lianlu.formats.examples.sources import Found, Source, find_sources, rough_bytes
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.conversations import Outcome, require_abilities
from lianlu.train.example_file import ExampleFile, ExampleWriter, has_sizes
from lianlu.train.rejected import RejectedFile
from lianlu.train.rendering import Way, chunks, rendered
from lianlu.train.tally import JUDGED_AFTER, Tally

FORMAT = 1
FOLDER, STATE, REJECTED = "examples", "state.json", "rejected.jsonl"
TRAIN, HELD_OUT = "train", "held_out"
SERIAL_BYTES = 8_000_000
"""Below this size one process is faster than starting several."""
MAX_WORKERS = 32
COMMIT_S = 2.0
_POLL_S = 0.2
_TOKENIZER_SUFFIXES = (".json", ".jinja", ".model")


@dataclass(frozen=True)
class Wanted:
    """What decides which examples there are."""

    data: tuple[Path, ...]
    format: str
    held_out: float
    way: Way

    @property
    def label(self) -> str:
        """The places as messages name them."""
        return ", ".join(path.name if len(self.data) > 1 else str(path) for path in self.data)


class SftData:
    """Examples to train on and examples held out; `questions` are those of the first held-out ones."""

    def __init__(self, folder: Path, vocab_size: int, tally: Tally) -> None:
        self.train = ExampleFile(folder, TRAIN, vocab_size)
        self.held_out = ExampleFile(folder, HELD_OUT, vocab_size)
        self.questions = tally.questions
        self._tally = tally

    def figures(self) -> dict[str, Any]:
        """What people want to know about the data."""
        return {**self._tally.figures(), "examples": len(self.train), "held_out_examples": len(self.held_out)}


def open_data(wanted: Wanted, tokenizer: Tokenizer, out: Path, work: Path, is_main: bool) -> SftData:
    """The examples of `wanted`, rendered now or found in the folder `work`; rejected records are listed in `out`.

    Raises: DataError if data is missing, not understood, mostly wrong, or leaves nothing to train or to evaluate on.
    """
    found = _found(wanted)
    key = _key(wanted, found)
    if is_main:
        require_abilities(tokenizer, found.sources)
        tally = _Building(wanted, found, key, (work / FOLDER, out / REJECTED)).run(tokenizer)
    else:
        tally = _awaited(work / FOLDER / STATE, key)
    return SftData(work / FOLDER, tokenizer.vocab_size, tally)


def _found(wanted: Wanted) -> Found:
    """The files of all places, one after the other; those of one name are told apart by their folder."""
    found = Found([])
    for path in wanted.data:
        there = find_sources(path, wanted.format, wanted.held_out)
        if {source.name for source in there.sources} & {source.name for source in found.sources}:
            above = path.name if path.is_dir() else path.parent.name
            there.sources = [replace(source, name=f"{above}/{source.name}") for source in there.sources]
        found.sources.extend(there.sources)
        found.left_out.update(there.left_out)
    return found


def drop_data(work: Path) -> None:
    """Remove the rendered examples of a finished run."""
    shutil.rmtree(work / FOLDER, ignore_errors=True)


def _key(wanted: Wanted, found: Found) -> str:
    """A digest of all that decides what the examples are; files by size and time."""
    model = Path(wanted.way.model)
    tokenizer = [path for path in sorted(model.iterdir()) if path.suffix in _TOKENIZER_SUFFIXES] if model.is_dir() else [model]
    files = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in tokenizer]
    for source in found.sources:
        stat = source.path.stat()
        files.append([source.name, source.format, source.part, source.share, stat.st_size, stat.st_mtime_ns])
    return sha256_json([FORMAT, [str(path) for path in wanted.data], wanted.held_out, asdict(wanted.way), files])


def _awaited(path: Path, key: str) -> Tally:
    while (tally := Tally.read(path, key)) is None or not tally.is_done:
        time.sleep(_POLL_S)
    return tally


class _Building:
    """The examples in the making; `run` brings them to their end."""

    def __init__(self, wanted: Wanted, found: Found, key: str, places: tuple[Path, Path]) -> None:
        self._wanted, self._found = wanted, found
        self._folder, self._ledger = places
        self._every = max(round(1 / wanted.held_out), 2)
        tally = Tally.read(self._folder / STATE, key)
        self._tally = tally if tally is not None and self._is_whole(tally) else self._new(key)

    def _is_whole(self, tally: Tally) -> bool:
        listed = tally.sizes.get(REJECTED, {}).get(REJECTED, 0)
        is_listed = not listed or (self._ledger.is_file() and self._ledger.stat().st_size >= listed)
        return is_listed and all(has_sizes(self._folder, name, tally.sizes.get(name, {})) for name in (TRAIN, HELD_OUT))

    def _new(self, key: str) -> Tally:
        with disk_errors(self._folder):
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True, exist_ok=True)
        return Tally(key=key, formats=sorted({source.format for source in self._found.sources}))

    def run(self, tokenizer: Tokenizer) -> Tally:
        """Render what is missing and report."""
        data, tally = self._wanted.label, self._tally
        console.info(f"      {data}: {', '.join(tally.formats)}, {_count(self._found)}")
        for name, why in self._found.left_out.items():
            console.warn(f"{name} is left out: {why}")
        if not tally.is_done:
            num_train, num_held_out = self._render(tokenizer)
            tally.require_mostly_right(data, self._ledger)
            tally.require("training", num_train, data)
            tally.require("held-out", num_held_out, data)
            console.info(f"      {tally.summary(num_train, num_held_out)}")
        if tally.rejected:
            count = tally.wrong + tally.unwanted
            where = f"{REJECTED} of the result lists them"
            console.warn(f"no example from {count:,} of {tally.records:,} records: {tally.reasons()}; {where}")
        return tally

    def _render(self, tokenizer: Tokenizer) -> tuple[int, int]:
        """Render all records after the last commit; returns how many examples there are of each part."""
        sources, sizes = self._found.sources, self._tally.sizes
        size = sum(rough_bytes(path) for path in self._wanted.data)
        workers = min(machine.num_cores(), MAX_WORKERS) if size > SERIAL_BYTES else 1
        work = chunks(sources, self._tally.at)
        with contextlib.ExitStack() as stack:
            bar = stack.enter_context(console.progress("examples", unit="record", done=self._tally.records))
            writers = {
                name: stack.enter_context(ExampleWriter(self._folder, name, tokenizer.vocab_size, sizes.get(name, {})))
                for name in (TRAIN, HELD_OUT)
            }
            ledger = stack.enter_context(RejectedFile(self._ledger, sizes.get(REJECTED, {}).get(REJECTED, 0)))
            if not self._tally.records:
                ledger.add_files(self._found.left_out)
            results = stack.enter_context(contextlib.closing(rendered(sources, work, self._wanted.way, tokenizer, workers)))
            committed = time.monotonic()
            for chunk, outcomes in results:
                for outcome in outcomes:
                    self._take(sources[chunk.source], outcome, writers, ledger)
                self._tally.at = (chunk.source, chunk.records[-1].place)
                bar.advance(len(outcomes), tokens=self._tally.tokens)
                if time.monotonic() - committed > COMMIT_S:
                    self._commit(writers, ledger)
                    committed = time.monotonic()
                if self._tally.records >= JUDGED_AFTER:
                    self._tally.require_mostly_right(self._wanted.label, self._ledger)
            self._tally.is_done = all(writer.num_examples for writer in writers.values())
            self._commit(writers, ledger)
            return writers[TRAIN].num_examples, writers[HELD_OUT].num_examples

    def _take(self, source: Source, outcome: Outcome, writers: dict[str, ExampleWriter], ledger: RejectedFile) -> None:
        part = self._tally.take(source, outcome, self._every)
        if outcome.rejection is not None:
            ledger.add(source, outcome)
        for number, piece in enumerate(outcome.pieces):
            name = f"{outcome.name}, piece {number + 1}" if number else outcome.name
            writers[part].add(piece.ids, piece.mask, name)

    def _commit(self, writers: dict[str, ExampleWriter], ledger: RejectedFile) -> None:
        """Put everything on the disk, and say so."""
        sizes = {name: writer.commit() for name, writer in writers.items()}
        self._tally.sizes = {**sizes, REJECTED: {REJECTED: ledger.commit()}}
        write_json(self._folder / STATE, self._tally.model_dump(mode="json"))


def _count(found: Found) -> str:
    count = len({source.path for source in found.sources})
    return "1 file" if count == 1 else f"{count} files"
