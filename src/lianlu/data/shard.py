"""The shard stage: documents in, token shards out: train.bin and held_out.bin, with the tokenizer's files beside them.

Each document becomes its tokens and an end-of-text token. A stable hash of its id decides whether it is held out, another
one (with the seed) its place. Files are tokenised one by one into `.resume/`, which a killed stage finds again; then the
documents are copied into their order from a memory map, so that memory does not grow with the text.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from pydantic import Field

from lianlu.core import console
from lianlu.core.config import Config, Documents, TokenizerDir
from lianlu.core.errors import DataError
from lianlu.core.files import write_json
from lianlu.core.stage import Estimate
from lianlu.core.store import Output
from lianlu.formats.documents import Document, document_files, read_documents
from lianlu.formats.shards import ShardWriter, TokenShard, open_shard
from lianlu.tokenizer.tokenizer import END_OF_TEXT, Tokenizer

RESUME = ".resume"
TRAIN, HELD_OUT = "train.bin", "held_out.bin"
_BATCH_CHARS = 1_000_000
_BYTES_PER_S = 3e6


class ShardConfig(Config):
    """Which documents become tokens, and how many are held out."""

    data: Documents | tuple[Documents, ...]
    """Documents, as the clean stage makes them: one folder, or several."""
    tokenizer: TokenizerDir
    """The tokenizer, or a checkpoint that has one."""
    held_out: float = Field(0.05, ge=0, lt=1)
    """Share of documents that are never trained on."""
    seed: int = 0
    """Decides the order of documents, not which are held out."""


def estimate(config: ShardConfig) -> Estimate:
    """Seconds and memory from the size of the documents; 12 MB of text are assumed where they do not exist yet."""
    there = [path for path in _folders(config) if path.exists()]
    packed = sum(file.stat().st_size for path in there for file in document_files(path)) or 3_000_000
    return Estimate(4 * packed / _BYTES_PER_S + 2, 500_000_000, f"{4 * packed / 1e6:.0f} MB of text at 3 MB/s")


def run(config: ShardConfig, out: Output) -> None:
    """Tokenise documents into `out`. Raises: DataError if there are none, or the tokenizer has no end-of-text token."""
    tokenizer = Tokenizer.load(config.tokenizer)
    end = end_of_text(tokenizer)
    files = [file for path in _folders(config) for file in document_files(path)]
    started = time.monotonic()
    parts = [_tokenised(file, tokenizer, end, out.path / RESUME / f"{number:05d}.bin") for number, file in enumerate(files)]
    order, held = _arranged(parts, config)
    _write(out.path / TRAIN, parts, order[~held], tokenizer.vocab_size)
    _write(out.path / HELD_OUT, parts, order[held], tokenizer.vocab_size)
    tokenizer.save(out.path)
    out.figures.update(_figures(open_shard(out.path / TRAIN), open_shard(out.path / HELD_OUT)))
    out.figures["tokens_per_s"] = round(out.figures["tokens"] / max(time.monotonic() - started, 1e-9))
    shutil.rmtree(out.path / RESUME)


def end_of_text(tokenizer: Tokenizer) -> int:
    """The id of the token that ends a document. Raises: DataError if the vocabulary has none."""
    if tokenizer.end_of_text is None:
        raise DataError("the tokenizer has no end-of-text token", hint=f"it needs one of {', '.join(END_OF_TEXT)}")
    return tokenizer.end_of_text


def _folders(config: ShardConfig) -> list[Path]:
    return [Path(path) for path in ((config.data,) if isinstance(config.data, str) else config.data)]


@dataclass(frozen=True)
class _Part:
    """The tokens of one file of documents, and two hashes of each document's id: for the split and for the order."""

    shard: TokenShard
    ids: list[str]


def _tokenised(file: Path, tokenizer: Tokenizer, end: int, target: Path) -> _Part:
    """Tokenise one file, or find it done."""
    names = target.with_suffix(".json")
    if not names.exists():
        ids: list[str] = []
        with console.progress("shard", unit="document") as bar, ShardWriter(target, tokenizer.vocab_size) as shard:
            for batch in _batches(read_documents(file)):
                encoded = tokenizer.encode_batch([document.text for document in batch])
                for document, tokens in zip(batch, encoded, strict=True):
                    shard.add([*tokens, end], text_bytes=len(document.text.encode("utf-8", "replace")))
                    ids.append(document.id)
                bar.advance(len(batch), tokens=shard.num_tokens)
        write_json(names, ids)
    return _Part(open_shard(target), _read_ids(names))


def _read_ids(path: Path) -> list[str]:
    import json

    return [str(name) for name in json.loads(path.read_text(encoding="utf-8"))]


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _arranged(parts: list[_Part], config: ShardConfig) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Places of all documents in their new order, and which of them are held out.

    Raises: DataError if nothing is left to train on.
    """
    ids = list(chain.from_iterable(part.ids for part in parts))
    split = _hashes(ids, "split")
    held = split < np.uint64(int(config.held_out * 2**64))
    if config.held_out and len(ids) > 1 and not held.any():
        held[int(np.argmin(split))] = True
    if held.all():
        raise DataError(f"of {len(ids)} documents none is left for training", hint="give more documents, or a smaller held_out")
    order = np.argsort(_hashes(ids, f"order {config.seed}"), kind="stable")
    return order, held[order]


def _hashes(ids: list[str], purpose: str) -> npt.NDArray[np.uint64]:
    return np.array([xxhash.xxh3_64_intdigest(f"{purpose}\0{name}".encode("utf-8", "replace")) for name in ids], dtype=np.uint64)


def _write(target: Path, parts: list[_Part], places: npt.NDArray[np.int64], vocab_size: int) -> None:
    starts = np.cumsum([0] + [len(part.ids) for part in parts])
    with ShardWriter(target, vocab_size) as shard:
        for place in places.tolist():
            number = int(np.searchsorted(starts, place, side="right")) - 1
            part, index = parts[number].shard, place - int(starts[number])
            shard.add(part.document(index), text_bytes=int(part.text_bytes[index]))


def _figures(train: TokenShard, held_out: TokenShard) -> dict[str, Any]:
    text_bytes = int(train.text_bytes.sum()) + int(held_out.text_bytes.sum())
    tokens = train.num_tokens + held_out.num_tokens
    return {
        "tokens": tokens,
        "train_tokens": train.num_tokens,
        "held_out_tokens": held_out.num_tokens,
        "train_documents": train.num_documents,
        "held_out_documents": held_out.num_documents,
        "text_bytes": text_bytes,
        "bytes_per_token": round(text_bytes / max(tokens - train.num_documents - held_out.num_documents, 1), 4),
        "vocab_size": train.vocab_size,
    }
