"""A served model: where it lies, its engine, and its state from loading over ready to gone."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lianlu.engine.background import BackgroundEngine
from lianlu.engine.config import EngineConfig
from lianlu.engine.connect import open_engine

ModelState = Literal["loading", "ready", "asleep", "draining", "failed"]


@dataclass
class Served:
    """One model under one name; there is an engine in every state but `loading`."""

    name: str
    path: Path = Path()
    engine: BackgroundEngine | None = None
    asleep: bool = False
    failed: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def state(self) -> ModelState:
        """Where the model is in its life; only a ready one takes requests."""
        if self.engine is None:
            return "loading"
        if self.engine.draining:
            return "draining"
        if self.failed:
            return "failed"
        return "asleep" if self.asleep else "ready"

    def open(self, config: EngineConfig, adapter: Path | None = None) -> BackgroundEngine:
        """Load the model, an adapter merged into its weights if there is one; takes seconds. Raises: DataError, ConfigError."""
        return BackgroundEngine(open_engine(self.path, adapter, config=config))

    def card_fields(self) -> dict[str, Any]:
        """What the list of models says beside OpenAI's fields; only the state while there is no engine."""
        if self.engine is None:
            return {"state": self.state}
        engine = self.engine.engine
        precision = str(next(engine.model.parameters()).dtype).removeprefix("torch.")
        return {"context_length": engine.max_len, "max_model_len": engine.max_len, "precision": precision, "state": self.state}

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
