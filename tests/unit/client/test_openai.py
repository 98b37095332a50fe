from __future__ import annotations

import contextlib
import email.utils
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from lianlu.client import http
from lianlu.client.base import ChatRequest, ChatScoreRequest, Client, CompletionRequest, ScoreRequest
from lianlu.client.openai import OpenAIClient, api_root
from lianlu.core.errors import RequestError
from lianlu.formats.messages import Message, ToolCall


def ask(text: str) -> ChatRequest:
    return ChatRequest([Message(role="user", content=text)])


def answer(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"choices": [{"message": message, "text": text, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits are noted instead of slept."""
    noted: list[float] = []
    monkeypatch.setattr(http.time, "sleep", noted.append)
    return noted


@contextlib.contextmanager
def mocked(handler: Callable[[httpx.Request], httpx.Response], **options: Any) -> Iterator[OpenAIClient]:
    client = OpenAIClient("http://model.test", "m", transport=httpx.MockTransport(handler), **options)
    with contextlib.closing(client):
        yield client


def streamed(*chunks: bytes) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=iter(chunks))


def piece(text: str = "", finish: str | None = None) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": finish}]}).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("localhost:8000", "http://localhost:8000/v1"),
        ("http://h/v1/", "http://h/v1"),
        ("https://h/api/v3", "https://h/api/v3"),
        ("https://h/openai/v1beta", "https://h/openai/v1beta"),
        ("http://v1", "http://v1/v1"),
    ],
)
def test_api_root(url: str, root: str) -> None:
    assert api_root(url) == root


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host:port", "http://[::1"])
def test_bad_urls(url: str) -> None:
    with pytest.raises(RequestError, match="URL"):
        OpenAIClient(url, "m")


def test_replies_come_in_order_and_side_by_side() -> None:
    barrier = threading.Barrier(4, timeout=20)

    def handler(request: httpx.Request) -> httpx.Response:
        barrier.wait()
        return httpx.Response(200, json=answer(json.loads(request.content)["messages"][0]["content"]))

    with mocked(handler, concurrency=4) as client:
        assert [reply.text for reply in client.chat([ask(str(n)) for n in range(8)])] == [str(n) for n in range(8)]


def test_an_error_ends_the_batch() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        prompt = json.loads(request.content)["prompt"]
        seen.append(prompt)
        return (
            httpx.Response(400, json={"error": {"message": "too long"}})
            if prompt == "0"
            else httpx.Response(200, json=answer(""))
        )

    with mocked(handler, concurrency=1) as client, pytest.raises(RequestError, match="too long") as caught:
        client.complete([CompletionRequest(str(n)) for n in range(5)])
    assert (caught.value.status, seen) == (400, ["0"])


def test_key_and_model_from_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("GET", "/v1/models")
        assert request.headers["authorization"] == "Bearer secret"
        return httpx.Response(200, json={"data": [{"id": "first"}, {"id": "second"}]})

    monkeypatch.setenv("LIANLU_API_KEY", "secret")
    client: Client = OpenAIClient("http://model.test", transport=httpx.MockTransport(handler))
    assert client.name == "first"
    client.close()


def test_no_models() -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json={"data": []}))
    with pytest.raises(RequestError, match="lists no models"):
        OpenAIClient("http://model.test", transport=transport)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_busy_servers_are_asked_again(status: int, waits: list[float]) -> None:
    answers = [
        httpx.Response(status, headers={"retry-after": "7"}),
        httpx.Response(status),
        httpx.Response(200, json=answer("ok")),
    ]
    with mocked(lambda request: answers.pop(0)) as client:
        assert client.chat([ask("x")])[0].text == "ok"
    assert waits[0] == 7
    assert 2 * http.FIRST_WAIT_S <= waits[1] <= 4 * http.FIRST_WAIT_S


def test_retry_after_as_a_date_and_nonsense() -> None:
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 25 < http._wait_s(0, date) <= 30
    assert http._wait_s(0, "1e9") == http.MAX_WAIT_S
    for nonsense in ("soon", "nan", "-3", email.utils.formatdate(0)):
        assert http._wait_s(0, nonsense) < 1


def test_patience_ends(waits: list[float]) -> None:
    busy = httpx.Response(429, json={"error": "slow down"})
    with mocked(lambda request: busy) as client, pytest.raises(RequestError, match="slow down") as caught:
        client.chat([ask("x")])
    assert (caught.value.status, len(waits)) == (429, http.ATTEMPTS - 1)


def test_broken_connections_are_tried_again_but_silence_is_not(waits: list[float]) -> None:
    failures: list[Exception] = [httpx.ConnectError("refused"), httpx.ReadError("reset")]

    def handler(request: httpx.Request) -> httpx.Response:
        if failures:
            raise failures.pop(0)
        return httpx.Response(200, json=answer("ok"))

    with mocked(handler) as client:
        assert client.chat([ask("x")])[0].text == "ok"
        failures.append(httpx.ReadTimeout("silence"))
        with pytest.raises(RequestError, match="was silent for 600 s"):
            client.chat([ask("x")])
    assert len(waits) == 2


@pytest.mark.parametrize(
    ("response", "words", "hint"),
    [
        (httpx.Response(401, json={"error": {"message": "bad key"}}), "401: bad key", "LIANLU_API_KEY"),
        (httpx.Response(404, json={"error": {"message": "no model m"}}), "404: no model m", "/v1/models"),
        (httpx.Response(422, json={"detail": [{"msg": "max_tokens"}]}), "422: .*max_tokens", "mend"),
        (httpx.Response(500, text="<html>\n oh no</html>"), "500: <html> oh no", "log"),
        (httpx.Response(500), "500: Internal Server Error", "log"),
        (httpx.Response(200, text="<html>hello</html>"), "not JSON: <html>hello", "/v1"),
        (httpx.Response(200, content=b"\xff\xfe"), "not JSON", "/v1"),
        (httpx.Response(302, headers={"location": "/login"}), "302", "log|mend"),
    ],
)
def test_clear_errors(response: httpx.Response, words: str, hint: str) -> None:
    with mocked(lambda request: response) as client, pytest.raises(RequestError, match=words) as caught:
        client.chat([ask("x")])
    assert any(part in caught.value.hint for part in hint.split("|"))


WORDS = {
    "one two": ["one", " two"],
    "one two th": ["one", " two", " th"],
    "one two three four": ["one", " two", " three", " four"],
}


def echo(request: httpx.Request) -> httpx.Response:
    body = json.loads(request.content)
    assert (body["echo"], body["max_tokens"], body["logprobs"]) == (True, 0, 1)
    tokens = WORDS[body["prompt"]]
    offsets = [len("".join(tokens[:i])) for i in range(len(tokens))]
    logprobs = {"tokens": tokens, "token_logprobs": [None, -1.0, -2.0, -4.0][: len(tokens)], "text_offset": offsets}
    return httpx.Response(200, json={"choices": [{"text": body["prompt"], "logprobs": logprobs}]})


def test_score() -> None:
    with mocked(echo) as client:
        pairs = [("one two", " three four"), ("one two ", "three four"), ("one two th", "ree four"), ("one", " two")]
        scores = client.score([ScoreRequest(*pair) for pair in pairs])
        assert [(score.logprob, score.num_tokens) for score in scores] == [(-6.0, 2), (-6.0, 2), (-4.0, 1), (-1.0, 1)]
        with pytest.raises(RequestError, match="first token of a text"):
            client.score([ScoreRequest("", "one two")])
        with pytest.raises(RequestError, match="cannot score a conversation"):
            client.score([ScoreRequest("a", "b"), ChatScoreRequest([Message(role="assistant", content="x")])])


def test_stream_of_text() -> None:
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\r\n\r\n'
    whole = b": hello\n\n" + piece("a\u2028") + piece("\u00e9") + piece(finish="stop") + usage + b"data: [DONE]\n\n"
    for size in (1, 7, len(whole)):
        chunks = [whole[i : i + size] for i in range(0, len(whole), size)]
        with mocked(lambda request, chunks=chunks: streamed(*chunks)) as client:
            deltas = list(client.stream(ask("x")))
        assert [delta.text for delta in deltas] == ["a\u2028", "\u00e9", ""]
        reply = deltas[-1].reply
        assert reply is not None
        assert (reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("a\u2028\u00e9", "stop", 3, 2)


def test_stream_of_calls() -> None:
    pieces = [
        {"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"x":'}},
        {"index": 0, "function": {"arguments": " 1}"}},
    ]
    chunks = [b"data: " + json.dumps({"choices": [{"delta": {"tool_calls": [p]}}]}).encode() + b"\n\n" for p in pieces]
    with mocked(lambda request: streamed(*chunks, piece(finish="tool_calls"))) as client:
        (last,) = client.stream(ask("x"))
    assert last.reply is not None
    assert last.reply.message.tool_calls == [ToolCall(id="c", name="f", arguments={"x": 1})]
    assert last.reply.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (streamed(piece("a"), b'data: {"error": {"message": "lost it"}}\n\n'), "lost it"),
        (streamed(piece("a"), b'event: error\ndata: {"message": "lost it"}\n\n'), "lost it"),
        (streamed(piece("a"), b'data: {"choi'), "not JSON"),
        (streamed(b"data: 3\n\n"), "no object"),
        (streamed(piece("a")), "middle of the reply"),
        (streamed(piece("a"), b"data: [DONE]\n\n"), "middle of the reply"),
        (httpx.Response(200, json=answer("x")), "stream was asked for"),
        (httpx.Response(400, json={"error": {"message": "no"}}), "400: no"),
    ],
)
def test_streams_that_go_wrong(response: httpx.Response, words: str) -> None:
    with mocked(lambda request: response) as client, pytest.raises(RequestError, match=words):
        list(client.stream(ask("x")))


def test_a_stream_is_not_begun_again_after_its_first_byte(waits: list[float]) -> None:
    def chunks() -> Iterator[bytes]:
        yield piece("a")
        raise httpx.ReadError("reset")

    requests: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, content=chunks())

    with mocked(handler) as client, pytest.raises(RequestError, match="broke"):
        list(client.stream(ask("x")))
    assert len(requests) == 1
    assert not waits


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hung_up: threading.Event

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body.get("stream"):
            self._stream()
        else:
            data = json.dumps(answer(body["messages"][-1]["content"])).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            while True:
                self.wfile.write(piece("word "))
                self.wfile.flush()
        except OSError:
            type(self).hung_up.set()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    Handler.hung_up = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


def test_a_real_server_despite_a_proxy_in_the_environment(server: str) -> None:
    with contextlib.closing(OpenAIClient(server, "m")) as client:
        texts = [f"{n} \u00e9" for n in range(20)]
        assert [reply.text for reply in client.chat([ask(text) for text in texts])] == texts


def test_closing_a_stream_hangs_up(server: str) -> None:
    with contextlib.closing(OpenAIClient(server, "m")) as client:
        deltas = client.stream(ask("x"))
        assert next(deltas).text == "word "
        deltas.close()
        assert Handler.hung_up.wait(20)


def test_a_refused_connection_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(RequestError, match=f"cannot connect to http://127.0.0.1:{port}") as caught:
            OpenAIClient(f"127.0.0.1:{port}")
    assert "running" in caught.value.hint
