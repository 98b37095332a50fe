"""lianlu: from raw text to an answering agent on your own language model, with one tool.

`from lianlu import LLM` gives the Python interface; the rest of the package is imported by module.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lianlu.engine.llm import LLM as LLM
    from lianlu.engine.result import Output as Output
    from lianlu.formats.messages import Message as Message

# Waiting OpenMP threads spin for milliseconds by default, which costs a factor of ten where another process wants the core;
# a tenth of that is as fast alone (docs/log.md). Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

__version__ = "0.1.0"
__all__ = ["LLM", "Message", "Output", "__version__"]

_HOMES = {"LLM": "lianlu.engine.llm", "Message": "lianlu.formats.messages", "Output": "lianlu.engine.result"}


def __getattr__(name: str) -> object:
    """Load the few public names when they are asked for: the command line starts without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lianlu' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
