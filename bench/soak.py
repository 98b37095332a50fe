"""An hour of mixed traffic against `lianlu serve`: does memory stay flat, and does every request end?

Streams and whole replies, long and short prompts, shared beginnings, sampled, constrained and with tools; a quarter of the
clients go away in the middle. Every minute a line is printed and kept: memory, open files, requests, blocks in use. At the end
the server has to be idle with every block given back; the slope of memory after the first ten minutes is printed.
Keeps bench/results/soak.json. Run: python bench/soak.py [--minutes 60]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from procfs import num_open_files, resident_bytes
from serving import MODEL, PORT, server

RESULTS = Path(__file__).parent / "results" / "soak.json"
CLIENTS = 12
WORDS = ["river", "stone", "cloud", "apple", "night", "house", "paper", "light", "music", "water"]
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name", "age"]}
TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}},
}


def body(rng: random.Random) -> dict[str, Any]:
    """Some request."""
    words = rng.choices(WORDS, k=rng.choice([5, 30, 300]))
    system = f"You are assistant number {rng.randrange(4)}. " + "Answer briefly and kindly. " * 20
    wanted: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": " ".join(words)}],
        "max_tokens": rng.choice([1, 8, 40, 120]),
        "temperature": rng.choice([0, 0.8]),
        "stream": rng.random() < 0.6,
    }
    kind = rng.random()
    if kind < 0.1:
        wanted["response_format"] = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    elif kind < 0.2:
        wanted |= {"tools": [TOOL], "tool_choice": rng.choice(["auto", "required"])}
    elif kind < 0.3:
        wanted |= {"n": 3, "presence_penalty": 0.5, "logprobs": True, "top_logprobs": 2}
    return wanted


async def one(rng: random.Random, seen: Counter[str]) -> None:
    """Send a request; read it to its end, or leave in the middle."""
    raw = json.dumps(body(rng)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
    try:
        if rng.random() < 0.25:
            await asyncio.sleep(rng.random())
            seen["left"] += 1
            return
        status = (await reader.readline()).split()[1].decode()
        rest = await asyncio.wait_for(reader.read(-1), timeout=120)
        seen[status if b'"error"' not in rest or status != "200" else "error in stream"] += 1
    except (TimeoutError, ConnectionError, IndexError) as error:
        seen[type(error).__name__] += 1
    finally:
        writer.close()


async def client(number: int, end_s: float, seen: Counter[str]) -> None:
    """Requests one after another until the end."""
    rng = random.Random(number)
    while time.monotonic() < end_s:
        await one(rng, seen)


def health() -> dict[str, Any]:
    """How busy the server says it is."""
    answer: dict[str, Any] = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health").read())
    return answer


async def watch(pid: int, end_s: float, seen: Counter[str], rows: list[dict[str, Any]]) -> None:
    """A line a minute."""
    began = time.monotonic()
    while time.monotonic() < end_s:
        await asyncio.sleep(min(60.0, max(end_s - time.monotonic(), 0.1)))
        row = {"minute": (time.monotonic() - began) / 60, "resident_bytes": resident_bytes(pid), "files": num_open_files(pid)}
        rows.append(row | {"ended": dict(seen)})
        print(
            f"{row['minute']:5.1f} min: {row['resident_bytes'] / 2**20:.1f} MiB, {row['files']} files, {dict(seen)}", flush=True
        )


def slope_bytes_per_hour(rows: list[dict[str, Any]]) -> float:
    """Growth of memory by least squares, without the first sixth."""
    kept = rows[len(rows) // 6 :]
    x = [row["minute"] / 60 for row in kept]
    y = [row["resident_bytes"] for row in kept]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((value - mean_x) ** 2 for value in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread if spread else 0.0


async def run(pid: int, minutes: float) -> tuple[Counter[str], list[dict[str, Any]]]:
    """All clients and the watch."""
    end_s, seen, rows = time.monotonic() + 60 * minutes, Counter[str](), list[dict[str, Any]]()
    await asyncio.gather(watch(pid, end_s, seen, rows), *(client(number, end_s, seen) for number in range(CLIENTS)))
    return seen, rows


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description="an hour of mixed traffic")
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    with server() as process:
        seen, rows = asyncio.run(run(process.pid, options.minutes))
        time.sleep(2)
        after = health()
    slope = slope_bytes_per_hour(rows)
    print(f"ended: {dict(seen)}; at rest: {after}; memory grows by {slope / 2**20:.1f} MiB an hour after the start")
    result = {"minutes": options.minutes, "ended": dict(seen), "health": after, "slope_bytes_per_hour": slope, "rows": rows}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
