"""Judging texts with a checkpoint of our own: bits per byte, and what a context is worth.

Every text begins after the token that begins texts in training (BOS where the model has it, else end of text), so its first
token counts too. A piece and its context are tokenised apart, which may cost a token at the cut. No torch is imported before a
model is opened. Limits: weights are held in fp32 by every process that judges; a processor core reads a few kilobytes a
second at best under a model of 135 M parameters, so what is judged of a document is limited.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lianlu.core.errors import ConfigError, DataError
from lianlu.data.filters.perplexity import Pair, digest, spread
from lianlu.tokenizer.tokenizer import Tokenizer

PIECE_BYTES = 2048
MAX_PIECES = 4
MIN_PIECE_BYTES = 64


class CheckpointModel:
    """A model and its tokenizer; pieces of `piece_bytes` (fewer where the model is short), each after as much context."""

    def __init__(self, path: Path, piece_bytes: int = PIECE_BYTES, max_pieces: int = MAX_PIECES) -> None:
        """Open the checkpoint. Raises: DataError for files, ConfigError for a model too short or not trained on texts."""
        from lianlu.model.load import load_model

        if not path.exists():
            raise DataError(f"there is no model {path}", hint="name a folder or .gguf of a checkpoint, or an .npz of counts")
        self._tokenizer = Tokenizer.load(path)
        self._model = load_model(path).eval()
        # a token has a byte at least
        self._positions = self._model.config.max_position_embeddings
        self._piece_bytes = min(piece_bytes, self._positions // 2)
        self._max_pieces = max_pieces
        self._digest = digest(path)
        start = self._tokenizer.bos_id if self._tokenizer.adds_bos else self._tokenizer.end_of_text
        if start is None:
            raise ConfigError(f"{path} has no token that begins or ends a text", hint="its tokenizer needs <|endoftext|>")
        if self.piece_bytes < MIN_PIECE_BYTES:
            raise ConfigError(f"the context of {path} is {self._positions} tokens", hint="128 are the least")
        self._start = start

    @property
    def piece_bytes(self) -> int:
        """The longest text that is judged after a context."""
        return self._piece_bytes

    def fingerprint(self) -> dict[str, Any]:
        """Digest of the checkpoint and how texts are cut."""
        return {"checkpoint": self._digest, "piece_bytes": self.piece_bytes, "max_pieces": self._max_pieces}

    def bits_per_byte(self, text: str) -> float:
        """Mean over the pieces that are read; NaN for an empty text."""
        pairs = spread(text, 2 * self.piece_bytes, self.piece_bytes, self._max_pieces)
        size = sum(len(piece.encode()) for _, piece in pairs)
        return sum(self._bits([self._sequence(*pair, bool(pair[0])) for pair in pairs])) / size if size else float("nan")

    def context_cost(self, pairs: Sequence[Pair]) -> list[float]:
        """Bits per byte that the context adds to each text. Of a context too long for the model the end counts."""
        after = self._bits([self._sequence(context, text, True) for context, text in pairs])
        alone = self._bits([self._sequence("", text, True) for _, text in pairs])
        return [(own - other) / len(text.encode()) for own, other, (_, text) in zip(after, alone, pairs, strict=True)]

    def _bits(self, sequences: Sequence[tuple[list[int], int]]) -> list[float]:
        from lianlu.model.likelihood import bits

        return bits(self._model, sequences)

    def _sequence(self, context: str, text: str, within: bool) -> tuple[list[int], int]:
        """Ids of start token, context and text, the oldest of the context left out if need be; place of the text.

        `within`: the text is the continuation of another, whether that is shown or not.
        """
        ids = self._tokenizer.encode_within(text) if within else self._tokenizer.encode(text)
        if len(ids) > self._positions:
            raise DataError("a piece of text has more tokens than the model's context", hint="judge shorter pieces")
        room = self._positions - len(ids)
        before = self._tokenizer.encode(context)[-room:] if room else []
        return [self._start, *before, *ids], len(before) + 1
