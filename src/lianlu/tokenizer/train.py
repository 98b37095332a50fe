"""Stage `tokenizer`: documents in, a byte-level BPE vocabulary out, by the `tokenizers` library.

Text is first split by a pattern of the GPT-4 kind: words with the mark or space before them, numbers into groups of a few
digits, runs of punctuation, line ends, spaces. Merges never cross these pieces. All 256 bytes are in the vocabulary, so
every text can be written and read back. One document in fifty is kept out of the training and measured: bytes of UTF-8
per token, over all and by domain, is what the vocabulary saves.

The artifact holds tokenizer.json, tokenizer_config.json and the built-in ChatML template; transformers loads it. Equal
documents and equal configuration give equal bytes. Limit: all distinct pieces are held in memory while training, about
20 bytes per byte of English or code and 100 per byte of Chinese, which has no spaces; of larger collections a random part
of `max_train_bytes` is read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import xxhash
from pydantic import Field
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from lianlu.core import console
from lianlu.core.config import Config, Documents
from lianlu.core.errors import DataError
from lianlu.core.files import files_below
from lianlu.core.stage import Estimate
from lianlu.core.store import Output
from lianlu.formats.documents import Document, read_documents
from lianlu.tokenizer.backend import Loaded
from lianlu.tokenizer.chat import builtin
from lianlu.tokenizer.fast import FastBackend
from lianlu.tokenizer.tokenizer import Tokenizer

END, BEGIN, TURN, END_TURN, PAD = "<|endoftext|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
CONTROL = (END, BEGIN, TURN, END_TURN, PAD)
TOOL_TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
MEASURED_ONE_IN = 50
MAX_MEASURED_BYTES = 8_000_000
BYTES_PER_SECOND = 2_000_000
MEMORY_BASE, MEMORY_PER_BYTE = 150_000_000, 20


class TokenizerConfig(Config):
    """Train a byte-level BPE tokenizer."""

    data: Documents | tuple[Documents, ...]
    """The documents to learn from: one folder, or several."""
    vocab_size: int = Field(8192, ge=512, le=1_000_000)
    """Tokens, control tokens included; fewer if the text does not yield as many."""
    min_frequency: int = Field(2, ge=1)
    """A pair is merged only if it occurs this often."""
    max_digits: int = Field(1, ge=1, le=3)
    """Digits in one token: 1 suits small vocabularies and arithmetic, 3 is what GPT-4 and InternLM2 do."""
    max_token_bytes: int = Field(32, ge=4, le=1024)
    """No token is longer; keeps rulers and boilerplate out of the vocabulary."""
    max_train_bytes: int = Field(100_000_000, ge=1000)
    """Of more text than this, a random part of this size is read."""
    extra_tokens: tuple[str, ...] = ()
    """Further control tokens, after the built-in ones."""


def estimate(config: TokenizerConfig) -> Estimate:
    """Time and memory by the size of the files."""
    files = [file for path in _folders(config) for file in (files_below(path) if path.is_dir() else [path]) if file.is_file()]
    packed = 3 * sum(path.stat().st_size for path in files)
    size = min(packed, config.max_train_bytes)
    return Estimate(
        5 + size / BYTES_PER_SECOND,
        MEMORY_BASE + size * MEMORY_PER_BYTE,
        "about 2 MB of text a second, packed files x 3; five times the memory for Chinese",
    )


def run(config: TokenizerConfig, out: Output) -> None:
    """Train, measure and write a tokenizer. Raises: DataError if there is no text to learn from."""
    source = _folders(config)
    total, count = _size(source)
    if not total:
        shown = ", ".join(map(str, source))
        raise DataError(
            f"{shown} holds no text to learn a vocabulary from", hint="look at the funnel of the clean step: what was dropped?"
        )
    share = min(1.0, config.max_train_bytes / total)
    console.info(f"learning a vocabulary of {config.vocab_size:,} tokens from {console.format_bytes(total * share)} of text")
    tokenizer = Tokenizer(_loaded(_train(config, source, share, total)))
    tokenizer.save(out.path)
    out.figures |= {
        "vocab_size": tokenizer.vocab_size,
        "num_documents": count,
        "text_bytes": total,
        **_measure(tokenizer, source),
    }
    if tokenizer.vocab_size < config.vocab_size:
        console.warn(f"the text yields only {tokenizer.vocab_size:,} of {config.vocab_size:,} tokens")


def split_pattern(max_digits: int) -> str:
    """The pattern of pieces that merges do not cross; `max_digits` is 1 to 3."""
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+"
    return words + rf"|\p{{N}}{{1,{max_digits}}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _folders(config: TokenizerConfig) -> list[Path]:
    return [Path(path) for path in ((config.data,) if isinstance(config.data, str) else config.data)]


def _documents(source: Sequence[Path]) -> Iterator[Document]:
    return chain.from_iterable(map(read_documents, source))


def _size(source: Sequence[Path]) -> tuple[int, int]:
    """Bytes of all texts, and how many documents there are."""
    total = count = 0
    for document in _documents(source):
        total += len(document.text.encode())
        count += 1
    return total, count


def _place(document: Document) -> int:
    """A number below 2^64 from a document's id alone: the same document falls the same way wherever it stands."""
    return xxhash.xxh64_intdigest(document.id.encode())


def _is_measured(document: Document) -> bool:
    return _place(document) % MEASURED_ONE_IN == 0


def _train(config: TokenizerConfig, source: Sequence[Path], share: float, total: int) -> Library:
    specials = list(dict.fromkeys([*CONTROL, *TOOL_TAGS, *config.extra_tokens]))
    library = Library(models.BPE())
    pieces = pre_tokenizers.Split(Regex(split_pattern(config.max_digits)), "isolated")
    library.pre_tokenizer = pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=config.max_token_bytes,
        show_progress=False,
    )
    library.train_from_iterator(_batches(source, share, total), trainer)
    return _with_open_tags(library)


def _batches(source: Sequence[Path], share: float, total: int) -> Iterator[list[str]]:
    """The texts to learn from, with progress; falls back to all of them where a handful would leave nothing."""
    documents = (d for d in _documents(source) if not _is_measured(d) and _place(d) < share * 2**64)
    first = list(islice(documents, 64)) or list(islice(_documents(source), 64))
    with console.progress("tokenizer", total=total * share / 1e6, unit="MB") as bar:
        while first:
            yield [document.text for document in first]
            bar.advance(sum(len(document.text.encode()) for document in first) / 1e6)
            first = list(islice(documents, 64))


def _with_open_tags(library: Library) -> Library:
    """The tags of tool calls as ordinary added tokens, so that a decoder that leaves out control tokens keeps them."""
    table = json.loads(library.to_str())
    for token in table["added_tokens"]:
        token["special"] = token["content"] not in TOOL_TAGS
    return Library.from_str(json.dumps(table))


def _loaded(library: Library) -> Loaded:
    config = {
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "add_bos_token": False,
        "model_max_length": 1_000_000,
    }
    return Loaded("the new tokenizer", FastBackend(library), config, {"default": builtin("chatml")})


def _measure(tokenizer: Tokenizer, source: Sequence[Path]) -> dict[str, float]:
    """Bytes per token of the measured documents, over all and by domain."""
    num_bytes: Counter[str] = Counter()
    num_tokens: Counter[str] = Counter()
    held_out = (document for document in _documents(source) if _is_measured(document))
    documents = _some(held_out) or _some(_documents(source))
    for document, ids in zip(documents, tokenizer.encode_batch([d.text for d in documents]), strict=True):
        num_bytes[document.domain] += len(document.text.encode())
        num_tokens[document.domain] += len(ids)
    rates = {
        f"bytes_per_token_{name}": round(num_bytes[name] / num_tokens[name], 4) for name in sorted(num_bytes) if num_tokens[name]
    }
    return {"bytes_per_token": round(num_bytes.total() / max(num_tokens.total(), 1), 4), **rates}


def _some(documents: Iterator[Document]) -> list[Document]:
    """The first documents, up to a few megabytes."""
    found: list[Document] = []
    size = 0
    for document in documents:
        found.append(document)
        size += len(document.text)
        if size > MAX_MEASURED_BYTES:
            break
    return found
