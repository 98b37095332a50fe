"""A model in this process as a client: chat, complete, score and stream, alone and from many threads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from lianlu.client.base import ChatRequest, ChatScoreRequest, Client, CompletionRequest, Constraint, Sampling, ScoreRequest
from lianlu.core.errors import EngineError, RequestError
from lianlu.engine import collect
from lianlu.engine.grammar import Grammars
from lianlu.engine.local import LocalClient
from lianlu.engine.scoring import Target
from lianlu.formats.messages import Message, ToolCall, ToolSpec


@dataclass
class Rendered:
    ids: list[int]
    mask: list[bool]
    untrained: tuple[int, ...] = ()


class ChatTokenizer:
    """Letters as tokens; a message is rendered as a role letter, its content and, for an assistant, "@" as end token.

    "X" opens a tool call.
    """

    bos_id: int | None = None
    eos_ids: tuple[int, ...] = (1,)
    adds_bos = False

    def __init__(self, letters: Any) -> None:
        self.letters = letters

    def __getattr__(self, name: str) -> Any:
        return getattr(self.letters, name)

    def render(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), reply: bool = False) -> Rendered:
        ids, mask = [], []
        for message in messages:
            body = message.content + ("@" if message.role == "assistant" else "")
            ids += self.letters.encode(message.role[0].upper() + body + "|")
            mask += [False] + [message.role == "assistant"] * len(body) + [False]
        return Rendered(ids + (self.letters.encode("A") if reply else []), mask + [False] * reply)

    def tool_constraint(self, tools: Sequence[ToolSpec], choice: str = "auto", parallel: bool = True) -> str | None:
        """Calls are "X" and the name of the tool; with "auto" nothing is enforced."""
        return {"auto": None, "none": None, "required": 'start: /[a-c]{0,3}/ "X" /[d-z]/'}.get(choice, f'start: "X{choice}"')

    def parse(self, text: str, tools: Sequence[ToolSpec] = ()) -> Message:
        content, opened, rest = text.partition("X")
        return Message(role="assistant", content=content, tool_calls=[ToolCall(name=rest or "none")] if opened else [])

    def visible(self, text: str, tools: Sequence[ToolSpec] = ()) -> str:
        return text.partition("X")[0]


@pytest.fixture
def client(lab: Any) -> Iterator[LocalClient]:
    engine = lab.engine()
    engine.tokenizer = ChatTokenizer(lab.tokenizer)
    engine.grammars = Grammars(engine.tokenizer, lab.vocab, engine.tokenizer.eos_ids)
    made = LocalClient(engine, "tiny")
    yield made
    made.close()


def user(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


def chat(text: str, tools: Sequence[ToolSpec] = (), **wanted: object) -> ChatRequest:
    return ChatRequest(user(text), tools, Sampling(**{"max_tokens": 8, **wanted}))  # type: ignore[arg-type]


def test_it_is_a_client(client: LocalClient) -> None:
    same: Client = client
    assert same.name == "tiny"


def test_chat_answers_in_order(client: LocalClient) -> None:
    texts = [letter * 3 for letter in "abcdefgh"]
    together = client.chat([chat(text) for text in texts])
    assert [reply.text for reply in together] == [client.chat([chat(text)])[0].text for text in texts]
    assert len({reply.text for reply in together}) > 1
    reply = together[0]
    assert (reply.prompt_tokens, reply.completion_tokens, reply.finish_reason) == (6, 8, "length")
    assert reply.message.role == "assistant"


def test_logprobs_are_in_the_reply(client: LocalClient) -> None:
    (reply,) = client.chat([chat("abc", logprobs=2)])
    assert len(reply.logprobs) == 8
    assert all(len(item.top) == 2 for item in reply.logprobs)


def test_tool_calls_are_read_only_where_tools_were_offered(client: LocalClient) -> None:
    tools = [ToolSpec(name="add")]
    found = [client.chat([chat(text, tools, temperature=3.0, seed=seed)])[0] for seed, text in enumerate(["ab"] * 12)]
    called = [reply for reply in found if reply.message.tool_calls]
    assert 0 < len(called) < len(found)
    assert all(reply.finish_reason == "tool_calls" and "X" not in reply.text for reply in called)
    seed = found.index(called[0])
    plain = client.chat([chat("ab", temperature=3.0, seed=seed)])[0]
    assert "X" in plain.text
    assert plain.finish_reason == "length"


def test_the_choice_of_tools_is_kept_to(client: LocalClient) -> None:
    tools = [ToolSpec(name="add"), ToolSpec(name="mul")]
    ask = chat("ab", tools, temperature=3.0, seed=1)
    (named,) = client.chat([replace(ask, tool_choice="mul")])
    assert [call.name for call in named.message.tool_calls] == ["mul"]
    assert named.finish_reason == "tool_calls"
    (some,) = client.chat([replace(ask, tool_choice="required")])
    assert len(some.message.tool_calls) == 1
    free = client.chat([chat("ab", temperature=3.0, seed=seed) for seed in range(12)])
    none = client.chat([replace(chat("ab", tools, temperature=3.0, seed=seed), tool_choice="none") for seed in range(12)])
    assert [reply.text for reply in none] == [reply.text for reply in free]
    assert "X" in "".join(reply.text for reply in none)
    own = replace(ask, sampling=replace(ask.sampling, constraint=Constraint("regex", "[a-c]{2}")), tool_choice="required")
    assert len(client.chat([own])[0].text) == 2


@pytest.mark.parametrize("tools", [(), (ToolSpec(name="add"),)])
def test_a_stream_is_the_reply_in_pieces(client: LocalClient, tools: Sequence[ToolSpec]) -> None:
    for seed in range(8):
        request = chat("ab", tools, temperature=3.0, seed=seed)
        deltas = list(client.stream(request))
        assert [delta.reply is None for delta in deltas] == [True] * (len(deltas) - 1) + [False]
        assert deltas[-1].reply == client.chat([request])[0]
        assert "".join(delta.text for delta in deltas) == deltas[-1].reply.text


def test_a_closed_stream_gives_its_blocks_back(client: LocalClient) -> None:
    stream = client.stream(chat("ab", max_tokens=200))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    client.engine.drain(5)
    assert client.engine.stats().used_blocks == 0
    assert client.engine.stats().generated_tokens < 200


def test_complete_takes_the_text_as_it_stands(client: LocalClient, lab: Any) -> None:
    (reply, empty) = client.complete(
        [CompletionRequest("abc", Sampling(max_tokens=5)), CompletionRequest("", Sampling(max_tokens=2))]
    )
    assert reply.prompt_tokens == 3
    assert empty.prompt_tokens == 1
    client.tokenizer.adds_bos, client.tokenizer.bos_id = True, 2
    assert client.complete([CompletionRequest("abc", Sampling(max_tokens=5))])[0].prompt_tokens == 4


def test_many_more_requests_than_fit(client: LocalClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "IN_FLIGHT", 5)
    requests = [chat(letter * 2, max_tokens=2) for letter in "abcdefghijklmnopqrst"]
    assert [reply.text for reply in client.chat(requests)] == [client.chat([request])[0].text for request in requests]
    assert client.chat([]) == []


def test_one_impossible_request_ends_the_batch_and_frees_the_rest(client: LocalClient) -> None:
    with pytest.raises(RequestError, match="tokens"):
        client.chat([chat("abc", max_tokens=100), chat("a" * 300), chat("abc")])
    assert client.chat([chat("abc")])[0].finish_reason == "length"
    client.engine.drain(5)
    assert client.engine.stats().used_blocks == 0


def test_threads_share_the_engine(client: LocalClient) -> None:
    texts = [letter * 4 for letter in "abcdefghijkl"]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda text: client.chat([chat(text)])[0].text, texts))
        scores = list(pool.map(lambda text: client.score([ScoreRequest(text, "zz")])[0], texts))
    assert found == [reply.text for reply in client.chat([chat(text) for text in texts])]
    assert scores == client.score([ScoreRequest(text, "zz") for text in texts])


def log_softmax(model: Any, ids: list[int]) -> torch.Tensor:
    from lianlu.kernels.attention import PackedCausal

    with torch.inference_mode():
        return model(torch.tensor(ids), torch.arange(len(ids)), PackedCausal([0, len(ids)])).log_softmax(-1)


def test_a_score_is_the_sum_over_the_continuation(client: LocalClient, lab: Any) -> None:
    (score,) = client.score([ScoreRequest("abc", "def")])
    ids = lab.tokenizer.encode("abcdef")
    table = log_softmax(lab.model, ids)
    assert score.logprob == pytest.approx(sum(table[t - 1, ids[t]].item() for t in (3, 4, 5)), abs=1e-5)
    assert score.num_tokens == 3
    greedy = client.complete([CompletionRequest("abc", Sampling(max_tokens=3))])[0].text
    assert client.score([ScoreRequest("abc", greedy)])[0].is_greedy
    assert not score.is_greedy


def test_scores_come_in_order_and_repeat_to_the_bit(client: LocalClient) -> None:
    requests = [ScoreRequest("question" + letter, answer) for letter in "abcdefgh" for answer in ("yes", "no", "")]
    found = client.score(requests)
    assert found == client.score(requests)
    assert found == [client.score([request])[0] for request in requests]
    assert [score.num_tokens for score in found] == [3, 2, 0] * 8
    assert (found[2].logprob, found[2].is_greedy) == (0.0, True)


@pytest.mark.parametrize(
    ("context", "continuation", "target"),
    [
        ("ab", "cd", Target((34, 35, 36, 37), 2)),
        ("", "ab", Target((1, 34, 35), 1)),
        ("", "@a", Target((1, 34), 1)),
        ("", "@", Target((1, 1), 1)),
        ("  ", "a", Target((1, -31, -31, 34), 1)),
        ("a ", "b", Target((34, -31, 35), 1)),
    ],
)
def test_the_cut_follows_lm_eval(client: LocalClient, context: str, continuation: str, target: Target) -> None:
    assert client._target(ScoreRequest(context, continuation)) == target


def test_without_any_opening_token_an_empty_context_is_refused(client: LocalClient) -> None:
    client.tokenizer.eos_ids = ()
    with pytest.raises(RequestError, match="empty context"):
        client.score([ScoreRequest("", "ab")])


def test_a_long_text_loses_its_beginning(client: LocalClient) -> None:
    limit = client.engine.engine.max_len
    long = "abcdefgh" * 60
    assert client.score([ScoreRequest(long, "zz")]) == client.score([ScoreRequest(long[-limit + 1 :], "zz")])
    (score,) = client.score([ScoreRequest("a", long)])
    assert score.num_tokens == limit


def test_a_conversation_is_scored_with_its_end_token(client: LocalClient, lab: Any) -> None:
    messages = [*user("hi"), Message(role="assistant", content="yo"), *user("ok"), Message(role="assistant", content="bye")]
    (score,) = client.score([ChatScoreRequest(messages)])
    assert score.num_tokens == 4
    ids = lab.tokenizer.encode("Uhi|Ayo@|Uok|Abye@")
    table = log_softmax(lab.model, ids)
    assert score.logprob == pytest.approx(sum(table[t - 1, ids[t]].item() for t in range(len(ids) - 4, len(ids))), abs=1e-5)
    with pytest.raises(RequestError, match="user"):
        client.score([ChatScoreRequest(messages[:3])])


def test_letters_the_model_does_not_know_are_refused(client: LocalClient) -> None:
    with pytest.raises(RequestError, match="outside"):
        client.score([ScoreRequest("a b", "c")])


def test_weights_without_numbers_are_an_error_not_a_score(lab: Any) -> None:
    model = lab.build()
    with torch.no_grad():
        model.norm.weight.fill_(math.nan)
    engine = lab.engine(model=model)
    engine.tokenizer = ChatTokenizer(lab.tokenizer)
    broken = LocalClient(engine, "broken")
    with pytest.raises(EngineError, match="usable"):
        broken.score([ScoreRequest("a", "b")])
    with pytest.raises(EngineError, match="usable"):
        broken.chat([chat("a")])
    broken.close()


def test_a_closed_client_says_so(client: LocalClient) -> None:
    client.close()
    client.close()
    with pytest.raises(RequestError):
        client.chat([chat("a")])
    with pytest.raises(EngineError):
        client.score([ScoreRequest("a", "b")])
