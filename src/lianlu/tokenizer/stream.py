"""Text as ids arrive: never half a character, and in the end exactly what decoding all ids at once gives.

What a token decodes to depends on its neighbours (a character spread over several tokens, a space that only the first
word loses), so a short window is decoded before and after each id and the difference is the new text. A window that
ends in U+FFFD may end inside a character and is held back.
"""

from __future__ import annotations

from collections.abc import Container

from lianlu.tokenizer.backend import Backend

_REPLACEMENT = "\ufffd"


class TextStream:
    """Incremental decoding; ids in `hidden` (control tokens) give no text."""

    def __init__(self, backend: Backend, hidden: Container[int]) -> None:
        self._backend = backend
        self._hidden = hidden
        self._window: list[int] = []
        self._num_shown = 0
        self._shown = ""

    def push(self, token_id: int) -> str:
        """The text that is certain after one more id; often empty."""
        if token_id in self._hidden:
            return ""
        self._window.append(token_id)
        text = self._backend.decode(self._window)
        if text.endswith(_REPLACEMENT) or self._backend.is_open(token_id):
            return ""
        return self._show(text)

    def flush(self) -> str:
        """The text that was held back; call it when no more ids come."""
        return self._show(self._backend.decode(self._window))

    def _show(self, text: str) -> str:
        new = text[len(self._shown) :]
        if new:
            self._window = self._window[self._num_shown :]
            self._num_shown = len(self._window)
            self._shown = self._backend.decode(self._window)
        return new
