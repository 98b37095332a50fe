"""The server as its clients see it: real sockets, the official `openai` client, and clients that misbehave.

The model is a reciter: it has no memory, and each token has one likely successor, so that it says what the test wrote
into it (a reply with a tool call; a walk through the alphabet that never ends), fast and for known reasons.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from lianlu.client.base import ChatRequest, Sampling, ScoreRequest
from lianlu.client.openai import OpenAIClient
from lianlu.core.errors import ConfigError, DataError
from lianlu.formats.messages import Message
from lianlu.serve.main import running_server

pytestmark = pytest.mark.e2e

CONTEXT = 4096
REPLY = ["Let", "Ġme", "Ġadd", ".", "<tool_call>", '{"name":', 'Ġ"add",', 'Ġ"arguments":', 'Ġ{"a":', "Ġ1}}", "</tool_call>"]
TEXT = "Let me add."
CALLS = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
TOOLS: Any = [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}
]
USER: Any = [{"role": "user", "content": "What is 1 + 1?"}]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tokenizer(folder: Path) -> dict[str, int]:
    """Bytes, the pieces of the reply, and three control tokens; returns the vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys([*letters, *REPLY]))}
    fast = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")])
    fast.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "bos_token": "<|endoftext|>",
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return dict(fast.get_vocab())


def write_model(folder: Path, vocab: dict[str, int]) -> None:
    """A decoder whose attention and feed-forward do nothing and whose head knows each token's successor."""
    import torch

    from lianlu.model.config import ModelConfig
    from lianlu.model.decoder import Decoder
    from lianlu.model.save import save_model

    size = 320
    config = ModelConfig(
        architecture="llama", vocab_size=len(vocab), hidden_size=size, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=5, num_key_value_heads=1, head_dim=64, max_position_embeddings=CONTEXT,
        eos_token_ids=(vocab["<|im_end|>"],), bos_token_id=vocab["<|endoftext|>"],
    )  # fmt: skip
    model = Decoder(config)
    chain = [*pairwise(["Ċ", *REPLY, "<|im_end|>"]), *pairwise(ALPHABET + "a")]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        state = model.state_dict()
        (embedding,) = (name for name in state if "emb" in name)
        (head,) = (name for name in state if name.startswith(("head", "lm_head", "output")))
        state[embedding][:, : len(vocab)] = torch.eye(len(vocab))
        for before, after in chain:
            state[head][vocab[after], vocab[before]] = 7.0 / size**0.5
    save_model(model, folder)


@pytest.fixture(scope="module")
def reciter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reciter")
    write_model(folder, write_tokenizer(folder))
    return folder


@pytest.fixture(scope="module")
def url(reciter: Path) -> Iterator[str]:
    with running_server(reciter, name="reciter", precision="float32", max_queued=8) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


def health(url: str) -> dict[str, Any]:
    return dict(httpx.get(f"{url}/health").json())


def until(condition: Callable[[], bool], limit_s: float = 20) -> bool:
    """Wait until something holds; whether it came to hold."""
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def is_idle(url: str) -> bool:
    state = health(url)
    return state["num_running"] == state["num_queued"] == state["used_blocks"] == 0


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "reciter", "messages": USER, "temperature": 0} | fields)


def recite(client: openai.OpenAI, **fields: Any) -> Any:
    return client.completions.create(**{"model": "reciter", "prompt": "xy", "temperature": 0} | fields)


def test_a_reply(client: openai.OpenAI) -> None:
    reply = ask(client)
    assert reply.choices[0].message.content == TEXT + CALLS
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == "reciter"
    assert reply.usage.completion_tokens == len(REPLY) + 1
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_a_streamed_reply_is_the_same(client: openai.OpenAI) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT + CALLS
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == len(REPLY) + 1


def test_tool_calls(client: openai.OpenAI) -> None:
    choice = ask(client, tools=TOOLS).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", TEXT)
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 1})
    answer = {"role": "tool", "tool_call_id": call.id, "content": "2"}
    again = ask(client, tools=TOOLS, messages=[*USER, choice.message.model_dump(), answer])
    assert again.usage.prompt_tokens > 0


def test_streamed_tool_calls(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="reciter", messages=USER, tools=TOOLS, temperature=0) as stream:
        shown = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion().choices[0]
    assert shown == TEXT
    assert final.finish_reason == "tool_calls"
    assert final.message.tool_calls is not None
    assert json.loads(final.message.tool_calls[0].function.arguments) == {"a": 1}


def test_logprobs(client: openai.OpenAI) -> None:
    entries = ask(client, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert [entry.token for entry in entries][:3] == ["Let", " me", " add"]
    for entry in entries:
        assert entry.logprob == pytest.approx(entry.top_logprobs[0].logprob)
        assert len(entry.top_logprobs) == 3
        assert -1.0 < entry.logprob < 0.0
    streamed = [
        e for c in ask(client, logprobs=True, stream=True) if c.choices[0].logprobs for e in c.choices[0].logprobs.content
    ]
    assert [entry.logprob for entry in streamed] == [entry.logprob for entry in entries]


def test_stop_and_max_tokens(client: openai.OpenAI) -> None:
    choice = recite(client, max_tokens=100, stop=["f", "zz"]).choices[0]
    assert (choice.text, choice.finish_reason) == ("zabcde", "stop")
    choice = recite(client, max_tokens=3).choices[0]
    assert (choice.text, choice.finish_reason) == ("zab", "length")
    streamed = "".join(c.choices[0].text for c in recite(client, max_tokens=100, stop="cd", stream=True))
    assert streamed == "zab"
    assert ask(client, max_completion_tokens=2).choices[0].message.content == "Let me"


def test_choices_and_seeds(client: openai.OpenAI) -> None:
    def texts(**fields: Any) -> list[str]:
        return [choice.text for choice in recite(client, temperature=1.5, max_tokens=12, **fields).choices]

    first = texts(n=3, seed=5)
    assert len(set(first)) == 3
    assert texts(n=3, seed=5) == first
    assert texts(n=1, seed=6) == [first[1]]
    assert texts(n=3, seed=99) != first
    assert len(set(texts(n=4))) > 1


def test_prompts_of_all_kinds(client: openai.OpenAI) -> None:
    body = recite(client, prompt=["ab", "xy"], max_tokens=2)
    assert [choice.text for choice in body.choices] == ["cd", "za"]
    assert body.usage.prompt_tokens == 4
    assert recite(client, prompt="", max_tokens=1).choices[0].finish_reason == "length"


def test_echo_scores_a_text(client: openai.OpenAI) -> None:
    choice = recite(client, prompt="abcx", max_tokens=0, echo=True, logprobs=2).choices[0]
    assert choice.text == "abcx"
    assert choice.logprobs.tokens == list("abcx")
    assert choice.logprobs.text_offset == [0, 1, 2, 3]
    first, *rest = choice.logprobs.token_logprobs
    assert first is None
    assert rest[0] == pytest.approx(rest[1])
    assert rest[2] == pytest.approx(rest[0] - 7.0, abs=0.05)
    both = recite(client, prompt="ab", max_tokens=2, echo=True, logprobs=0).choices[0]
    assert (both.text, both.logprobs.tokens) == ("abcd", list("abcd"))
    assert both.logprobs.token_logprobs[1:] == pytest.approx([rest[0]] * 3)


def test_our_own_client_scores_and_streams(url: str) -> None:
    own = OpenAIClient(url)
    likely, unlikely = own.score([ScoreRequest("ab", "cd"), ScoreRequest("ab", "xx")])
    assert (likely.num_tokens, likely.is_greedy, unlikely.is_greedy) == (2, True, False)
    assert likely.logprob > unlikely.logprob
    deltas = list(own.stream(ChatRequest([Message(role="user", content="hi")], sampling=Sampling(max_tokens=4))))
    assert "".join(delta.text for delta in deltas) == TEXT
    assert deltas[-1].reply is not None
    own.close()


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.owned_by) == ("reciter", "lianlu")
    assert model.model_dump()["context_length"] == CONTEXT
    assert client.models.retrieve("reciter").id == "reciter"


def test_requests_side_by_side_get_their_own_answers(url: str) -> None:
    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            starts = [ALPHABET[i % 24 : i % 24 + 2] for i in range(24)]
            jobs = [client.completions.create(model="reciter", prompt=start, max_tokens=30, temperature=0) for start in starts]
            return [start + reply.choices[0].text for start, reply in zip(starts, await asyncio.gather(*jobs), strict=True)]

    endless = ALPHABET * 3
    for text in asyncio.run(all_at_once()):
        assert text in endless


def test_async_streams(url: str) -> None:
    async def read() -> str:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            stream = await client.chat.completions.create(model="reciter", messages=USER, temperature=0, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(read()) == TEXT + CALLS


def test_errors_have_the_client_s_types(client: openai.OpenAI, url: str) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        ask(client, temperature=3)
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        ask(client, model="other")
    with pytest.raises(openai.BadRequestError, match=f"{CONTEXT}"):
        recite(client, prompt="x" * (CONTEXT + 1))
    with pytest.raises(openai.BadRequestError):
        recite(client, prompt=[10**9])
    with pytest.raises(openai.BadRequestError):
        recite(client, prompt=[-1])
    assert is_idle(url)


def test_a_full_queue_is_a_rate_limit(url: str, reciter: Path) -> None:
    with running_server(reciter, name="reciter", precision="float32", max_running=1, max_queued=1) as small:
        client = openai.OpenAI(base_url=f"{small}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.RateLimitError) as caught:
            recite(client, n=4, max_tokens=2000)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert until(lambda: is_idle(small))
        assert recite(client, max_tokens=2).choices[0].text == "za"
        client.close()


def test_a_server_with_a_key(reciter: Path) -> None:
    with running_server(reciter, api_key="secret") as address:
        assert address.startswith("http://127.0.0.1:")
        for key, good in (("wrong", False), ("secret", True)):
            with openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0) as client:
                if good:
                    assert client.models.list().data[0].id == reciter.name
                else:
                    with pytest.raises(openai.AuthenticationError):
                        client.models.list()


def test_a_client_that_leaves_a_stream_frees_its_blocks(client: openai.OpenAI, url: str) -> None:
    stream = recite(client, max_tokens=CONTEXT - 10, stream=True)
    next(iter(stream))
    assert health(url)["num_running"] == 1
    stream.close()
    assert until(lambda: is_idle(url))


def test_a_client_that_stops_waiting_frees_its_blocks(url: str) -> None:
    body = {"prompt": "ab", "max_tokens": CONTEXT - 10, "temperature": 0, "n": 2}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/v1/completions", json=body, timeout=0.3)
    assert until(lambda: is_idle(url))
    assert health(url)["num_finished"] >= 0


def raw(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def request_bytes(body: dict[str, Any], path: str = "/v1/completions") -> bytes:
    text = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode()
        + text
    )


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
    assert health(url)["status"] == "ready"


def test_half_a_request_and_half_a_connection(url: str) -> None:
    whole = request_bytes({"prompt": "ab", "max_tokens": CONTEXT - 10, "temperature": 0, "stream": True})
    for sent in (whole[: len(whole) // 2], whole):
        with raw(url) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            read_all(connection)
    assert until(lambda: is_idle(url))


def test_a_connection_that_is_reset_in_the_middle(url: str) -> None:
    connection = raw(url)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.sendall(request_bytes({"prompt": "ab", "max_tokens": CONTEXT - 10, "temperature": 0, "stream": True}))
    assert connection.recv(100).startswith(b"HTTP/1.1 200")
    connection.close()
    assert until(lambda: is_idle(url))


def test_a_slow_reader_holds_up_nobody(url: str, client: openai.OpenAI) -> None:
    with raw(url) as slow:
        slow.sendall(request_bytes({"prompt": "ab", "max_tokens": 1000, "temperature": 0, "stream": True}))
        assert recite(client, max_tokens=5).choices[0].text == "zabcd"
        assert until(lambda: is_idle(url))
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


class Process:
    """`lianlu serve` in a process of its own."""

    def __init__(self, model: Path, *options: str) -> None:
        command = [sys.executable, "-m", "lianlu", "serve", str(model), "--port", "0", "--name", "reciter", *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline()
        self.url = next((word for word in self.ready.split() if word.startswith("http")), "").removesuffix("/v1")

    def end(self) -> tuple[int, str]:
        """Exit code and what was said on stderr."""
        try:
            _, said = self.process.communicate(timeout=60)
        finally:
            self.process.kill()
        return self.process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_finish(reciter: Path, number: signal.Signals) -> None:
    server = Process(reciter)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        stream = recite(client, max_tokens=300, stream=True)
        pieces = [next(iter(stream)).choices[0].text]
        server.process.send_signal(number)
        pieces += [chunk.choices[0].text for chunk in stream]
    code, said = server.end()
    assert len("".join(pieces)) == 300
    assert code == 0, said
    assert "stopping: 1 request" in said


def test_new_requests_are_refused_while_draining(reciter: Path) -> None:
    server = Process(reciter)
    with raw(server.url) as connection:
        connection.sendall(request_bytes({"prompt": "ab", "max_tokens": CONTEXT - 10, "temperature": 0, "stream": True}))
        connection.recv(100)
        server.process.send_signal(signal.SIGTERM)
        assert until(lambda: httpx.get(f"{server.url}/ready").status_code == 503)
        response = httpx.post(f"{server.url}/v1/completions", json={"prompt": "ab"})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "draining")
        server.process.send_signal(signal.SIGTERM)
    code, _ = server.end()
    assert code == 130


def test_the_embedded_model_knows_a_capital(smollm2: Path) -> None:
    question: Any = [{"role": "user", "content": "What is the capital of France?"}]
    with (
        running_server(smollm2, name="smollm2", precision="float32") as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="-") as client,
    ):
        whole = client.chat.completions.create(model="smollm2", messages=question, temperature=0, max_tokens=24)
        stream = client.chat.completions.create(model="smollm2", messages=question, temperature=0, max_tokens=24, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "Paris" in (whole.choices[0].message.content or "")
    assert streamed == whole.choices[0].message.content
