"""Clients that leave, stall, flood and send garbage: nobody else suffers, and no block stays behind."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from lianlu.core.errors import ConfigError, DataError
from lianlu.serve.main import running_server

pytestmark = pytest.mark.e2e

CONTEXT = 4096
LONG = {"prompt": "ab", "max_tokens": CONTEXT - 10, "temperature": 0}
Idle = Callable[[str], bool]


def recite(client: openai.OpenAI, **fields: Any) -> Any:
    return client.completions.create(**{"model": "reciter", "prompt": "xy", "temperature": 0} | fields)


def test_a_full_queue_is_a_rate_limit(reciter: Path, soon_idle: Idle) -> None:
    with running_server(reciter, name="reciter", engine={"max_running": 1, "max_queued": 1}) as small:
        client = openai.OpenAI(base_url=f"{small}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.RateLimitError) as caught:
            recite(client, n=4, max_tokens=2000)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert soon_idle(small)
        assert recite(client, max_tokens=2).choices[0].text == "za"
        client.close()


def test_a_client_that_leaves_a_stream_frees_its_blocks(client: openai.OpenAI, url: str, soon_idle: Idle) -> None:
    stream = recite(client, max_tokens=CONTEXT - 10, stream=True)
    next(iter(stream))
    assert httpx.get(f"{url}/health").json()["num_running"] == 1
    stream.close()
    assert soon_idle(url)


def test_a_client_that_stops_waiting_frees_its_blocks(url: str, soon_idle: Idle) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/v1/completions", json=LONG | {"n": 2}, timeout=0.3)
    assert soon_idle(url)


def raw(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def request_bytes(body: dict[str, Any]) -> bytes:
    text = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n"
    return head.encode() + text


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return received


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"\x00" * 1000, b"POST /v1/models HTTP/9.9\r\n\r\n"]
)
def test_garbage_is_refused_and_hurts_nobody(url: str, garbage: bytes) -> None:
    with raw(url) as connection:
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        answer = read_all(connection)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert httpx.get(f"{url}/health").json()["status"] == "ready"


def test_half_a_request_and_half_a_connection(url: str, soon_idle: Idle) -> None:
    whole = request_bytes(LONG | {"stream": True})
    for sent in (whole[: len(whole) // 2], whole):
        with raw(url) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            read_all(connection)
    assert soon_idle(url)


def test_a_connection_that_is_reset_in_the_middle(url: str, soon_idle: Idle) -> None:
    connection = raw(url)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.sendall(request_bytes(LONG | {"stream": True}))
    assert connection.recv(100).startswith(b"HTTP/1.1 200")
    connection.close()
    assert soon_idle(url)


def test_a_slow_reader_holds_up_nobody(url: str, client: openai.OpenAI, soon_idle: Idle) -> None:
    with raw(url) as slow:
        slow.sendall(request_bytes({"prompt": "ab", "max_tokens": 1000, "temperature": 0, "stream": True}))
        assert recite(client, max_tokens=5).choices[0].text == "zabcd"
        assert soon_idle(url)
        received = b""
        while b"[DONE]" not in received:
            received += slow.recv(65536)
    assert received.count(b'"finish_reason":"length"') == 1


def test_malformed_json(url: str) -> None:
    for body in (b"{", b"", b"\xff\xfe", b"[" * 5000, b'{"prompt": "a"} trailing'):
        response = httpx.post(f"{url}/v1/completions", content=body)
        assert response.status_code == 400
        assert "JSON" in response.json()["error"]["message"]


def test_a_large_body_is_refused_to_a_client_that_is_still_sending(reciter: Path) -> None:
    with running_server(reciter, max_body_bytes=100_000) as address:
        response = httpx.post(f"{address}/v1/completions", json={"prompt": "x" * 300_000})
        assert response.status_code == 413


def test_a_port_in_use_is_named_before_the_model_is_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}"), running_server(Path("/nonexistent"), port=port):
            pass


def test_a_model_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError), running_server(tmp_path):
        pass


def test_a_storm_of_clients_leaves_nothing_behind(url: str, client: openai.OpenAI, soon_idle: Idle) -> None:
    """Clients that read to the end, leave at once, leave after a while, or ask nonsense, all at the same time."""

    async def visit(number: int) -> bytes:
        patient = number % 4 == 0
        body = LONG | {"max_tokens": 40 if patient else 4000, "stream": number % 2 == 0, "n": 1 + number % 3}
        body |= {"temperature": -1} if number % 7 == 0 else {}
        reader, writer = await asyncio.open_connection(*address)
        writer.write(request_bytes(body))
        status = b""
        try:
            async with asyncio.timeout(30 if patient else number % 5 * 0.05):
                status = (await reader.readline())[9:12]
                await reader.read(-1)
        except TimeoutError:
            writer.transport.abort()
        writer.close()
        return status

    async def storm() -> list[bytes]:
        return await asyncio.gather(*(visit(number) for number in range(120)))

    host, port = url.removeprefix("http://").split(":")
    address = (host, int(port))
    seen = asyncio.run(storm())
    assert set(seen) <= {b"", b"200", b"400", b"429"}
    assert seen.count(b"400") >= 5
    assert b"200" in seen
    assert soon_idle(url)
    assert recite(client, max_tokens=3).choices[0].text == "zab"


def test_requests_that_outlive_the_drain_are_given_up_with_an_error(reciter: Path) -> None:
    with running_server(reciter, drain_s=0.2) as address:
        connection = raw(address)
        connection.sendall(request_bytes(LONG | {"stream": True}))
        received = connection.recv(100)
    with connection:
        received += read_all(connection)
    last = received.rsplit(b"data: ", 1)[-1]
    assert b"the server stopped before the reply was complete" in last
    assert b"[DONE]" not in received


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_other_addresses_of_this_machine(reciter: Path, host: str) -> None:
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        with running_server(reciter, host=host) as address:
            assert httpx.get(f"{address}/health").json()["status"] == "ready"
    except ConfigError:
        if host != "::1":
            raise
        pytest.skip("this machine has no IPv6 address")


def test_a_host_that_is_none() -> None:
    with pytest.raises(ConfigError, match="no address"), running_server(Path("/nonexistent"), host="no.such.host.invalid"):
        pass


def test_a_setting_that_is_none() -> None:
    with pytest.raises(ConfigError, match="did you mean port"), running_server(Path("/nonexistent"), prt=5):
        pass
