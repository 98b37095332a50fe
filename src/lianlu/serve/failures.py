"""Errors as an OpenAI client knows them: {"error": {message, type, param, code}} with the right status and headers.

Retry-After is what the error says, rounded up to whole seconds, where it says something; else a guess for its status.
"""

from __future__ import annotations

import math
import traceback
from typing import Any

from lianlu.core import console
from lianlu.core.errors import LianluError, RequestError

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
RETRY_AFTER_S = {429: 1, 503: 5}
REASONS = {404: "not_found", 405: "not_found", 409: "conflict", 429: "overloaded", 503: "unavailable"}


class ApiError(RequestError):
    """A request that is answered with an error; `param` names the field at fault, `code` is for programs."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        hint: str = "",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, hint, status, retry_after_s)
        self.param = param
        self.code = code


def as_json(error: BaseException) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers for an error; what is no fault of the client is 500 and keeps its details to itself."""
    status = error.status if isinstance(error, RequestError) else 500
    message = "the server failed on this request; its log says why"
    if isinstance(error, LianluError):
        message = f"{error.message}; {error.hint}" if error.hint else error.message
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    param, code = (error.param, error.code) if isinstance(error, ApiError) else (None, None)
    headers = {}
    if status in RETRY_AFTER_S:
        headers["Retry-After"] = str(_retry_after_s(error, RETRY_AFTER_S[status]))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}, headers


def _retry_after_s(error: BaseException, guess: int) -> int:
    known = error.retry_after_s if isinstance(error, RequestError) else None
    return guess if known is None or not math.isfinite(known) else max(math.ceil(known), 1)


def reason_of(error: BaseException) -> str:
    """One word for why a request was refused, out of a small set; for figures."""
    if isinstance(error, ApiError) and error.code:
        return error.code
    status = error.status if isinstance(error, RequestError) else 500
    return REASONS.get(status, "invalid_request" if status < 500 else "server_error")


def log_failure(error: BaseException, where: str) -> None:
    """Show in the log what the client is not told: failures of ours, in full unless they are of an expected kind."""
    if isinstance(error, RequestError):
        return
    if isinstance(error, LianluError):
        console.error(f"{where}: {error.message}", hint=error.hint)
        return
    console.error(f"{where} failed", hint="please report this with the lines below")
    console.info("".join(traceback.format_exception(error)))
