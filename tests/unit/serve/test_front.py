"""What stands before the routes: which paths need a key, what is metered, what is written down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from lianlu.serve.keys import KeyConfig, Keys
from lianlu.serve.rest import app
from lianlu.serve.service import Limits, Service

Send = Callable[..., list[httpx.Response]]
KEYS = [KeyConfig(name="a", key="ka", requests_per_minute=2), KeyConfig(name="b", key="kb", max_concurrent=1)]
BODY = {"prompt": "x", "max_tokens": 2}
TEXT = "/v1/completions"


@pytest.fixture
def send(serving: Callable[..., Service]) -> Send:
    """Send requests (method, path, key), one after the other, to one server."""

    def exchange(*asked: tuple[str, str, str], origins: tuple[str, ...] = (), headers: Any = None, **fields: Any) -> Any:
        service = serving(**({"keys": Keys.of(None, KEYS, "boss")} | fields))

        async def run() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app=app(service, origins), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                answers = []
                for method, path, key in asked:
                    sent = (headers or {}) | ({"Authorization": f"Bearer {key}"} if key else {})
                    body = BODY if method == "POST" else None
                    answers.append(await client.request(method, path, headers=sent, json=body))
                return answers

        return asyncio.run(run())

    return exchange


def test_paths_that_need_no_key(send: Send) -> None:
    for path in ("/health", "/ready"):
        assert send(("GET", path, ""))[0].status_code == 200
        assert send(("GET", path, "wrong"))[0].status_code == 200
    for path in ("/metrics", "/v1/models", "/debug/why", "/debug/why/x", "/is_sleeping", "/nothing", "/healthy"):
        assert send(("GET", path, ""))[0].status_code == 401
    assert send(("GET", "/metrics", ""), limits=Limits(metrics_public=True))[0].status_code == 200
    assert send(("GET", "/metrics", "ka"))[0].status_code == 200
    assert send(("GET", "/metrics", ""), keys=Keys.of())[0].status_code == 200


def test_only_work_is_metered(send: Send) -> None:
    free = send(*[("GET", "/v1/models", "ka")] * 5)
    assert [each.status_code for each in free] == [200] * 5
    assert not any(name.startswith("x-ratelimit") for each in free for name in each.headers)
    work = send(*[("POST", TEXT, "ka")] * 3)
    assert [each.status_code for each in work] == [200, 200, 429]
    assert [each.headers["x-ratelimit-remaining-requests"] for each in work] == ["1", "0", "0"]
    assert int(work[2].headers["retry-after"]) in (29, 30)
    assert [each.status_code for each in send(*[("POST", TEXT, "boss")] * 5)] == [200] * 5


def test_a_place_is_given_back_after_success_and_failure(send: Send, fake_engine: Any) -> None:
    assert [each.status_code for each in send(*[("POST", TEXT, "kb")] * 3)] == [200] * 3
    fake_engine.submit = lambda request: 1 / 0
    assert [each.status_code for each in send(*[("POST", TEXT, "kb")] * 3)] == [500] * 3


def test_the_access_line_names_the_key_s_owner_and_never_the_key(send: Send, capsys: pytest.CaptureFixture[str]) -> None:
    send(("POST", TEXT, "kb"), ("POST", TEXT, "wrong"), ("GET", "/metrics", "kb"))
    good, bad = capsys.readouterr().err.splitlines()
    assert " key=b cmpl-" in good
    assert " 401 " in bad
    assert "wrong" not in bad
    assert "kb" not in good


def test_refusals_are_counted_by_reason_and_answers_by_route(send: Send) -> None:
    asked = [("POST", TEXT, "ka")] * 3 + [("POST", TEXT, ""), ("GET", "/v1/models/x", "kb"), ("GET", "/a/b", "kb")]
    text = send(*asked, ("GET", "/metrics", "kb"))[-1].text
    for line in (
        'lianlu:requests_rejected_total{reason="rate_limit_exceeded"} 1.0',
        'lianlu:requests_rejected_total{reason="invalid_api_key"} 1.0',
        'lianlu:requests_rejected_total{reason="model_not_found"} 1.0',
        'lianlu:http_requests_total{handler="/v1/completions",method="POST",status="200"} 2.0',
        'lianlu:http_requests_total{handler="/v1/models/{name:path}",method="GET",status="404"} 1.0',
        'lianlu:http_requests_total{handler="other",method="GET",status="404"} 1.0',
    ):
        assert line in text.splitlines()


def test_other_origins_get_nothing_unless_they_are_named(send: Send) -> None:
    headers = {"Origin": "https://a.org", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in send(("GET", "/health", ""), headers=headers)[0].headers
    (answer,) = send(("OPTIONS", TEXT, ""), headers=headers, origins=("https://a.org",))
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://a.org")
    (refused,) = send(("POST", TEXT, ""), headers=headers, origins=("https://a.org",))
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://a.org")
    (stranger,) = send(("OPTIONS", TEXT, ""), headers=headers, origins=("https://b.org",))
    assert stranger.status_code == 400
