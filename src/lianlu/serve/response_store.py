"""Responses that can be asked for again: bounded, in memory, gone with the server.

A stored response is what GET /v1/responses/{id} gives back, and what `previous_response_id` goes on from: its messages, those
before it included, are shared with the response it came from. The one that was not used for longest goes first when there are
too many or they are too large, and each goes some time after its last use. A caller sees its own responses only.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lianlu.formats.messages import Message
from lianlu.serve.failures import ApiError

MAX_RESPONSES = 4096
MAX_BYTES = 64_000_000
MAX_AGE_S = 24 * 3600.0


@dataclass(frozen=True)
class Stored:
    """A response and the conversation up to and including it, without instructions."""

    response: dict[str, Any]
    messages: tuple[Message, ...]
    owner: str
    num_bytes: int
    """What it takes beside the response it came from."""


class ResponseStore:
    """Responses by their id. For one thread (the event loop's)."""

    def __init__(
        self,
        max_responses: int = MAX_RESPONSES,
        max_bytes: int = MAX_BYTES,
        max_age_s: float = MAX_AGE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_responses, self._max_bytes, self._max_age_s, self._clock = max_responses, max_bytes, max_age_s, clock
        self._kept: OrderedDict[str, tuple[float, Stored]] = OrderedDict()
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, stored: Stored) -> None:
        """Keep a response, and let others go as needed; one that is too large for the store alone is not kept."""
        if stored.num_bytes > self._max_bytes or not self._max_responses:
            return
        self._kept[stored.response["id"]] = (self._clock(), stored)
        self._num_bytes += stored.num_bytes
        self._make_room()

    def get(self, response_id: str, owner: str, param: str | None = None) -> Stored:
        """A stored response; it counts as used now. Raises: ApiError (404) if there is none, or none of this owner's."""
        self._make_room()
        _, stored = self._kept.get(response_id, (0.0, None))
        if stored is None or stored.owner != owner:
            hint = "it may have been too long ago, or was sent with store: false"
            code = "previous_response_not_found" if param else "response_not_found"
            raise ApiError(f"there is no response {response_id[:100]!r}", status=404, hint=hint, param=param, code=code)
        self._kept[response_id] = (self._clock(), stored)
        self._kept.move_to_end(response_id)
        return stored

    def delete(self, response_id: str, owner: str) -> None:
        """Forget a response; those that came from it stay. Raises: ApiError (404)."""
        self.get(response_id, owner)
        self._drop(response_id)

    def _make_room(self) -> None:
        """Let go of what is too old, and of the least recently used while there is too much."""
        oldest = self._clock() - self._max_age_s
        while self._kept:
            response_id, (used_at, _) = next(iter(self._kept.items()))
            if used_at > oldest and len(self._kept) <= self._max_responses and self._num_bytes <= self._max_bytes:
                return
            self._drop(response_id)

    def _drop(self, response_id: str) -> None:
        _, stored = self._kept.pop(response_id)
        self._num_bytes -= stored.num_bytes
