"""What a language model has to beat on its held-out text: gzip -9 and a byte 5-gram model, for each source and over all.

The 5-gram model of a source is made from training text of that source, so it is the stronger one a mixture could have.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence

import numpy as np

from lianlu.formats.shards import TokenShard
from lianlu.model.ngram import ByteNgram
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.sources import Corpus


def baseline_figures(corpora: Sequence[Corpus], tokenizer: Tokenizer, ngram_bytes: int, seed: int) -> dict[str, float]:
    """Bits per byte of both baselines over all held-out text, and by name where there are several sources.

    At most `ngram_bytes` bytes of training text are read, divided evenly.
    """
    measured: dict[str, list[float]] = {"gzip_bits_per_byte": [], "ngram_bits_per_byte": []}
    for corpus in corpora:
        texts = [_text(tokenizer, corpus.held_out.shard, index) for index in corpus.held_out.documents]
        model = ByteNgram(_training_texts(tokenizer, corpus, ngram_bytes // len(corpora), seed))
        measured["gzip_bits_per_byte"].append(gzip_bits_per_byte(texts))
        measured["ngram_bits_per_byte"].append(model.bits_per_byte(texts))
    sizes = [corpus.held_out.num_bytes for corpus in corpora]
    figures = {name: float(np.average(values, weights=sizes)) for name, values in measured.items()}
    if len(corpora) > 1:
        for name, values in measured.items():
            figures |= {f"{name}_{corpus.name}": value for corpus, value in zip(corpora, values, strict=True)}
    return figures


def _training_texts(tokenizer: Tokenizer, corpus: Corpus, num_bytes: int, seed: int) -> Iterator[bytes]:
    """Documents of the first block in shuffled order up to the cap."""
    left = num_bytes
    for index in np.random.Generator(np.random.Philox(key=seed)).permutation(int(corpus.train.edges[1])):
        if left <= 0:
            return
        text = _text(tokenizer, corpus.train.shard, int(index))[:left]
        left -= len(text)
        yield text


def _text(tokenizer: Tokenizer, shard: TokenShard, index: int) -> bytes:
    return tokenizer.decode(shard.document(index).tolist()).encode()


def gzip_bits_per_byte(texts: Sequence[bytes]) -> float:
    """Bits per byte of `gzip -9` over the texts joined into one; it has seen nothing before."""
    joined = b"".join(texts)
    return 8 * len(gzip.compress(joined, compresslevel=9, mtime=0)) / max(len(joined), 1)
