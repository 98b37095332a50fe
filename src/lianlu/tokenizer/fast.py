"""A vocabulary in the `tokenizers` library.

The library finds added tokens first and hands what lies between them to normalizer, pre-tokenizer and model. With
`encode_special_tokens` it leaves control tokens alone; that is a switch of the whole object, so a second object is made for
plain text when it is first needed, and threads never see the switch move.

Limit: a vocabulary that puts a space before every text (old Llama files) cannot be encoded in pieces. `encode_runs` then
encodes the whole and gives a token that straddles a cut to the run before it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate

from tokenizers import Tokenizer as Library

from lianlu.tokenizer.backend import Run

_PREFIXED = re.compile(rb'"add_prefix_space":\s*true|"prepend_scheme":\s*"(always|first)"|"type":\s*"Prepend"')
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class FastBackend:
    """A `tokenizers` object behind the interface of `backend.Backend`."""

    def __init__(self, library: Library) -> None:
        library.no_padding()
        library.no_truncation()
        library.encode_special_tokens = False
        self._marked = library
        added = library.get_added_tokens_decoder()
        self.specials: Mapping[str, int] = {token.content: index for index, token in added.items() if token.special}
        self.num_ids = max(library.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        stages = [stage.__getstate__() for stage in (library.normalizer, library.pre_tokenizer) if stage is not None]
        self._is_prefixed = any(_PREFIXED.search(state) for state in stages)
        decoder = library.decoder
        self._falls_back_to_bytes = decoder is not None and b"ByteFallback" in decoder.__getstate__()

    @cached_property
    def _plain(self) -> Library:
        plain = Library.from_str(self._marked.to_str())
        plain.encode_special_tokens = True
        return plain

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of whole texts; control tokens spelled out in them are plain text."""
        return [found.ids for found in self._plain.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_runs(self, runs: Sequence[Run]) -> list[list[int]]:
        """Ids of the runs of one text, cut where the runs meet."""
        if self._is_prefixed and all(specials for _, specials in runs):
            return self._encode_whole([text for text, _ in runs])
        return [(self._marked if specials else self._plain).encode(text, add_special_tokens=False).ids for text, specials in runs]

    def _encode_whole(self, texts: Sequence[str]) -> list[list[int]]:
        found = self._marked.encode("".join(texts), add_special_tokens=False)
        starts = list(accumulate((len(text) for text in texts[:-1]), initial=0))
        parts: list[list[int]] = [[] for _ in texts]
        for index, (start, _) in zip(found.ids, found.offsets, strict=True):
            parts[bisect_right(starts, start) - 1].append(index)
        return parts

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, control tokens spelled out; ids out of range are left out."""
        return str(self._marked.decode([index for index in ids if 0 <= index < self.num_ids], skip_special_tokens=False))

    def is_open(self, last_id: int) -> bool:
        """Whether the next id may change what was decoded: a run of byte tokens is read as a whole by the library."""
        return self._falls_back_to_bytes and _BYTE.fullmatch(self.token(last_id) or "") is not None

    def token_id(self, token: str) -> int | None:
        """Id of a token as the vocabulary spells it."""
        found: int | None = self._marked.token_to_id(token)
        return found

    def token(self, token_id: int) -> str | None:
        """The token of an id as the vocabulary spells it."""
        found: str | None = self._marked.id_to_token(token_id)
        return found

    def adds_bos(self, bos_id: int | None) -> bool:
        """Whether the file's post-processor begins every text with `bos_id`."""
        ids = self._marked.encode("", add_special_tokens=True).ids
        return bool(ids) and ids[0] == bos_id

    def files(self) -> dict[str, bytes]:
        """tokenizer.json."""
        return {"tokenizer.json": self._marked.to_str(pretty=True).encode()}
