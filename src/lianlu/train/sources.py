"""The shard folders of a pretraining run: opened, named, checked against each other, and their held-out text.

All sources must have been tokenised with one vocabulary, which is compared id by id. A source is called what `names` says,
else as the step that made it (`shard-en` is `en`), else as its folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lianlu.core.errors import DataError
from lianlu.formats.shard_index import tiers
from lianlu.formats.shards import TokenShard, open_shard
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.packing import Segment
from lianlu.train.portions import Portion, folder_names
from lianlu.train.stream import Source, block_edges, document_segments, held_out_documents


@dataclass(frozen=True)
class HeldOut:
    """Documents of a source that are never trained on: which are judged, and the bytes of their text."""

    shard: TokenShard
    documents: list[int]
    num_bytes: int
    separator: int

    def segments(self, max_segment: int) -> list[Segment]:
        """The judged documents in pieces of at most `max_segment`."""
        return document_segments(self.shard, self.documents, self.separator, max_segment)


@dataclass(frozen=True)
class Corpus:
    """One shard folder: its name in figures, what is trained on, and what is held out."""

    name: str
    train: Source
    held_out: HeldOut

    @property
    def num_tokens(self) -> int:
        """Tokens to train on."""
        return self.train.shard.num_tokens


def open_corpora(folders: Sequence[str], names: Sequence[str], max_held_out_tokens: int) -> list[Corpus]:
    """The shard folders of a run; each gives its part of `max_held_out_tokens` (0: none is held out).

    Raises: DataError for one that is missing, damaged or empty, or has another tokenizer than the first.
    """
    called = list(names) or folder_names(folders)
    corpora: list[Corpus] = []
    first_document = 0
    for folder, name in zip(folders, called, strict=True):
        train = open_shard(Path(folder) / "train.bin")
        if train.num_tokens == 0:
            raise DataError(f"{train.path} holds no tokens", hint="give the shard stage more documents")
        separator = int(train.document(0)[-1])
        source = Source(train, separator, block_edges(train), first_document)
        first_document += train.num_documents
        held_out_path = Path(folder) / "held_out.bin"
        if max_held_out_tokens:
            held_out = _held_out(held_out_path, separator, max_held_out_tokens // len(folders))
        else:
            held_out = HeldOut(open_shard(held_out_path), [], 0, separator)
        corpora.append(Corpus(name, source, held_out))
    _require_one_vocabulary(folders, corpora)
    return corpora


def portion_sources(corpora: Sequence[Corpus], own: Sequence[Portion]) -> list[Source]:
    """What each portion streams from: the training text of its source, or the documents of one tier in it."""
    found: list[Source] = []
    for portion in own:
        source = corpora[portion.source].train
        if portion.tier is not None:
            codes, known = tiers(source.shard)
            source = replace(source, members=codes == known.index(portion.tier))
        found.append(source)
    return found


def judged_text(folder: str, max_tokens: int, of: Corpus) -> HeldOut:
    """The documents of another shards folder as held-out text for a run on `of`.

    Raises: DataError if it is missing, damaged or empty, or has another tokenizer.
    """
    found = _held_out(Path(folder) / "train.bin", of.train.separator, max_tokens)
    first, other = Tokenizer.load(of.train.shard.path.parent), Tokenizer.load(folder)
    difference = vocabulary_difference(first, other) or vocabulary_difference(other, first)
    if difference:
        message = f"{folder} and {of.name} were made with different tokenizers: {difference}"
        raise DataError(message, hint="make all shards with one tokenizer")
    return found


def vocabulary_difference(ours: Tokenizer, theirs: Tokenizer) -> str:
    """In which id two vocabularies differ first, as a sentence; empty if `theirs` knows every id of `ours` alike."""
    if theirs.vocab_size < ours.vocab_size:
        return f"one has {ours.vocab_size:,} ids, the other {theirs.vocab_size:,}"
    for index, (own, other) in enumerate(zip(ours.contents(), theirs.contents(), strict=False)):
        control = own is None and other is None and ours.token(index) != theirs.token(index)
        if own != other or control:
            return f"id {index} is {ours.token(index)!r} in one and {theirs.token(index)!r} in the other"
    return ""


def _held_out(path: Path, separator: int, max_tokens: int) -> HeldOut:
    shard = open_shard(path)
    documents = held_out_documents(shard, max_tokens)
    num_bytes = int(shard.text_bytes[documents].sum()) if documents else 0
    if num_bytes == 0:
        raise DataError(
            f"{path} holds no text to evaluate on",
            hint="the shard stage needs two documents at least, and a share held_out above 0",
        )
    return HeldOut(shard, documents, num_bytes, separator)


def _require_one_vocabulary(folders: Sequence[str], corpora: Sequence[Corpus]) -> None:
    first = Tokenizer.load(folders[0])
    sizes = {corpus.train.shard.vocab_size for corpus in corpora}
    for folder, corpus in list(zip(folders, corpora, strict=True))[1:]:
        other = Tokenizer.load(folder)
        difference = vocabulary_difference(first, other) or vocabulary_difference(other, first)
        if difference or len(sizes) > 1 or corpus.train.separator != corpora[0].train.separator:
            message = f"{corpora[0].name} and {corpus.name} were made with different tokenizers"
            raise DataError(f"{message}: {difference or 'their shards disagree'}", hint="make all shards with one tokenizer")
