"""Three tiny stages, so that recipes can be run without models."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lianlu.core.config import AnyArtifact, Checkpoint, Config, Documents
from lianlu.core.files import write_text
from lianlu.core.stage import Estimate, Stage
from lianlu.core.store import Output
from lianlu.stages import STAGES


class ReadConfig(Config):
    source: AnyArtifact
    suffix: str = ""


class JoinConfig(Config):
    parts: list[Documents]
    sign: str = "+"


class NeedsModelConfig(Config):
    model: Checkpoint


RUNS: list[str] = []


def run_read(config: ReadConfig, out: Output) -> None:
    RUNS.append("read")
    write_text(out.path / "text", Path(config.source).read_text(encoding="utf-8") + config.suffix)
    out.figures["length"] = len(config.suffix)


def run_join(config: JoinConfig, out: Output) -> None:
    RUNS.append("join")
    if (out.path / "half").exists():
        RUNS.append("continued")
        (out.path / "half").unlink()
    if config.sign == "fail":
        write_text(out.path / "half", "")
        raise ZeroDivisionError
    texts = [(Path(part) / "text").read_text(encoding="utf-8") for part in config.parts]
    write_text(out.path / "text", config.sign.join(texts))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fake stages are in the table; returns the list of what ran."""
    table: dict[str, tuple[Any, Any, str]] = {
        "read": (ReadConfig, run_read, "documents"),
        "join": (JoinConfig, run_join, "documents"),
        "needs-model": (NeedsModelConfig, run_read, "checkpoint"),
    }
    for name, (cls, run, kind) in table.items():
        module: Any = ModuleType(f"fake_{name}")
        module.Config, module.run, module.estimate = cls, run, lambda config: Estimate(2.0, 1000, "guess")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(STAGES, name, Stage(module.__name__, "Config", kind))
    RUNS.clear()
    return RUNS
