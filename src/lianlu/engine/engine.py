"""The engine: requests in, events out, one step at a time.

`step` asks the scheduler for a plan, lets the runner compute it, samples, and turns the chosen tokens into text, stop
decisions and events. It is synchronous and belongs to one thread; `background.BackgroundEngine` gives it a thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lianlu.core.config import Config
from lianlu.engine.sequence import Event, Request

if TYPE_CHECKING:
    from lianlu.model.decoder import Decoder
    from lianlu.tokenizer.tokenizer import Tokenizer


class EngineConfig(Config):
    """How a model is run."""

    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Numbers the model computes in; auto: bfloat16 where the machine has instructions for it, else float32."""
    max_tokens: int | None = None
    """Tokens whose keys and values are kept at one time, for all requests; None: what memory allows, within reason."""
    block_size: int = 32
    """Tokens per block of keys and values."""
    max_batch_tokens: int = 512
    """Tokens computed in one step."""
    max_running: int = 64
    """Requests that are computed at one time."""
    max_queued: int = 4096
    """Requests that may wait; more are refused with status 429."""
    prefix_cache: bool = True
    """Reuse the keys and values of beginnings that were seen before."""


@dataclass(frozen=True)
class Stats:
    """Counters since the start, and how things stand now."""

    num_running: int = 0
    num_queued: int = 0
    num_steps: int = 0
    num_finished: int = 0
    num_preempted: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    total_blocks: int = 0
    used_blocks: int = 0
    cached_blocks: int = 0


class Engine:
    """Continuous batching of one model over paged keys and values."""

    config: EngineConfig
    tokenizer: Tokenizer
    max_len: int
    """Longest sequence (prompt and reply, tokens) that this engine can hold."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer, config: EngineConfig | None = None) -> None: ...

    def check(self, request: Request) -> None:
        """Say whether a request can be served at all; touches no state, legal from any thread. Raises: RequestError (400)."""

    def submit(self, request: Request) -> int:
        """Queue a request; its id. Raises: RequestError (400: not possible, 429: too many are waiting)."""
        raise NotImplementedError

    def cancel(self, request_id: int) -> Event | None:
        """End a request wherever it is and give its blocks back; None when it is not alive (no error)."""
        raise NotImplementedError

    def step(self) -> list[Event]:
        """Compute one batch. A request that cannot go on fails alone, in its event. Raises: EngineError after which `reset` is due."""
        raise NotImplementedError

    def reset(self, error: Exception) -> list[Event]:
        """Fail every live request with `error` and begin anew with empty blocks; the events that say so."""
        raise NotImplementedError

    @property
    def idle(self) -> bool:
        """Whether no request is queued or running."""
        raise NotImplementedError

    def stats(self) -> Stats:
        """Counters, cheap; legal from any thread."""
        raise NotImplementedError
