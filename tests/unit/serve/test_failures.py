"""Errors as an OpenAI client knows them."""

from __future__ import annotations

import pytest

from lianlu.core.errors import EngineError, RequestError
from lianlu.serve.failures import ApiError, as_json


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ApiError("x", param="n", code="c"), 400, "invalid_request_error"),
        (ApiError("x", status=401), 401, "authentication_error"),
        (ApiError("x", status=404), 404, "not_found_error"),
        (RequestError("x"), 400, "invalid_request_error"),
        (RequestError("x", status=429), 429, "rate_limit_error"),
        (RequestError("x", status=503), 503, "server_error"),
        (EngineError("x"), 500, "server_error"),
        (ZeroDivisionError("secret"), 500, "server_error"),
    ],
)
def test_status_and_type(error: Exception, status: int, kind: str) -> None:
    found, body, headers = as_json(error)
    assert (found, body["error"]["type"]) == (status, kind)
    assert ("Retry-After" in headers) == (status in (429, 503))
    assert ("WWW-Authenticate" in headers) == (status == 401)
    assert "secret" not in body["error"]["message"]


def test_the_hint_is_part_of_the_message() -> None:
    assert as_json(ApiError("too long", hint="shorten it", param="prompt", code="c"))[1] == {
        "error": {"message": "too long; shorten it", "type": "invalid_request_error", "param": "prompt", "code": "c"}
    }
