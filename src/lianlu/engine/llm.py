"""A language model in your own process: `from lianlu import LLM`.

    with LLM("smollm2-135m-instruct") as llm:
        print(llm.chat([{"role": "user", "content": "What is the capital of France?"}]).text)

The engine is the server's: requests of any number of threads and tasks run in one batch, and a reply does not depend on what
runs beside it. Here, what is asked becomes requests and what comes back `Output`s; `local` and `collect` do the rest. For a
model behind a URL there is `engine.connect`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack, overload

from lianlu.client.base import ChatRequest, ChatScoreRequest, Scored, ScoreRequest
from lianlu.core.config import validate
from lianlu.core.errors import ConfigError, RequestError
from lianlu.engine import embedding
from lianlu.engine.asked import Conversation, Prompt, Prompts, Tool, as_messages, as_tools, conversations_in, prompts_in
from lianlu.engine.collect import checked, in_flight
from lianlu.engine.config import EngineConfig
from lianlu.engine.connect import open_engine
from lianlu.engine.engine import Stats
from lianlu.engine.local import LocalClient
from lianlu.engine.options import Options, checked_options, request_fields, sampling_of
from lianlu.engine.result import Output, Stream, output_of
from lianlu.engine.sequence import Event, Request
from lianlu.engine.sleep import check_awake
from lianlu.formats.messages import ToolSpec
from lianlu.model.pull import local_path
from lianlu.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Batch:
    """Requests, made as they are needed; `is_one` says that one was asked for by itself and not in a list."""

    requests: Iterable[Request]
    tools: Sequence[ToolSpec]
    is_one: bool


class LLM:
    """A loaded model that answers; safe to share between threads and tasks. Close it, or use it in a `with` block."""

    def __init__(
        self,
        model: str | Path,
        adapter: str | Path | None = None,
        *,
        adapters: Mapping[str, str | Path] | None = None,
        **settings: Any,
    ) -> None:
        """Load the model at a folder or a .gguf file, or one that `lianlu pull` has fetched by its name.

        `adapter` is a LoRA folder merged into the weights; `adapters` are kept apart by name, for `adapter=NAME` with each
        request. `settings` are the fields of `engine.config.EngineConfig`; `dtype` is "auto" unless given.
        Raises: ConfigError for a model or a setting that there is not, DataError for files that cannot be read.
        """
        config = validate(EngineConfig, {"dtype": "auto"} | settings)
        path = find_model(model)
        self.name = path.name
        self._client = LocalClient(open_engine(path, adapter, config=config, adapters=adapters or {}), self.name)
        self._engine = self._client.engine

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer: `encode`, `decode`, `render`."""
        return self._client.tokenizer

    # -- replies

    @overload
    def chat(self, messages: Conversation, *, tools: Sequence[Tool] = (), **options: Unpack[Options]) -> Output: ...

    @overload
    def chat(
        self, messages: Sequence[Conversation], *, tools: Sequence[Tool] = (), **options: Unpack[Options]
    ) -> list[Output]: ...

    def chat(
        self, messages: Conversation | Sequence[Conversation], *, tools: Sequence[Tool] = (), **options: Unpack[Options]
    ) -> Output | list[Output]:
        """The reply to a conversation, or to each of a list of them: in order, and computed side by side.

        `options` are described at `engine.options.Options`. Ctrl-C cancels what is under way, and the model stays of use.
        Raises: RequestError, EngineError for the first one that fails; the others are cancelled then.
        """
        return self._run(self._chats(messages, tools, options))

    @overload
    def generate(self, prompts: Prompt, **options: Unpack[Options]) -> Output: ...

    @overload
    def generate(self, prompts: Prompts, **options: Unpack[Options]) -> list[Output]: ...

    def generate(self, prompts: Prompt | Prompts, **options: Unpack[Options]) -> Output | list[Output]:
        """The continuation of a text (or of token ids) as it stands, or of each of a list of them, in order.

        Raises: RequestError, EngineError for the first one that fails; the others are cancelled then.
        """
        return self._run(self._texts(prompts, options))

    def stream(self, messages: Conversation | Prompt, *, tools: Sequence[Tool] = (), **options: Unpack[Options]) -> Stream:
        """One reply piece by piece: to a conversation as `chat` gives it, to a text as `generate` does.

        `for piece in stream` gives texts; afterwards `stream.output` is the whole. Leaving the loop cancels the rest.
        Raises: RequestError.
        """
        return self.astream(messages, tools=tools, **options).begin()

    # -- replies, asyncio

    @overload
    async def achat(self, messages: Conversation, *, tools: Sequence[Tool] = (), **options: Unpack[Options]) -> Output: ...

    @overload
    async def achat(
        self, messages: Sequence[Conversation], *, tools: Sequence[Tool] = (), **options: Unpack[Options]
    ) -> list[Output]: ...

    async def achat(
        self, messages: Conversation | Sequence[Conversation], *, tools: Sequence[Tool] = (), **options: Unpack[Options]
    ) -> Output | list[Output]:
        """`chat` for asyncio; cancelling the task cancels its requests."""
        return await self._arun(self._chats(messages, tools, options))

    @overload
    async def agenerate(self, prompts: Prompt, **options: Unpack[Options]) -> Output: ...

    @overload
    async def agenerate(self, prompts: Prompts, **options: Unpack[Options]) -> list[Output]: ...

    async def agenerate(self, prompts: Prompt | Prompts, **options: Unpack[Options]) -> Output | list[Output]:
        """`generate` for asyncio; cancelling the task cancels its requests."""
        return await self._arun(self._texts(prompts, options))

    def astream(self, messages: Conversation | Prompt, *, tools: Sequence[Tool] = (), **options: Unpack[Options]) -> Stream:
        """`stream` for asyncio (`async for piece in llm.astream(...)`); the request is made when the loop begins."""
        is_text, _ = prompts_in(messages)
        batch = self._texts(messages, options) if is_text else self._chats(messages, tools, options)
        return Stream(self._client, batch.requests, batch.tools)

    # -- numbers

    def score(self, items: Sequence[tuple[str, str] | Conversation]) -> list[Scored]:
        """How likely each continuation is: of a (context, continuation), or of a conversation's last assistant message.

        Raises: RequestError for a conversation that does not end with an assistant's message.
        """
        check_awake(self._engine.engine)
        return self._client.score([_score_request(item) for item in items])

    def embed(
        self, texts: Sequence[str], pooling: embedding.Pooling = "mean", *, normalize: bool = True
    ) -> list[embedding.Vector]:
        """A vector for each text, in order: fp32, hidden_size numbers, of length 1 unless `normalize` is False.

        Raises: RequestError for a text that is empty or longer than the model's context.
        """
        engine = self._engine.engine
        check_awake(engine)
        size = engine.model.config.vocab_size
        ids = [embedding.fitted(self._client.prompt(text) if text else [], size, engine.max_len) for text in texts]
        passes = embedding.embed(engine.model, ids, pooling, normalize)
        vectors: list[embedding.Vector] = []
        while (part := self._engine.call(partial(next, passes, None))) is not None:
            vectors += part
        return vectors

    # -- adapters

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names that `adapter=NAME` of a request may have."""
        return self._engine.engine.adapters.names()

    def load_adapter(self, name: str, path: str | Path) -> None:
        """Load the LoRA adapter in a folder (PEFT's form) while requests run.

        Raises: RequestError for a name that cannot be or is taken; DataError for files that cannot be read.
        """
        self._engine.engine.adapters.load(name, path)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter and give its memory back. Raises: RequestError if there is none or a request uses it."""
        self._engine.call(lambda: self._engine.engine.adapters.unload(name))

    # -- life

    def sleep(self) -> None:
        """Give the memory of weights, keys and values back until `wake`; requests are refused meanwhile.

        Raises: RequestError while requests run or wait.
        """
        self._engine.call(self._engine.engine.sleep)

    def wake(self) -> None:
        """Read the weights again; replies are what they were. Raises: DataError if the files are gone or changed."""
        self._engine.call(self._engine.engine.wake)

    def stats(self) -> Stats:
        """Counters of the engine: what runs and waits, tokens so far, blocks in use."""
        return self._engine.stats()

    def close(self) -> None:
        """Cancel what runs and give the memory back; legal more than once."""
        self._client.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- what the ways of asking have in common

    def _chats(self, given: Any, tools: Sequence[Tool], wanted: Options) -> Batch:
        """Requests for conversations. Raises: RequestError, for options and tools at once, for a conversation in its turn."""
        is_one, conversations = conversations_in(given)
        options, offered = checked_options(wanted), as_tools(tools)
        sampling, fields, choice = sampling_of(options), request_fields(options), options.get("tool_choice", "auto")

        def make(conversation: Conversation) -> Request:
            request = self._client.chat_request(ChatRequest(as_messages(conversation), offered, sampling, choice))
            return replace(request, **fields)

        return Batch(map(make, conversations), () if choice == "none" else offered, is_one)

    def _texts(self, given: Any, wanted: Options) -> Batch:
        """Requests for texts as they stand. Raises: RequestError, for options at once."""
        is_one, prompts = prompts_in(given)
        options = checked_options(wanted)
        if "tool_choice" in options:
            raise RequestError("a text that is continued has no tools to choose", hint="use chat, with tools")
        sampling, fields = sampling_of(options), request_fields(options)

        def make(prompt: Prompt) -> Request:
            ids = self._client.prompt(prompt) if isinstance(prompt, str) else prompt
            return Request(tuple(ids), sampling, **fields)

        return Batch(map(make, prompts), (), is_one)

    def _run(self, batch: Batch) -> Output | list[Output]:
        return self._outputs(batch, self._client.run(batch.requests))

    async def _arun(self, batch: Batch) -> Output | list[Output]:
        """Templates, tokenising and grammars are done in a thread, so that the event loop goes on."""
        requests = await asyncio.to_thread(self._prepared, batch.requests)
        with closing(in_flight(self._engine, requests)) as handles:
            return self._outputs(batch, [checked(await handle.aresult()) for handle in handles])

    def _prepared(self, requests: Iterable[Request]) -> list[Request]:
        made = list(requests)
        for request in made:
            self._engine.engine.check(request)
        return made

    def _outputs(self, batch: Batch, events: Sequence[Event]) -> Output | list[Output]:
        found = [output_of(event, self._client.message(event, batch.tools)) for event in events]
        return found[0] if batch.is_one else found


def find_model(model: str | Path) -> Path:
    """The model at a path, or the pulled one of that name. Raises: ConfigError if there is none."""
    text = str(model)
    if text.startswith(("http://", "https://")):
        hint = "use lianlu.engine.connect.connect, which gives a client for it"
        raise ConfigError(f"{text} is a server, and not a model to load", hint=hint)
    path = local_path(text)
    if path is None:
        hint = "give a folder or a .gguf file, or fetch it first: `lianlu pull NAME` (`lianlu pull --list` shows names)"
        raise ConfigError(f"there is no model {text} on this machine", hint=hint)
    return path


def _score_request(item: tuple[str, str] | Conversation) -> ScoreRequest | ChatScoreRequest:
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], str):
        return ScoreRequest(item[0], item[1])
    return ChatScoreRequest(as_messages(item))
