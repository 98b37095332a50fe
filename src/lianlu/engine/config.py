"""How a model is run: one frozen table, the same for the server, the Python interface and recipes. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from lianlu.core.config import Config
from lianlu.model.config import RopeScaling

SPLIT = 128
"""Block sizes divide this number of positions, which attention takes at a time (`kernels.paged_attention.SPLIT`)."""


class NgramSpeculation(Config):
    """Propose what followed the last tokens when they occurred before (prompt lookup)."""

    kind: Literal["ngram"] = "ngram"
    num_tokens: int = Field(default=4, gt=0, le=32)
    """Tokens proposed at a time."""
    longest_match: int = Field(default=4, gt=0)
    """Tokens that are looked for; fewer if they do not occur."""
    shortest_match: int = Field(default=2, gt=0)
    """Fewest tokens that have to match."""


class DraftSpeculation(Config):
    """Propose what a small model with the same vocabulary would say."""

    kind: Literal["draft"] = "draft"
    model: Path
    """Folder or .gguf file of the small model."""
    num_tokens: int = Field(default=4, gt=0, le=32)
    """Tokens proposed at a time."""


Speculation = Annotated[NgramSpeculation | DraftSpeculation, Field(discriminator="kind")]


class EngineConfig(Config):
    """How a model is run."""

    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Numbers the model computes in; auto: bfloat16 where the machine has instructions for it, else float32."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Tokens whose keys and values are kept at one time, for all requests; None: what memory allows, within reason."""
    block_size: int = Field(default=32, gt=0)
    """Tokens per block of keys and values, a power of two up to 128."""
    max_batch_tokens: int = Field(default=256, gt=0)
    """Tokens computed in one step."""
    max_running: int = Field(default=64, gt=0)
    """Requests that are computed at one time."""
    max_queued: int = Field(default=4096, ge=0)
    """Requests that may wait; more are refused with status 429."""
    prefix_cache: bool = True
    """Reuse the keys and values of beginnings that were seen before."""
    kv: Literal["auto", "bfloat16", "int8", "int4"] = "auto"
    """Numbers that keys and values are kept in; auto: those the model computes in."""
    quant: Literal["none", "int8", "int4"] = "none"
    """Quantise the weights of the layers while loading."""
    context: int | None = Field(default=None, gt=0)
    """Longest sequence, where it shall differ from the model's own; needs `rope` if it is longer."""
    rope: RopeScaling | None = None
    """How positions beyond the trained length are treated; None: as the model says."""
    speculation: Speculation | None = None
    """How tokens are proposed ahead of the model; the reply is the same with and without."""
    sessions: Path | None = None
    """Folder in which the keys and values of named sessions are kept; they survive a restart. None: no named sessions."""
    max_sessions_bytes: int = Field(default=4_000_000_000, gt=0)
    """Most bytes of kept sessions; the ones not used for longest go first."""
    max_first_token_s: float | None = Field(default=None, gt=0)
    """Refuse a request (429) whose first token is predicted to take longer than this; None: only `max_queued` counts."""

    @field_validator("block_size")
    @classmethod
    def _divides(cls, value: int) -> int:
        if SPLIT % value:
            raise ValueError(f"must divide {SPLIT}")
        return value
