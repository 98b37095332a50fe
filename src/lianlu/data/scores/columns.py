"""Columns of scored and of decided documents, read from disk chunk by chunk; nobody opens texts or arrays for a count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lianlu.core.errors import DataError
from lianlu.data.scores.decisions import DECISIONS
from lianlu.data.scores.scored import DOCUMENTS


def num_chunks(scored: Path) -> int:
    """How many chunks there are."""
    return len(list(scored.glob(f"*{DOCUMENTS}")))


def document_columns(scored: Path, number: int, *names: str) -> list[list[Any]]:
    """Columns of the documents of a chunk, as lists. Raises: DataError if the chunk is damaged or gone."""
    return columns_of(scored / f"{number:05d}{DOCUMENTS}", *names)


def decision_columns(artifact: Path, number: int, *names: str) -> list[list[Any]]:
    """Columns of the decisions about a chunk, as lists, in the order of its documents. Raises: DataError."""
    return columns_of(artifact / DECISIONS / f"{number:05d}.parquet", *names)


def columns_of(path: Path, *names: str) -> list[list[Any]]:
    """Columns of a Parquet file, as lists. Raises: DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            table = file.read(columns=list(names), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="run the clean step again, so that it is made anew") from error
    return [table[name].to_pylist() for name in names]
