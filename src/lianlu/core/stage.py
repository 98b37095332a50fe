"""What a stage is: a module with a Config class and `run(config, out)`.

The table of stages (`lianlu.stages`) names the module, the class, the kind of artifact it makes and its version. A stage
module imports heavy libraries (torch) inside `run` only, so that a recipe can be read and planned without them. It may
also define `estimate(config) -> Estimate`, a rough forecast made before inputs exist: a path in `config` may be missing.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from lianlu.core.config import Config


@dataclass(frozen=True)
class Table:
    """Something to print beside a forecast: a title, the names of the columns, and rows of cells."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]


@dataclass(frozen=True)
class Estimate:
    """A forecast of one step on this machine: seconds, peak memory in bytes, what it rests on, and what explains it."""

    seconds: float
    memory_bytes: int
    basis: str = ""
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Stage:
    """One row of the table: where a stage lives and what it makes. Raise `version` when its output changes.

    A `distributed` stage is run by all processes of a launch together, any other by the main one alone.
    """

    module: str
    config: str
    kind: str
    version: int = 1
    distributed: bool = False

    def config_class(self) -> type[Config]:
        """The Config class of the stage."""
        cls: type[Config] = getattr(importlib.import_module(self.module), self.config)
        return cls

    def function(self, name: str) -> Any:
        """`run`, `estimate` or another function of the stage module, or None."""
        return getattr(importlib.import_module(self.module), name, None)
