"""Which format a file of training data has, told by its first records.

    preference                        has chosen and rejected answers
    sharegpt openai xtuner            has a list of turns
    alpaca pairs                      has fields for question and answer
    text                              has only text
    conversations                     begins with the header line of lianlu

A record is of the first row it fits; one that fits two formats of a row is ambiguous. The file is of the format that most
of its first records have; the others are wrong records then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from lianlu.core.errors import DataError
from lianlu.formats.documents import Document
from lianlu.formats.examples import alpaca, files, openai, ours, pairs, preference, sharegpt, text, xtuner
from lianlu.formats.examples.record import RecordError, parsed
from lianlu.formats.messages import Conversation

FormatName = Literal["auto", "alpaca", "sharegpt", "openai", "conversations", "pairs", "preference", "xtuner", "text"]
NUM_LOOKED_AT = 100
MAX_LOOKED_AT_CHARS = 16_000_000
_SHOWN_KEYS = 12


@dataclass(frozen=True)
class Format:
    """A way to write training data: its name, an example of a record, and how one becomes a conversation or a document."""

    name: str
    shape: str
    matches: Callable[[Mapping[str, Any]], bool]
    convert: Callable[[Mapping[str, Any], str], Conversation | Document]


_ROWS = ((preference,), (sharegpt, openai, xtuner), (alpaca, pairs), (text,), (ours,))
ROWS = tuple(tuple(Format(kind.NAME, kind.SHAPE, kind.matches, kind.convert) for kind in row) for row in _ROWS)
FORMATS = {kind.name: kind for row in ROWS for kind in row}


def recognise(path: Path) -> Format:
    """The format of a file. Raises: DataError that shows what was found if it is none or not only one of them."""
    if files.is_text(path):
        return FORMATS[text.NAME]
    if not files.is_records(path):
        raise DataError(f"{path} is of no kind that is understood", hint=f"known: {', '.join(known_suffixes())}")
    if kind := files.header_kind(path):
        return FORMATS[text.NAME if kind == "documents" else ours.NAME]
    votes: Counter[tuple[str, ...]] = Counter()
    keys: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for raw in _first(path):
        try:
            record = parsed(raw)
        except RecordError as error:
            reasons[error.message] += 1
            continue
        keys.update(map(str, record))
        votes[formats_of(record)] += 1
    known = Counter({names: count for names, count in votes.items() if names})
    if not known:
        raise _unknown(path, keys, reasons)
    names, count = known.most_common(1)[0]
    if len(names) > 1 or 2 * count <= known.total():
        raise _ambiguous(path, known, keys)
    return FORMATS[names[0]]


def formats_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the formats that a record may have."""
    for row in ROWS:
        if found := tuple(kind.name for kind in row if kind.matches(record)):
            return found
    return ()


def known_suffixes() -> list[str]:
    """Names of files that are understood end like this."""
    packed = [end + pack for end in files.JSON_SUFFIXES for pack in files.PACKED]
    return [*files.JSON_SUFFIXES, *packed, ".parquet", *files.TEXT_SUFFIXES]


def _first(path: Path) -> Iterator[Any]:
    """The first records, fewer of them where they are huge."""
    left = MAX_LOOKED_AT_CHARS
    for raw in islice(files.read_raw(path), NUM_LOOKED_AT):
        yield raw
        left -= len(raw.data)
        if left < 0:
            return


def _unknown(path: Path, keys: Counter[str], reasons: Counter[str]) -> DataError:
    if keys:
        what = f"cannot tell the format of {path}: its records have the fields {_shown(keys)}"
    elif reasons:
        what = f"{path} has no record that can be read: {reasons.most_common(1)[0][0]}"
    else:
        what = f"{path} holds no records"
    return DataError(what, hint="understood are:\n" + shapes())


def _ambiguous(path: Path, votes: Counter[tuple[str, ...]], keys: Counter[str]) -> DataError:
    found = ", ".join(f"{' or '.join(names)} ({count} of the first {votes.total()})" for names, count in votes.most_common(3))
    hint = 'say which one is meant, for example format="alpaca"; understood are:\n' + shapes()
    return DataError(f"the format of {path} is ambiguous: {found}; its records have the fields {_shown(keys)}", hint=hint)


def shapes() -> str:
    """One line for each format: its name and a record."""
    return "\n".join(f"  {kind.name:<14} {kind.shape}" for kind in FORMATS.values())


def _shown(keys: Counter[str]) -> str:
    names = [key[:40] for key, _ in keys.most_common()]
    return ", ".join(names[:_SHOWN_KEYS]) + (f" and {len(names) - _SHOWN_KEYS} more" if len(names) > _SHOWN_KEYS else "")
