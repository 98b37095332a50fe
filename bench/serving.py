"""What the front end costs: 32 streams over HTTP against `lianlu serve` in a process of its own, and the server at rest.

The server's main thread is its front end (sockets, HTTP, JSON, templates, tokens to text go on beside the engine's thread). Its
processor time while all streams run, as a share of that time, is the front end's share of a step. The client is one
asyncio process over plain sockets, as light as it can be, because it sits on the same processor.
At rest: processor time of the whole server in ten seconds without a request. Keeps bench/results/serving.json.
Run: python bench/serving.py [--streams 32] [--tokens 64]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from procfs import cpu_seconds, resident_bytes

RESULTS = Path(__file__).parent / "results" / "serving.json"
PORT = 8765
MODEL = "smollm2-135m-instruct"
REST_S = 10.0


@contextlib.contextmanager
def server(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`lianlu serve` until the end of the block, ready when it begins."""
    command = [str(Path(sys.executable).parent / "lianlu"), "serve", MODEL, "--port", str(PORT), *options]
    process = subprocess.Popen(command)
    try:
        for _ in range(600):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/ready").read()
                break
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait()


def request(number: int, num_tokens: int) -> bytes:
    """A streamed chat completion as it goes over the wire."""
    words = random.Random(number).choices(["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"], k=40)
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": " ".join(words)}],
        "max_tokens": num_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    raw = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


async def stream(number: int, num_tokens: int) -> tuple[float, float, int]:
    """Seconds to the first piece of text and to the end, and how many pieces came."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    writer.write(request(number, num_tokens))
    first, pieces = 0.0, 0
    while b"[DONE]" not in (line := await reader.readline()):
        if b'"content":"' in line and b'"content":""' not in line:
            first = first or time.perf_counter() - began
            pieces += 1
    writer.close()
    return first, time.perf_counter() - began, pieces


async def load(count: int, num_tokens: int, seed: int) -> list[tuple[float, float, int]]:
    """So many streams at once."""
    return await asyncio.gather(*(stream(seed + number, num_tokens) for number in range(count)))


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description="front-end share of a step, and the server at rest")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with server() as process:
        asyncio.run(load(options.streams, 8, 0))
        shares, rates = [], []
        for number in range(1, options.rounds + 1):
            began, cpu = time.perf_counter(), cpu_seconds(process.pid, process.pid)
            asyncio.run(load(options.streams, options.tokens, 1000 * number))
            seconds = time.perf_counter() - began
            shares.append((cpu_seconds(process.pid, process.pid) - cpu) / seconds)
            rates.append(options.streams * options.tokens / seconds)
        alone = [asyncio.run(load(1, 2, 50_000 + number))[0][0] for number in range(5)]
        resting = cpu_seconds(process.pid)
        time.sleep(REST_S)
        figures = {
            "streams": options.streams,
            "front_end_share": statistics.median(shares),
            "tok_per_s": statistics.median(rates),
            "first_piece_alone_s": statistics.median(alone),
            "idle_cpu_share": (cpu_seconds(process.pid) - resting) / REST_S,
            "resident_bytes": resident_bytes(process.pid),
        }
    print(f"{options.streams} streams: {figures['tok_per_s']:.0f} tok/s, front end {figures['front_end_share']:.1%} of the time")
    print(f"one request alone: first text after {figures['first_piece_alone_s'] * 1e3:.0f} ms")
    print(f"at rest: {figures['idle_cpu_share']:.2%} of a core, {figures['resident_bytes'] / 2**20:.0f} MiB")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
