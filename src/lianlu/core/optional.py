"""The only place that imports a library which may be absent."""

from __future__ import annotations

import importlib
from types import ModuleType

from lianlu.core.errors import MissingExtraError


def require(module: str, install: str) -> ModuleType:
    """Import `module`, or say how to get it.

    `install` is the command a user types, for example `pip install openpyxl`.
    Raises: MissingExtraError.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"the library {module} is not installed", hint=f"install it: {install}") from error
