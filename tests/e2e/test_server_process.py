"""`lianlu serve` in a process of its own: signals, draining, leaving at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import openai
import pytest

pytestmark = pytest.mark.e2e

LONG = {"prompt": "ab", "max_tokens": 4000, "temperature": 0, "stream": True}


class Process:
    """`lianlu serve` in a process of its own; killed in the end if it has not ended by itself."""

    def __init__(self, model: Path, *options: str, wait: bool = True) -> None:
        command = [sys.executable, "-m", "lianlu", "serve", str(model), "--port", "0", "--name", "reciter", *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline() if wait else ""
        self.url = next((word for word in self.ready.split() if word.startswith("http")), "").removesuffix("/v1")

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> tuple[int, str]:
        """Exit code and what was said on stderr."""
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_finish(reciter: Path, number: signal.Signals) -> None:
    with Process(reciter) as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            stream = client.completions.create(model="reciter", prompt="xy", temperature=0, max_tokens=300, stream=True)
            pieces = [next(iter(stream)).choices[0].text]
            server.process.send_signal(number)
            pieces += [chunk.choices[0].text for chunk in stream]
        code, said = server.end()
    assert len("".join(pieces)) == 300
    assert code == 0, said
    assert "stopping: 1 request" in said
    assert "Traceback" not in said


def test_while_it_drains_new_requests_are_refused_and_a_second_signal_ends_it(reciter: Path) -> None:
    with Process(reciter) as server, httpx.stream("POST", f"{server.url}/v1/completions", json=LONG) as running:
        pieces = running.iter_bytes()
        next(pieces)
        server.process.send_signal(signal.SIGTERM)
        while httpx.get(f"{server.url}/ready").status_code != 503:
            pass
        response = httpx.post(f"{server.url}/v1/completions", json=LONG)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "draining")
        server.process.send_signal(signal.SIGINT)
        code, _ = server.end()
        pieces.close()
    assert code == 130


def test_an_idle_server_ends_at_once(reciter: Path) -> None:
    with Process(reciter, "--host", "0.0.0.0") as server:
        assert server.ready.startswith("ready: http://127.0.0.1:")
        server.process.send_signal(signal.SIGINT)
        code, said = server.end()
    assert code == 0, said
    assert "everybody who reaches 0.0.0.0 may use the model" in said
    assert said.rstrip().endswith("stopped")


def test_a_signal_during_loading_ends_it(smollm2: Path) -> None:
    with Process(smollm2, wait=False) as server:
        assert server.process.stderr is not None
        assert "loading" in server.process.stderr.readline()
        server.process.send_signal(signal.SIGTERM)
        code, said = server.end()
    assert code == 0, said
    assert "Traceback" not in said


def test_a_port_in_use_is_the_user_s_mistake(reciter: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, Process(reciter, "--port", str(taken.getsockname()[1])) as server:
        code, said = server.end()
    assert code == 2
    assert "is in use" in said
    assert "--port 0" in said
