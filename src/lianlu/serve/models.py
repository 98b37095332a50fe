"""A served model: where it lies, its engine, and its state from loading over ready to gone."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lianlu.core import console
from lianlu.engine.background import BackgroundEngine
from lianlu.engine.config import EngineConfig
from lianlu.engine.connect import open_engine

ModelState = Literal["loading", "ready", "asleep", "draining"]
CARD = "card.json"
"""File beside the weights that says how far they have moved from their original (`quantize.card`)."""
MAX_CARD_BYTES = 100_000


@dataclass
class Served:
    """One model under one name; there is an engine in every state but `loading`."""

    name: str
    path: Path = Path()
    engine: BackgroundEngine | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    quality: dict[str, Any] | None = None
    """The quality card of a quantised or merged model, as it lies beside the weights."""

    @property
    def state(self) -> ModelState:
        """Where the model is in its life; only a ready one takes requests."""
        if self.engine is None:
            return "loading"
        if self.engine.draining:
            return "draining"
        return "asleep" if self.engine.engine.asleep else "ready"

    def open(
        self, config: EngineConfig, merge: Path | None = None, adapters: Mapping[str, Path] | None = None
    ) -> BackgroundEngine:
        """Load the model, `merge` merged into its weights, `adapters` beside them; takes seconds.

        Raises: DataError, ConfigError, RequestError for an adapter's name.
        """
        self.quality = read_card(self.path)
        return BackgroundEngine(open_engine(self.path, merge, config=config, adapters=adapters or {}))

    def card_fields(self) -> dict[str, Any]:
        """What the list of models says beside OpenAI's fields; only the state while there is no engine."""
        if self.engine is None:
            return {"state": self.state}
        engine = self.engine.engine
        precision = str(next(engine.model.parameters()).dtype).removeprefix("torch.")
        fields = {
            "state": self.state,
            "context_length": engine.max_len,
            "max_model_len": engine.max_len,
            "precision": precision,
            "quantization": engine.config.quant if engine.config.quant != "none" else (self.quality or {}).get("method", "none"),
            "kv_cache": precision if engine.config.kv == "auto" else engine.config.kv,
        }
        return fields if self.quality is None else fields | {"quality": self.quality}

    def close(self) -> None:
        """End the engine, if there is one."""
        if self.engine is not None:
            self.engine.close()


@dataclass(frozen=True)
class Lora:
    """An adapter that is asked for by a name of its own, and the model it is put on."""

    name: str
    path: Path
    served: Served
    created: int = field(default_factory=lambda: int(time.time()))


def read_card(model: Path) -> dict[str, Any] | None:
    """The quality card in a model's folder; None if there is none. One that cannot be read is a warning, no failure."""
    path = model / CARD
    try:
        if not path.is_file() or path.stat().st_size > MAX_CARD_BYTES:
            return None
        card = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _number: None)
    except (OSError, ValueError) as error:
        console.warn(f"{path} is not shown: {error}")
        return None
    return card if isinstance(card, dict) else None
