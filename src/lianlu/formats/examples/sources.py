"""The files that training data consists of, each with its format and its part: training, held out, or to be divided.

A folder with train.jsonl and held_out.jsonl brings its own division; so does nothing else. In any other folder all files
are taken, in sorted order, each in its own format: those of records, or where there are none the texts. Files that are not
understood are left out with a reason, as long as others are. A single text is divided at its end, since it is one document.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from lianlu.core.errors import DataError
from lianlu.formats.documents import Document
from lianlu.formats.examples import files
from lianlu.formats.examples.recognise import FORMATS, known_suffixes, recognise
from lianlu.formats.examples.record import Raw, parsed
from lianlu.formats.messages import Conversation

Part = Literal["train", "held_out", ""]
AUTO, TEXT = "auto", "text"
TRAIN, HELD_OUT = "train.jsonl", "held_out.jsonl"
NOT_DATA = ("rejected.jsonl", "manifest.json", "funnel.json", "dataset_info.json", "dataset_infos.json", "state.json")
UNPACKED = {".gz": 3.0, ".zst": 3.0, ".parquet": 3.0}


@dataclass(frozen=True)
class Source:
    """A file of training data. `name` is relative to the folder it was found in; `share` is the stretch of a text."""

    path: Path
    name: str
    format: str
    part: Part = ""
    share: tuple[float, float] = (0.0, 1.0)
    by_line: bool = False

    def where(self, place: int) -> str:
        """How a record is called in reports: `a.jsonl:17` by line, `a.json[17]` by index, a text by its name."""
        if files.is_text(self.path):
            return self.name
        return f"{self.name}:{place}" if self.by_line else f"{self.name}[{place}]"

    def read(self) -> Iterator[Raw]:
        """Its records as they stand in the file. Raises: DataError when it cannot be opened."""
        whole = self.share == (0.0, 1.0)
        return files.read_raw(self.path) if whole else files.read_text(self.path, *self.share)

    def convert(self, raw: Raw) -> Conversation | Document:
        """A record as what is trained on; it is named by its place if it has no name. Raises: RecordError."""
        return FORMATS[self.format].convert(parsed(raw), self.where(raw.place))


@dataclass
class Found:
    """What training data consists of, and why files were left out, by name."""

    sources: list[Source]
    left_out: dict[str, str] = field(default_factory=dict)


def find_sources(data: Path, format_name: str = AUTO, held_out: float = 0.05) -> Found:
    """The files at `data`, a file or a folder; `format_name` decides for all of them unless it is "auto".

    Raises: DataError if there is nothing, or a file (in a folder: every file) is not understood.
    """
    if not data.exists():
        raise DataError(f"there is no {data}", hint="check the path")
    if data.is_file():
        return Found(_one(data, format_name, held_out))
    if (data / TRAIN).is_file() and (data / HELD_OUT).is_file():
        parts: tuple[tuple[str, Part], ...] = ((TRAIN, "train"), (HELD_OUT, "held_out"))
        return Found([_source(data / name, name, format_name, part) for name, part in parts])
    return _folder(data, format_name, held_out)


def rough_bytes(data: Path) -> int:
    """About how many bytes of records to train on there are at `data`, unpacked; 0 if nothing is there."""
    paths = [data] if data.is_file() else list(_listed(data))
    if data / TRAIN in paths and data / HELD_OUT in paths:
        paths = [data / TRAIN]
    sizes = (path.stat().st_size * UNPACKED.get(path.suffix.lower(), 1.0) for path in paths if path.is_file())
    return int(sum(sizes))


def _one(path: Path, format_name: str, held_out: float) -> list[Source]:
    """A file; a text as two stretches, so that its end is held out."""
    found = _source(path, path.name, format_name)
    if not files.is_text(path):
        return [found]
    head, tail = (0.0, 1 - held_out), (1 - held_out, 1.0)
    return [replace(found, part="train", share=head), replace(found, part="held_out", share=tail)]


def _source(path: Path, name: str, format_name: str, part: Part = "") -> Source:
    return Source(path, name, _format(path, format_name), part, by_line=files.counts_lines(path))


def _format(path: Path, format_name: str) -> str:
    if format_name == AUTO:
        return recognise(path).name
    if files.is_text(path) and format_name != TEXT:
        raise DataError(f"{path} is plain text, not {format_name}", hint=f'leave format="{format_name}" out, or name it .jsonl')
    return format_name


def _folder(data: Path, format_name: str, held_out: float) -> Found:
    listed = list(_listed(data))
    records = [path for path in listed if files.is_records(path)]
    texts = [path for path in listed if files.is_text(path)]
    chosen = records or texts
    if not chosen:
        raise DataError(f"{data} holds no training data", hint=f"understood are files named {', '.join(known_suffixes())}")
    found = Found([])
    for path in listed:
        name = path.relative_to(data).as_posix()
        if path not in chosen:
            why = "a text beside files of records" if path in texts else "of no known kind"
            found.left_out[name] = why
            continue
        try:
            found.sources.append(_source(path, name, format_name))
        except DataError as error:
            if len(chosen) == 1:
                raise
            found.left_out[name] = error.message
    if not found.sources:
        raise recognition_error(data, found.left_out)
    if [source.path for source in found.sources] == texts[:1]:
        found.sources = _one(texts[0], format_name, held_out)
    return found


def recognition_error(data: Path, left_out: dict[str, str]) -> DataError:
    """Nothing in a folder is understood: why not, for the first files."""
    reasons = "\n".join(f"  {why}" for why in list(left_out.values())[:3])
    return DataError(f"no file in {data} is understood:\n{reasons}", hint='name the format, for example format="alpaca"')


def _listed(data: Path) -> Iterator[Path]:
    """Every file below a folder in sorted order, without hidden ones and those that are about the data."""
    for root, folders, names in os.walk(data):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name not in NOT_DATA and Path(root, name).is_file():
                yield Path(root, name)
