"""Ten thousand at one time: most are refused at once, nobody hangs, and afterwards the server is as it was.

The server runs in a process of its own, as it would; the client is one event loop over raw sockets.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.e2e

NUM_CONNECTIONS, NUM_EACH = 500, 20
NUM_IDLE = 2000
PATIENCE_S = 90


@pytest.fixture(scope="module")
def files() -> Iterator[None]:
    """Room for two thousand sockets on either side."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = NUM_IDLE + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} open files, this machine allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def small(reciter: Path, files: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with two places and two chairs, in a process of its own."""
    command = [sys.executable, "-m", "lianlu", "serve", str(reciter), "--port", "0", "--name", "reciter"]
    command += ["--max-running", "2", "--max-queued", "2", "--precision", "float32", "--api-key", "k", "--drain", "5"]
    with open(tmp_path_factory.mktemp("flood") / "log", "w+") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            yield next(word for word in ready.split() if word.startswith("http")).removesuffix("/v1")
            process.terminate()
            code = process.wait(60)
            log.seek(0)
            assert code == 0, log.read()[-2000:]
        finally:
            process.kill()
            process.communicate()


def request_bytes(max_tokens: int) -> bytes:
    body = json.dumps({"prompt": "ab", "max_tokens": max_tokens, "temperature": 0}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def next_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers of one answer; its body is read."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers


def where(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def as_before(url: str, soon_idle: Callable[[str], bool]) -> bool:
    """Whether the server is at rest and answers."""
    assert soon_idle(url)
    body = {"prompt": "xy", "max_tokens": 3, "temperature": 0}
    reply = httpx.post(f"{url}/v1/completions", json=body, headers={"Authorization": "Bearer k"})
    return soon_idle(url) and reply.json()["choices"][0]["text"] == "zab"


def test_ten_thousand_requests(small: str, soon_idle: Callable[[str], bool]) -> None:
    async def visit(seen: Counter[int]) -> None:
        reader, writer = await asyncio.open_connection(*where(small))
        writer.write(request_bytes(200) * NUM_EACH)
        for _ in range(NUM_EACH):
            status, headers = await next_answer(reader)
            seen[status] += 1
            assert status != 429 or int(headers["retry-after"]) >= 1
        writer.close()

    async def flood() -> Counter[int]:
        seen: Counter[int] = Counter()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(visit(seen) for _ in range(NUM_CONNECTIONS)))
        return seen

    seen = asyncio.run(flood())
    assert set(seen) <= {200, 429}
    assert seen.total() == NUM_CONNECTIONS * NUM_EACH
    assert seen[429] > seen[200] > 0
    assert as_before(small, soon_idle)


def test_two_thousand_connections_that_say_nothing(small: str, soon_idle: Callable[[str], bool]) -> None:
    """Idle ones, half requests, and half bodies keep nobody from being served."""
    whole = request_bytes(5)
    halves = (b"", whole[:20], whole[:-5])

    async def crowd() -> int:
        writers = []
        async with asyncio.timeout(PATIENCE_S):
            for number in range(NUM_IDLE):
                _, writer = await asyncio.open_connection(*where(small))
                writer.write(halves[number % 3])
                writers.append(writer)
            reader, writer = await asyncio.open_connection(*where(small))
            writer.write(whole)
            status, _ = await next_answer(reader)
        for each in (*writers, writer):
            each.transport.abort()
        return status

    assert asyncio.run(crowd()) == 200
    assert as_before(small, soon_idle)


def test_garbage_and_resets_by_the_hundred(small: str, soon_idle: Callable[[str], bool]) -> None:
    """Bytes that are no HTTP, lines that never end, lies about lengths, and connections that are torn down midway."""
    kinds = (
        b"\x16\x03\x01\x02\x00" * 100,
        b"A" * 200_000,
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\nZZ",
        b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 20_000,
        request_bytes(2000),
    )

    async def visit(number: int) -> bytes:
        reader, writer = await asyncio.open_connection(*where(small))
        answer = b""
        try:
            writer.write(kinds[number % len(kinds)])
            async with asyncio.timeout(0.02 * (number % 7)):
                answer = await reader.readline()
        except (TimeoutError, ConnectionError):
            pass
        writer.transport.abort()
        return answer

    async def storm() -> list[bytes]:
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.gather(*(visit(number) for number in range(350)))

    answers = asyncio.run(storm())
    assert not any(answer.startswith(b"HTTP/1.1 5") for answer in answers)
    assert as_before(small, soon_idle)
