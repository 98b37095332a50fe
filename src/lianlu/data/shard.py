"""The shard stage: documents in, token shards out: train.bin and held_out.bin, with the tokenizer's files beside them.

Each document becomes its tokens and an end-of-text token. A stable hash of its id decides whether it is held out, another
one (with the seed) its place. Files are tokenised one by one into `.resume/`, which a killed stage finds again; then the
documents are copied into their order from a memory map, so that memory does not grow with the text. Beside each shard lies
an index from its tokens to documents (`formats.shard_index`).
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

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
from lianlu.data.pack_rates import pack_rates
from lianlu.formats.documents import Document, document_files, read_documents
from lianlu.formats.shard_index import Origin, write_index
from lianlu.formats.shards import ShardWriter, TokenShard, open_shard
from lianlu.tokenizer.tokenizer import END_OF_TEXT, Tokenizer

RESUME = ".resume"
TRAIN, HELD_OUT = "train.bin", "held_out.bin"
Longs = npt.NDArray[np.int64]
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
    weighted: bool = False
    """Take a document meta.weight times: 0 leaves it out, 1.5 takes every second one twice; held-out ones are never repeated.

    The other way is `tiers` of the pretrain stage, by meta.tier: it repeats nothing on disk. Both together count twice.
    """
    max_weight: float = Field(4.0, gt=0)
    """Cap on weights: beyond four times, text teaches clearly less than new text would (arXiv 2305.16264)."""
    sequence_lengths: tuple[Annotated[int, Field(gt=0)], ...] = (2048, 8192)
    """Lengths for which crop and pad rates are told; they change nothing in the shards."""


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
    train = open_shard(out.path / TRAIN)
    out.figures.update(_figures(train, open_shard(out.path / HELD_OUT)))
    if config.weighted:
        out.figures["documents_left_out"] = sum(len(part.origins) for part in parts) - len(np.unique(order))
    out.figures["packing"] = _packing(train, config.sequence_lengths)
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
    """The tokens of one file of documents, where each document comes from, and its weight as it says itself."""

    shard: TokenShard
    origins: list[Origin]
    weights: list[Any]


def _tokenised(file: Path, tokenizer: Tokenizer, end: int, target: Path) -> _Part:
    """Tokenise one file, or find it done."""
    done = target.with_suffix(".json")
    if not done.exists():
        rows: list[list[Any]] = []
        with console.progress("shard", unit="document") as bar, ShardWriter(target, tokenizer.vocab_size) as shard:
            for batch in _batches(read_documents(file)):
                encoded = tokenizer.encode_batch([document.text for document in batch])
                for document, tokens in zip(batch, encoded, strict=True):
                    shard.add([*tokens, end], text_bytes=len(document.text.encode("utf-8", "replace")))
                    names = [document.id, document.url, document.source, str(document.meta.get("tier") or "")]
                    rows.append([*names, document.meta.get("weight", 1)])
                bar.advance(len(batch), tokens=shard.num_tokens)
        write_json(done, rows)
    found = json.loads(done.read_text(encoding="utf-8"))
    weights = [row[4] for row in found]
    own = [float(weight) if _is_weight(weight) else 1.0 for weight in weights]
    return _Part(
        open_shard(target),
        [Origin(row[0], row[1], row[2], row[3], weight) for row, weight in zip(found, own, strict=True)],
        weights,
    )


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


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


def _arranged(parts: list[_Part], config: ShardConfig) -> tuple[Longs, npt.NDArray[np.bool_]]:
    """Places of all documents in their new order, repeated ones as often as they are taken, and which are held out.

    Raises: DataError if nothing is left to train on, or a weight is not a number from 0 on.
    """
    ids = [origin.id for part in parts for origin in part.origins]
    copies = _copies(parts, ids, config) if config.weighted else np.ones(len(ids), dtype=np.int64)
    taken = np.flatnonzero(copies)
    split = _hashes(ids, "split")
    held = split < np.uint64(int(config.held_out * 2**64))
    if config.held_out and len(taken) > 1 and not held[taken].any():
        held[taken[np.argmin(split[taken])]] = True
    if held[taken].all():
        raise DataError(f"of {len(ids)} documents none is left for training", hint="give more documents, or a smaller held_out")
    copies[held] = np.minimum(copies[held], 1)
    rounds = [np.flatnonzero(copies > number) for number in range(int(copies.max()))]
    purposes = [f"order {config.seed}" + (f" {number}" if number else "") for number in range(len(rounds))]
    keys = [_hashes([ids[place] for place in own], purpose) for own, purpose in zip(rounds, purposes, strict=True)]
    places: Longs = np.concatenate(rounds)[np.argsort(np.concatenate(keys), kind="stable")]
    return places, held[places]


def _copies(parts: list[_Part], ids: list[str], config: ShardConfig) -> Longs:
    """How often each document is taken: the whole part of its weight, and once more by a hash of its id for the rest."""
    given = list(chain.from_iterable(part.weights for part in parts))
    for name, weight in zip(ids, given, strict=True):
        if not _is_weight(weight):
            raise DataError(f"document {name} has weight {weight!r}", hint="meta.weight is a number from 0 on")
    weights = np.minimum(np.array(given, dtype=np.float64), config.max_weight)
    whole = np.floor(weights)
    copies: Longs = (whole + (_hashes(ids, "weight") / 2.0**64 < weights - whole)).astype(np.int64)
    return copies


def _hashes(ids: list[str], purpose: str) -> npt.NDArray[np.uint64]:
    return np.array([xxhash.xxh3_64_intdigest(f"{purpose}\0{name}".encode("utf-8", "replace")) for name in ids], dtype=np.uint64)


def _write(target: Path, parts: list[_Part], places: Longs, vocab_size: int) -> None:
    starts = np.cumsum([0] + [len(part.origins) for part in parts])
    numbers = np.searchsorted(starts, places, side="right") - 1
    found = list(zip(numbers.tolist(), (places - starts[numbers]).tolist(), strict=True))
    with ShardWriter(target, vocab_size) as shard:
        for number, index in found:
            part = parts[number].shard
            shard.add(part.document(index), text_bytes=int(part.text_bytes[index]))
    write_index(target, (parts[number].origins[index] for number, index in found))


def _packing(train: TokenShard, sequence_lengths: Iterable[int]) -> dict[str, Any]:
    """Crop and pad rates for some sequence lengths; they are also told."""
    lengths = np.diff(train.offsets)
    rates = {str(length): pack_rates(lengths, length) for length in sequence_lengths}
    for length, rate in rates.items():
        cropped = f"{rate.cropped_tokens:.1%} of tokens cropped, in {rate.cropped_documents:.1%} of documents"
        console.info(f"      sequences of {length} tokens: {cropped}; {rate.padded:.2%} padding by best fit")
    return {length: {key: round(value, 6) for key, value in asdict(rate).items()} for length, rate in rates.items()}


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
