"""A vocabulary in the `tokenizers` library.

The library finds added tokens first and hands what lies between them to normalizer, pre-tokenizer and model. With
`encode_special_tokens` it leaves control tokens alone; that is a switch of the whole object, so a second object is made for
plain text when it is first needed, and threads never see the switch move.

Some vocabularies put a space in front of every text (Llama 2, T5). The later pieces of a text must not get one, so they
go through a copy from which that rule is taken out; a piece that follows a control token gets what the file says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer as Library

from lianlu.tokenizer.backend import Run

_PREFIX_RULE = re.compile(rb'"add_prefix_space":\s*true|"prepend_scheme":\s*"(?P<scheme>always|first)"|"type":\s*"Prepend"')
_STAGES = ("normalizer", "normalizers", "pre_tokenizer", "pretokenizers")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# the letters in which byte-level vocabularies (GPT-2) write bytes: printable Latin-1 as it is, the others from U+0100 on
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = [byte for byte in range(0x100) if byte not in _PRINTABLE]
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {chr(0x100 + place): byte for place, byte in enumerate(_OTHERS)}


class FastBackend:
    """A `tokenizers` object behind the interface of `backend.Backend`."""

    def __init__(self, library: Library) -> None:
        library.no_padding()
        library.no_truncation()
        library.encode_special_tokens = False
        self._marked = library
        self._variants = {(True, False): library}
        added = library.get_added_tokens_decoder()
        self.specials: Mapping[str, int] = {token.content: index for index, token in added.items() if token.special}
        self._control = frozenset(self.specials.values())
        self.num_ids = max(library.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        stages = b"".join(stage.__getstate__() for stage in (library.normalizer, library.pre_tokenizer) if stage is not None)
        rule = _PREFIX_RULE.search(stages)
        self._is_prefixed = rule is not None
        self._only_at_start = rule is not None and rule["scheme"] == b"first"
        self._decoders = _flat(json.loads(library.decoder.__getstate__())) if library.decoder is not None else []
        self._falls_back_to_bytes = any(decoder["type"] == "ByteFallback" for decoder in self._decoders)

    def _library(self, specials: bool, continues: bool) -> Library:
        """The object that sees control tokens or not, and puts nothing in front of a text that continues."""
        key = (specials, continues and self._is_prefixed)
        if key not in self._variants:
            table = json.loads(self._marked.to_str())
            library = Library.from_str(json.dumps(_without_prefix(table) if key[1] else table))
            library.encode_special_tokens = not specials
            self._variants[key] = library
        return self._variants[key]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of whole texts; control tokens spelled out in them are plain text."""
        library = self._library(specials=False, continues=False)
        return [found.ids for found in library.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_runs(self, runs: Sequence[Run]) -> list[list[int]]:
        """Ids of the runs of one text, cut where the runs meet."""
        parts: list[list[int]] = []
        follows_control = False
        for number, (text, specials) in enumerate(runs):
            continues = number > 0 and (self._only_at_start or not follows_control)
            ids = self._library(specials, continues).encode(text, add_special_tokens=False).ids
            follows_control = bool(ids) and specials and ids[-1] in self._control
            parts.append(ids)
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

    def content(self, token_id: int) -> bytes | None:
        """The bytes that a token adds inside a text; None for control tokens and for ids that stand for nothing."""
        token = self.token(token_id)
        return None if token is None or token_id in self._control else _decoded(token, self._decoders)

    def adds_bos(self, bos_id: int | None) -> bool:
        """Whether the file's post-processor begins every text with `bos_id`."""
        ids = self._marked.encode("", add_special_tokens=True).ids
        return bool(ids) and ids[0] == bos_id

    def files(self) -> dict[str, bytes]:
        """tokenizer.json."""
        return {"tokenizer.json": self._marked.to_str(pretty=True).encode()}


def _flat(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a decoder, those of sequences one after the other."""
    return [step for part in decoder["decoders"] for step in _flat(part)] if decoder["type"] == "Sequence" else [decoder]


def _decoded(token: str, decoders: Sequence[dict[str, Any]]) -> bytes:
    """The bytes of a token inside a text, by the steps of its vocabulary's decoder; what only trims a text's ends is left out."""
    for step in decoders:
        if step["type"] == "ByteLevel":
            known = all(letter in _BYTES for letter in token)
            return bytes(_BYTES[letter] for letter in token) if known else token.encode()
        if step["type"] == "ByteFallback" and _BYTE.fullmatch(token):
            return bytes([int(token[3:5], 16)])
        if step["type"] == "Metaspace":
            token = token.replace(step["replacement"], " ")
        elif step["type"] == "Replace" and "String" in step["pattern"]:
            token = token.replace(step["pattern"]["String"], step["content"])
    return token.encode()


def _without_prefix(table: Any) -> Any:
    """A tokenizer.json in which nothing puts a space in front of a text."""
    if isinstance(table, list):
        return [_without_prefix(item) for item in table]
    if not isinstance(table, dict):
        return table
    if table.get("type") == "Prepend":
        return {"type": "Sequence", "normalizers": []}
    changed = {key: _without_prefix(item) if key in _STAGES else item for key, item in table.items()}
    changed |= {key: value for key, value in (("add_prefix_space", False), ("prepend_scheme", "never")) if key in table}
    return changed
