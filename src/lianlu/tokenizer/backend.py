"""What a vocabulary can do, whatever library holds it.

Two members: `fast.FastBackend` (the `tokenizers` library: tokenizer.json, and byte-level vocabularies of GGUF files) and
`spm.SentencePieceBackend` (the `sentencepiece` library: tokenizer.model, and SentencePiece vocabularies of GGUF files).
`Loaded` is what a reader of files (`folder`, `gguf_vocab`) hands to `tokenizer.Tokenizer`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Run = tuple[str, bool]
"""A piece of a text, and whether the control tokens spelled out in it are meant as control tokens."""

_SURROGATE = re.compile("[\ud800-\udfff]")


class Backend(Protocol):
    """A vocabulary. Ids lie in `[0, num_ids)`; `specials` maps the text of a control token to its id."""

    num_ids: int
    specials: Mapping[str, int]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of whole texts; control tokens spelled out in them are plain text."""
        ...

    def encode_runs(self, runs: Sequence[Run]) -> list[list[int]]:
        """Ids of the runs of one text, cut where the runs meet."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, control tokens spelled out; bytes that are no UTF-8 become U+FFFD, ids out of range are left out."""
        ...

    def is_open(self, last_id: int) -> bool:
        """Whether what `last_id` decodes to may still change with the next id (beyond a trailing U+FFFD)."""
        ...

    def token_id(self, token: str) -> int | None:
        """Id of a token as the vocabulary spells it."""
        ...

    def token(self, token_id: int) -> str | None:
        """The token of an id as the vocabulary spells it."""
        ...

    def content(self, token_id: int) -> bytes | None:
        """The bytes that a token adds inside a text; None for control tokens and for ids that stand for nothing."""
        ...

    def files(self) -> dict[str, bytes]:
        """The files, name -> content, from which the vocabulary can be loaded again."""
        ...


@dataclass
class Loaded:
    """A vocabulary with what its files say about it. `config` has the keys of tokenizer_config.json; `name` is for errors."""

    name: str
    backend: Backend
    config: dict[str, Any] = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=dict)
    eos_ids: tuple[int, ...] = ()


def specials_pattern(specials: Mapping[str, int]) -> re.Pattern[str] | None:
    """A pattern that finds control tokens in a text, the longest first; one group, so that `split` keeps them."""
    texts = sorted((text for text in specials if text), key=lambda text: (-len(text), text))
    return re.compile("(" + "|".join(map(re.escape, texts)) + ")") if texts else None


def without_surrogates(text: str) -> str:
    """The text with lone surrogates (from broken JSON escapes) replaced; they are no characters and have no UTF-8."""
    return _SURROGATE.sub("\ufffd", text)
