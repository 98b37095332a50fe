"""A served model without a model: a tokenizer of characters and an engine that says what the test wrote."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch

from lianlu.client.base import Constraint, TokenLogprob
from lianlu.core.errors import LianluError, RequestError
from lianlu.engine.admission import Admission
from lianlu.engine.background import BackgroundEngine
from lianlu.engine.config import EngineConfig
from lianlu.engine.engine import Engine, Stats
from lianlu.engine.sequence import Event, Request
from lianlu.formats.messages import Message, ToolSpec
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import build_model
from lianlu.serve.keys import Keys
from lianlu.serve.models import Served
from lianlu.serve.rest import app
from lianlu.serve.service import Limits, Service
from lianlu.tokenizer import tool_calls
from lianlu.tokenizer.tokenizer import Tokenizer

MAX_LEN = 64


class CharTokenizer:
    """Each character is a token; tool calls are read as the real tokenizers do."""

    adds_bos = False
    bos_id = None
    eos_ids = (0,)

    def encode(self, text: str, specials: bool = False) -> list[int]:
        return [ord(char) for char in text]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int], skip_specials: bool = True) -> str:
        return "".join(map(chr, ids))

    def stream(self) -> Any:
        return SimpleNamespace(push=chr, flush=lambda: "")

    def render(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), reply: bool = False) -> Any:
        text = "".join(f"{message.role[0]}{message.content}" for message in messages) + "".join(tool.name for tool in tools)
        return SimpleNamespace(ids=self.encode(text), text=text)

    visible = staticmethod(tool_calls.visible)
    parse = staticmethod(tool_calls.parse)


class FakeHandle:
    """Plays events; `hold` leaves the request unfinished until it is cancelled."""

    def __init__(self, events: Sequence[Event], hold: bool) -> None:
        self._events, self._hold, self.cancelled = list(events), hold, asyncio.Event()

    def cancel(self) -> None:
        self.cancelled.set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        for event in self._events:
            await asyncio.sleep(0)
            yield event
        if self._hold:
            await self.cancelled.wait()

    async def aresult(self) -> Event:
        whole: Event | None = None
        async for event in self:
            whole = event if whole is None else Event.joined([whole, event])
        assert whole is not None
        return whole


class FakeEngine:
    """Answers every request with `pieces`, a token for each character; keeps the requests in `seen`."""

    def __init__(self, pieces: Sequence[str] = ("Hel", "lo"), finish: str = "stop", error: LianluError | None = None) -> None:
        self.engine = SimpleNamespace(
            admission=Admission(max_batch_tokens=64),
            tokenizer=CharTokenizer(),
            model=SimpleNamespace(parameters=lambda: iter([SimpleNamespace(dtype="torch.float32")])),
            max_len=MAX_LEN,
            check=self._check,
            grammars=SimpleNamespace(check=self._compile, for_tools=lambda tools, choice, parallel: self.tool_rule),
            config=EngineConfig(),
            asleep=False,
            sessions=None,
        )
        self.tool_rule: Constraint | None = None
        self.pieces, self.finish, self.error = pieces, finish, error
        self.max_waiting, self.hold, self.draining = 1000, False, False
        self.seen: list[Request] = []
        self.handles: list[FakeHandle] = []

    def _check(self, request: Request) -> None:
        if len(request.prompt) > MAX_LEN:
            raise RequestError(f"the prompt has {len(request.prompt)} tokens, the context {MAX_LEN}", hint="shorten it")

    def _compile(self, constraint: Constraint) -> None:
        if "impossible" in constraint.source:
            raise RequestError("it cannot be compiled", hint="simplify it", status=422)

    def stats(self) -> Stats:
        return Stats(num_finished=len(self.seen))

    def submit(self, request: Request) -> FakeHandle:
        self._check(request)
        if len(self.seen) >= self.max_waiting:
            raise RequestError("too many requests are waiting", status=429)
        self.seen.append(request)
        self.handles.append(FakeHandle(list(self._events(request)), self.hold))
        return self.handles[-1]

    def _events(self, request: Request) -> Any:
        num_prompt, num_done = len(request.prompt), 0
        for index, piece in enumerate(self.pieces):
            num_done += len(piece)
            last = index == len(self.pieces) - 1 and not self.hold
            logprobs = [TokenLogprob(char, -0.5, ((char, -0.5), ("z", -1.5))) for char in piece]
            yield Event(
                request_id=1,
                text=piece,
                token_ids=tuple(map(ord, piece)),
                logprobs=tuple(logprobs) if request.sampling.logprobs is not None else (),
                finish_reason=("error" if self.error else self.finish) if last else None,
                prompt_tokens=num_prompt,
                completion_tokens=num_done,
                error=self.error if last else None,
            )


def service_over(engine: FakeEngine | None, name: str = "tiny", **fields: Any) -> Service:
    """A service of one model."""
    return Service({name: Served(name, engine=engine)}, **fields)  # type: ignore[arg-type]


@pytest.fixture
def fake_engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def serving(fake_engine: FakeEngine) -> Callable[..., Service]:
    """A service of one model, over `fake_engine` unless another one is given; keyword arguments are those of `Service`."""
    return lambda engine=fake_engine, name="tiny", **fields: service_over(engine, name, **fields)


@pytest.fixture
def ask(fake_engine: FakeEngine) -> Callable[..., httpx.Response]:
    """Send one request to a server over `fake_engine`; keyword arguments are httpx's, those of `Limits`, or `api_key`."""

    def send(method: str, path: str, *, engine: FakeEngine | None = fake_engine, **options: Any) -> httpx.Response:
        limits = Limits(**{name: options.pop(name) for name in Limits.model_fields if name in options})
        service = service_over(engine, limits=limits, keys=Keys.of(options.pop("api_key", None)))

        async def exchange() -> httpx.Response:
            transport = httpx.ASGITransport(app=app(service), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(exchange())

    return send


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackgroundEngine]:
    """A real engine over a tiny random model whose tokens are bytes, with a chat template."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    write_byte_tokenizer(folder)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = ModelConfig.model_validate(
        {"architecture": "llama", "vocab_size": 259, "num_key_value_heads": 2, "initializer_range": 0.2, **shape}
        | {"max_position_embeddings": 4096, "eos_token_ids": [257]}
    )
    model = build_model(config, seed=3)
    with torch.no_grad():
        model.embed_tokens.weight[256:] = 0  # random text of letters and bytes, never a control token
    engine = BackgroundEngine(Engine(model, Tokenizer.load(folder), EngineConfig(max_tokens=8192, max_running=32)))
    yield engine
    engine.close()


def write_byte_tokenizer(folder: Path) -> None:
    """256 bytes and three control tokens."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Fast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = Fast(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")])
    fast.save(str(folder / "tokenizer.json"))
    turns = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    template = turns + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    config = {"eos_token": "<|im_end|>", "bos_token": "<|endoftext|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | config))
