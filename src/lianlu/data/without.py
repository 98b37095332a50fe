"""Files of artifacts written again without some of their documents (used by `forget`).

Every function writes a file, or the files of a chunk, below another folder; what it reads stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lianlu.core.files import atomic_write
from lianlu.data.scores.decisions import DECISIONS
from lianlu.data.scores.scored import DOCUMENTS, SCORED
from lianlu.formats.documents import Document, read_parquet, write_parquet
from lianlu.formats.shard_index import origins, write_index
from lianlu.formats.shards import ShardWriter, open_shard

Rest = Callable[[Document], Document | None]
"""What stays of a document: a shorter one, or nothing."""


def nothing(_: Document) -> None:
    """What stays of a document that goes as a whole."""


def documents_without(source: Path, target: Path, rows: Collection[int], rest: Rest = nothing) -> int:
    """A Parquet file of documents without these rows, or with what stays of them; returns in how many of them something does."""
    meant = set(rows)
    read = enumerate(read_parquet(source))
    left = [(row, found) for row, document in read if (found := rest(document) if row in meant else document) is not None]
    write_parquet(target, [document for _, document in left])
    return sum(row in meant for row, _ in left)


def shard_without(source: Path, target: Path, numbers: Collection[int]) -> None:
    """A shard and its index without these documents."""
    shard, gone = open_shard(source), set(numbers)
    with ShardWriter(target, shard.vocab_size) as writer:
        for number in range(shard.num_documents):
            if number not in gone:
                writer.add(shard.document(number), text_bytes=int(shard.text_bytes[number]))
    write_index(target, (origin for number, origin in enumerate(origins(shard)) if number not in gone))


def chunk_without(source: Path, target: Path, number: int, rows: Sequence[int]) -> None:
    """The scores of chunk `number` without these rows; `source` and `target` are folders of artifacts."""
    base, made = (folder / SCORED / f"{number:05d}" for folder in (source, target))
    documents_without(_with(base, DOCUMENTS), _with(made, DOCUMENTS), rows)
    table_without(_with(base, ".signals.parquet"), _with(made, ".signals.parquet"), rows)
    with np.load(_with(base, ".npz"), allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    kept = _kept(len(arrays["ends"]), rows)
    lengths = np.diff(arrays["ends"], prepend=0)
    shingles = np.load(_with(base, ".shingles.npy"), allow_pickle=False)[np.repeat(kept, lengths)]
    arrays = {name: array[kept] for name, array in arrays.items()} | {"ends": np.cumsum(lengths[kept])}
    with atomic_write(_with(made, ".shingles.npy")) as file:
        np.save(file, shingles, allow_pickle=False)
    with atomic_write(_with(made, ".npz")) as file:
        np.savez(file, **arrays)


def decisions_file(number: int) -> str:
    """Where the decisions about chunk `number` are in an artifact."""
    return f"{DECISIONS}/{number:05d}.parquet"


def table_without(source: Path, target: Path, rows: Sequence[int]) -> None:
    """A Parquet table without these rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(source)
    with atomic_write(target) as file:
        pq.write_table(table.filter(pa.array(_kept(table.num_rows, rows))), file, compression="zstd")


def ledger_without(source: Path, target: Path, names: Collection[str]) -> None:
    """A JSON or JSONL file without the objects about these documents."""
    text = source.read_text(encoding="utf-8")
    with atomic_write(target, "w") as file:
        if source.suffix == ".json":
            json.dump(value_without(json.loads(text), names), file, indent=2, sort_keys=True, ensure_ascii=False)
            file.write("\n")
        else:
            file.writelines(f"{line}\n" for line in text.splitlines() if not is_about(json.loads(line), names))


def mentions(path: Path, names: Collection[str]) -> bool:
    """Whether a JSON or JSONL file has an object about one of these documents."""
    text = path.read_text(encoding="utf-8")
    quoted = [json.dumps(name, ensure_ascii=False) for name in names]
    if not any(name in text for name in quoted):
        return False
    values = [json.loads(text)] if path.suffix == ".json" else map(json.loads, text.splitlines())
    return any(is_about(value, names) or value_without(value, names) != value for value in values)


def is_about(value: Any, names: Collection[str]) -> bool:
    """Whether a JSON value is an object that tells of one of these documents."""
    return isinstance(value, dict) and any(
        value.get(key) in names for key in ("id", "document") if isinstance(value.get(key), str)
    )


def value_without(value: Any, names: Collection[str]) -> Any:
    """A JSON value without the elements of its lists, at any depth, that tell of these documents."""
    if isinstance(value, list):
        return [value_without(own, names) for own in value if not is_about(own, names)]
    if isinstance(value, dict):
        return {key: value_without(own, names) for key, own in value.items()}
    return value


def _with(base: Path, suffix: str) -> Path:
    return base.with_name(base.name + suffix)


def _kept(count: int, rows: Sequence[int]) -> npt.NDArray[np.bool_]:
    kept = np.ones(count, dtype=np.bool_)
    kept[list(rows)] = False
    return kept
