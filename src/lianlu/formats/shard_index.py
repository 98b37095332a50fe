"""From tokens of a shard back to documents: `train.documents.parquet` beside `train.bin`.

A row for each document of the shard, in its order: id, url, source, quality tier and sampling weight (format 1 had neither of the
last two). A document that was taken several times has as many rows.
Parquet, so that any tool can read it; a look-up by token reads one row group, one by id reads one column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lianlu.core.errors import DataError
from lianlu.core.files import atomic_write
from lianlu.formats.shards import TokenShard

FORMAT = 2
KIND = "shard-index"
SUFFIX = ".documents.parquet"
ROWS_PER_GROUP = 10_000
NAMES = ("id", "url", "source", "tier")
COLUMNS = (*NAMES, "weight")


@dataclass(frozen=True, slots=True)
class Origin:
    """The document that tokens come from; `tier` is its quality (high, moderate, low; empty: none was given)."""

    id: str
    url: str = ""
    source: str = ""
    tier: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Located:
    """A document at its place in a shard: its number, and the tokens that are its own."""

    number: int
    origin: Origin
    tokens: range


def index_path(shard: Path) -> Path:
    """Where the index of a shard is."""
    return shard.with_name(shard.stem + SUFFIX)


def write_index(shard: Path, origins: Iterable[Origin]) -> None:
    """Write the index of the shard at this path. Equal input gives equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stamp = {"lianlu": KIND, "format": str(FORMAT)}
    types = [(name, pa.large_string()) for name in NAMES]
    schema = pa.schema([*types, ("weight", pa.float64())], metadata=stamp)
    rows = iter(origins)
    with atomic_write(index_path(shard)) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while group := list(islice(rows, ROWS_PER_GROUP)):
            columns = {name: [getattr(origin, name) for origin in group] for name in COLUMNS}
            writer.write_table(pa.table(columns, schema=schema))


def document_at(shard: TokenShard, token: int) -> Located:
    """The document that token number `token` of a shard belongs to. Raises: DataError if there is no such token or no index."""
    return documents_in(shard, range(token, token + 1))[0]


def documents_in(shard: TokenShard, tokens: range) -> list[Located]:
    """The documents that a range of tokens touches, in order. Raises: DataError if a token is not there, or no index."""
    if not 0 <= tokens.start < tokens.stop <= shard.num_tokens:
        wrong = tokens.start if not 0 <= tokens.start < shard.num_tokens else tokens.stop - 1
        raise DataError(f"{shard.path} has no token {wrong:,}", hint=f"it has {shard.num_tokens:,}, counted from 0")
    first, last = (int(np.searchsorted(shard.offsets, token, side="right")) - 1 for token in (tokens.start, tokens.stop - 1))
    first_group, last_group = first // ROWS_PER_GROUP, last // ROWS_PER_GROUP
    with _open(shard) as file:
        rows = [row for group in range(first_group, last_group + 1) for row in _rows(file, group)]
    base = first_group * ROWS_PER_GROUP
    found = (Located(number, rows[number - base], _tokens(shard, number)) for number in range(first, last + 1))
    return [located for located in found if located.tokens]


def range_of(shard: TokenShard, name: str) -> list[range]:
    """The tokens of the document with this id, one range for each time it was taken. Raises: DataError without an index."""
    return [_tokens(shard, number) for number in numbers_of(shard, [name])]


def numbers_of(shard: TokenShard, names: Sequence[str], column: str = "id") -> list[int]:
    """The numbers of the documents whose id, url or source is one of these, in order. Raises: DataError without an index."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted, found, start = pa.array(list(names), pa.large_string()), list[int](), 0
    with _open(shard) as file:
        for group in range(file.num_row_groups):
            own = file.read_row_group(group, columns=[column])[column]
            found += (np.flatnonzero(pc.is_in(own, value_set=wanted).to_numpy()) + start).tolist()
            start += len(own)
    return found


def tiers(shard: TokenShard) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """A number for each document, and the tier that each number means. Raises: DataError without an index.

    At most 255 tiers; memory is a byte a document.
    """
    names: dict[str, int] = {}
    found: list[npt.NDArray[np.uint8]] = []
    with _open(shard) as file:
        for group in range(file.num_row_groups if "tier" in file.schema_arrow.names else 0):
            column = file.read_row_group(group, columns=["tier"])["tier"].combine_chunks().dictionary_encode()
            known = [names.setdefault(name, len(names)) for name in column.dictionary.to_pylist()]
            if len(names) > 255:
                raise DataError(f"{shard.path} has over 255 tiers", hint="meta.tier is one of a few words such as high and low")
            found.append(np.array(known, dtype=np.uint8)[column.indices.to_numpy()])
    return (np.concatenate(found), list(names)) if found else (np.zeros(shard.num_documents, np.uint8), [""])


def origins(shard: TokenShard) -> Iterator[Origin]:
    """The origins of all documents, in order. Raises: DataError without an index."""
    with _open(shard) as file:
        for group in range(file.num_row_groups):
            yield from _rows(file, group)


def _tokens(shard: TokenShard, number: int) -> range:
    return range(int(shard.offsets[number]), int(shard.offsets[number + 1]))


def _rows(file: Any, group: int) -> list[Origin]:
    table = file.read_row_group(group)
    there = [name for name in COLUMNS if name in table.column_names]
    return [Origin(*row) for row in zip(*(table[name].to_pylist() for name in there), strict=True)]


def _open(shard: TokenShard) -> Any:
    """The index of a shard. Raises: DataError if it is missing, damaged or of another shard."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = index_path(shard.path)
    again = "run the shard stage again: it writes the index beside the shard"
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise DataError(f"{shard.path} has no index", hint=again) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is not a whole Parquet file", hint=again) from error
    stamp = file.schema_arrow.metadata or {}
    readable = {str(number).encode() for number in range(1, FORMAT + 1)}
    if stamp.get(b"lianlu") != KIND.encode() or stamp.get(b"format") not in readable:
        file.close()
        raise DataError(f"{path} is no index of a shard that this lianlu reads", hint="upgrade lianlu, or " + again)
    if file.metadata.num_rows != shard.num_documents:
        count = file.metadata.num_rows
        file.close()
        raise DataError(f"{path} names {count:,} documents, the shard has {shard.num_documents:,}", hint=again)
    return file
