"""The rules for source code, at the name the scoring step knows them by."""

from lianlu.data.code.rules import judge, signals

__all__ = ["judge", "signals"]
