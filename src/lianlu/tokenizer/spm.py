"""A vocabulary in the `sentencepiece` library: BPE or unigram, with byte fallback (InternLM2, Llama 2, Gemma).

The library does the encoding, so that ids are its ids by construction. What it lacks is added here: control tokens that are
found in a text, tokens from `added_tokens` (InternLM2 gives six spare pieces new names), and texts encoded in pieces. A
piece that follows a control token is encoded like the beginning of a text, as llama.cpp and the reference code of these
models do; any other later piece gets no dummy space in front.

A model without a file (the pieces and scores of a GGUF) is written as a ModelProto, see `sentencepiece_model.proto`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

from sentencepiece import SentencePieceProcessor

from lianlu.core.errors import DataError
from lianlu.tokenizer.backend import Run, specials_pattern

# normalizer_spec { add_dummy_prefix: false }: a later message of a protobuf overrides fields of an earlier one
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


class SentencePieceBackend:
    """A SentencePiece model behind the interface of `backend.Backend`."""

    def __init__(self, proto: bytes, added: Mapping[str, int], source: str) -> None:
        """`proto` is the content of a tokenizer.model, `added` maps the text of further control tokens to ids.

        Raises: DataError naming `source` when the model is damaged.
        """
        self._proto = proto
        self._first = _load(proto, source)
        size = self._first.vocab_size()
        control = {self._first.id_to_piece(i): i for i in range(size) if self._first.is_control(i)}
        self.specials: Mapping[str, int] = {text: i for text, i in control.items() if i not in added.values()} | dict(added)
        self.num_ids = max([size, *(index + 1 for index in self.specials.values())])
        self._texts = {index: text for text, index in self.specials.items()}
        self._pattern = specials_pattern(self.specials)

    @cached_property
    def _later(self) -> Any:
        return _load(self._proto + _NO_DUMMY_PREFIX, "the model")

    @property
    def adds_space(self) -> bool:
        """Whether a space is put in front of a text."""
        return list(self._first.encode("a")) != list(self._later.encode("a"))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of whole texts; control tokens spelled out in them are plain text."""
        return [list(self._first.encode(text)) for text in texts]

    def encode_runs(self, runs: Sequence[Run]) -> list[list[int]]:
        """Ids of the runs of one text, cut where the runs meet."""
        parts: list[list[int]] = []
        at_start = True
        for text, specials in runs:
            ids: list[int] = []
            for piece, is_special in self._pieces(text, specials):
                ids += [self.specials[piece]] if is_special else (self._first if at_start else self._later).encode(piece)
                at_start = is_special
            parts.append(ids)
        return parts

    def _pieces(self, text: str, specials: bool) -> Iterator[tuple[str, bool]]:
        """The text cut at its control tokens, with whether a piece is one; empty pieces are left out."""
        cut = self._pattern.split(text) if specials and self._pattern else [text]
        return ((piece, specials and number % 2 == 1) for number, piece in enumerate(cut) if piece)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, control tokens spelled out; ids out of range are left out."""
        known = (index for index in ids if index in self._texts or 0 <= index < self._first.vocab_size())
        return "".join(self._decode_run(list(run)) for _, run in groupby(known, key=self._texts.__contains__))

    def _decode_run(self, ids: list[int]) -> str:
        """Text of ids that are all control tokens, or none of them."""
        return "".join(self._texts[index] for index in ids) if ids[0] in self._texts else str(self._first.decode(ids))

    def is_open(self, last_id: int) -> bool:
        """Never: the library reads bytes character by character."""
        return False

    def token_id(self, token: str) -> int | None:
        """Id of a token as the vocabulary spells it."""
        if token in self.specials:
            return self.specials[token]
        index = int(self._first.piece_to_id(token))
        return index if self._first.id_to_piece(index) == token else None

    def token(self, token_id: int) -> str | None:
        """The token of an id as the vocabulary spells it."""
        if token_id in self._texts or not 0 <= token_id < self._first.vocab_size():
            return self._texts.get(token_id)
        return str(self._first.id_to_piece(token_id))

    def content(self, token_id: int) -> bytes | None:
        """The bytes that a token adds inside a text; None for control tokens and for ids that stand for nothing."""
        model, index = self._first, token_id
        if index in self._texts or not 0 <= index < model.vocab_size() or model.is_unknown(index) or model.is_unused(index):
            return None
        piece = str(model.id_to_piece(index))
        return bytes([int(piece[3:5], 16)]) if model.is_byte(index) else piece.replace("\u2581", " ").encode()

    def files(self) -> dict[str, bytes]:
        """tokenizer.model; names of added tokens belong into tokenizer_config.json."""
        return {"tokenizer.model": self._proto}


def _load(proto: bytes, source: str) -> Any:
    processor = SentencePieceProcessor()
    try:
        if processor.load_from_serialized_proto(proto) is False:
            raise RuntimeError("not a model")
    except (RuntimeError, OSError) as error:
        raise DataError(f"{source} is not a SentencePiece model, or it is damaged", hint="fetch the file again") from error
    return processor


def write_proto(pieces: Iterable[tuple[str, float, int]], model_type: int, add_dummy_prefix: bool) -> bytes:
    """A ModelProto of (piece, score, type) rows; `model_type` is 1 for unigram, 2 for BPE. Nothing is normalised."""
    rows = b"".join(_field(1, _piece(*row)) for row in pieces)
    trainer = _varint_field(3, model_type) + _varint_field(35, 1)
    normalizer = _field(1, b"identity") + _varint_field(3, int(add_dummy_prefix)) + _varint_field(4, 0) + _varint_field(5, 1)
    return rows + _field(2, trainer) + _field(3, normalizer)


def _piece(text: str, score: float, kind: int) -> bytes:
    return _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _varint_field(3, kind)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)
