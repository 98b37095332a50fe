"""The error tree. Everything lianlu raises on purpose is one of these.

    LianluError
      ConfigError     a recipe, a field or an override is wrong
      DataError       an input file cannot be read or is of a wrong kind
      ArtifactError   the store is damaged, locked, full, or lacks what was asked for
      RequestError    one request to a model is not possible (too long, malformed)
      EngineError     the engine itself failed; our mistake, not the user's
      MissingExtraError    something has to be installed first

Every error carries a hint that says what to do. The command line prints message and hint; the exit code is 2 for
what a user can mend and 1 for what only we can (`EngineError` and everything that is not a `LianluError`).
"""

from __future__ import annotations


class LianluError(Exception):
    """Base of all expected errors: a message for people and a hint that says what to do next."""

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(LianluError):
    """A recipe, a field or an override is wrong."""


class DataError(LianluError):
    """An input file is missing, truncated, of a future version or of a wrong kind."""


class ArtifactError(LianluError):
    """The artifact store is damaged, locked, full, or lacks what was asked for."""


class RequestError(LianluError):
    """One request to a model cannot be served; `status` is the HTTP status the server answers with.

    `retry_after_s` says in how many seconds it may be worth another try, where that is known.
    """

    def __init__(self, message: str, hint: str = "", status: int = 400, retry_after_s: float | None = None) -> None:
        super().__init__(message, hint)
        self.status = status
        self.retry_after_s = retry_after_s


class EngineError(LianluError):
    """The engine failed in a way no user can mend."""

    exit_code = 1


class MissingExtraError(LianluError):
    """A library or a program that this feature needs is not installed."""
