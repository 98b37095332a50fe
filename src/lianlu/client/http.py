"""JSON over HTTP with patience: retries, waits and errors that say what to do.

Sits below `client.openai`. Retried are refused and broken connections and the statuses 429, 502, 503 and 504, with the
server's Retry-After or a doubling wait. A reply that does not come in time is not retried: it would only load the
server again. A stream is retried until its first byte, never after it.
"""

from __future__ import annotations

import contextlib
import email.utils
import ipaddress
import json
import random
import time
from collections.abc import Generator, Iterator
from typing import Any

import httpx

from lianlu.client.sse import ServerEvent, events
from lianlu.core.errors import RequestError

ATTEMPTS = 5
FIRST_WAIT_S = 0.25
MAX_WAIT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
RETRIED = frozenset({429, 502, 503, 504})
KEY_VARIABLE = "LIANLU_API_KEY"


class JsonHttp:
    """One server: GET, POST and streamed POST of JSON below a base URL; safe to use from several threads."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url
        self._timeout_s = timeout_s
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise RequestError(f"{url!r} is not a URL: {error}", hint="write it as http://host:port/v1") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise RequestError(f"{url!r} is not an HTTP URL", hint="write it as http://host:port/v1")
        try:
            self._http = httpx.Client(
                headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
                timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s), pool=None),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
                transport=transport,
                # A proxy named in the environment cannot reach this machine's own servers.
                trust_env=not _is_loopback(parsed.host),
            )
        except UnicodeEncodeError as error:
            raise RequestError("the API key has characters that HTTP cannot carry", hint="copy the key again") from error

    def close(self) -> None:
        """Drop the connections."""
        self._http.close()

    def get(self, path: str) -> Any:
        """The JSON value below `path`. Raises: RequestError."""
        return self._json("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer to `body`. Raises: RequestError."""
        return self._json("POST", path, body)

    def stream(self, path: str, body: dict[str, Any]) -> Generator[ServerEvent, None, None]:
        """The events that answer `body`; closing the iterator hangs up. Raises: RequestError."""
        with self._open("POST", path, body, stream=True) as response:
            kind = response.headers.get("content-type", "")
            if "json" in kind:
                raise self._unexpected("answered at once although a stream was asked for", _read(response))
            with self._network_errors():
                yield from events(response.iter_bytes())

    def _json(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        with self._open(method, path, body, stream=False) as response:
            text = response.content.decode("utf-8", errors="replace")
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._unexpected("answered with something that is not JSON", text) from error

    @contextlib.contextmanager
    def _open(self, method: str, path: str, body: dict[str, Any] | None, stream: bool) -> Iterator[httpx.Response]:
        """A response with status 200, after as many attempts as it takes; with `stream` its body is unread."""
        request = self._http.build_request(method, f"{self.url}/{path}", json=body)
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            response = self._send(request, stream, last)
            if response is None:
                time.sleep(_wait_s(attempt, None))
                continue
            try:
                if response.is_success:
                    yield response
                    return
                if response.status_code not in RETRIED or last:
                    raise self._refusal(response)
                wait_s = _wait_s(attempt, response.headers.get("retry-after"))
            finally:
                response.close()
            time.sleep(wait_s)

    def _send(self, request: httpx.Request, stream: bool, last: bool) -> httpx.Response | None:
        """A response, or None where the connection failed and there are attempts left."""
        try:
            with self._network_errors():
                return self._http.send(request, stream=stream)
        except RequestError as error:
            if last or error.status != 503:
                raise
            return None

    @contextlib.contextmanager
    def _network_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectTimeout as error:
            hint = "is the address right, and is a firewall between?"
            raise RequestError(f"cannot reach {self.url}: no answer to the connection", hint=hint, status=503) from error
        except httpx.TimeoutException as error:
            hint = "give it more time (timeout_s), or ask for fewer tokens"
            raise RequestError(f"{self.url} was silent for {self._timeout_s:g} s", hint=hint, status=504) from error
        except httpx.ConnectError as error:
            hint = "is the server running, and is the port right? `lianlu serve MODEL` starts one"
            raise RequestError(f"cannot connect to {self.url}: {error}", hint=hint, status=503) from error
        except httpx.HTTPError as error:
            hint = "look at the server's log: it hung up in the middle of an answer"
            raise RequestError(f"the connection to {self.url} broke: {error!r}", hint=hint, status=503) from error

    def _refusal(self, response: httpx.Response) -> RequestError:
        status = response.status_code
        message = error_text(_read(response)) or response.reason_phrase
        hint = "look at the server's log"
        if status in (401, 403):
            hint = f"give the server's key: set {KEY_VARIABLE}"
        elif status == 404:
            hint = f"check the model's name ({self.url}/models lists them) and the URL, which mostly ends in /v1"
        elif status == 429:
            hint = "the server limits requests: wait, or lower concurrency"
        elif status < 500:
            hint = "the server does not accept this request as it is; shorten or mend it"
        return RequestError(f"{self.url} answered {status}: {message}", hint=hint, status=status)

    def _unexpected(self, what: str, text: str) -> RequestError:
        shown = " ".join(text.split())[:200] or "(nothing)"
        hint = "is this the address of an OpenAI-compatible API? It mostly ends in /v1"
        return RequestError(f"{self.url} {what}: {shown}", hint=hint, status=502)


def error_text(body: str) -> str:
    """The message inside an error answer, whichever of the usual shapes it has; at most 500 characters."""
    try:
        value = json.loads(body)
    except ValueError:
        value = body
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(key):
            value = value[key]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split())[:500]


def _read(response: httpx.Response) -> str:
    """The body of an answer that is going to be reported; empty if it cannot be read any more."""
    with contextlib.suppress(httpx.HTTPError):
        return response.read().decode("utf-8", errors="replace")
    return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _wait_s(attempt: int, retry_after: str | None) -> float:
    """Seconds to wait: what the server asks for (seconds or a date), else doubling with jitter; at most MAX_WAIT_S."""
    if retry_after:
        asked = _retry_after_s(retry_after)
        if asked is not None and asked >= 0:
            return min(asked, MAX_WAIT_S)
    return min(FIRST_WAIT_S * float(2**attempt) * random.uniform(1.0, 1.25), MAX_WAIT_S)


def _retry_after_s(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError):
        return None
