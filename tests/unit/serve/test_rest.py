"""The routes over a fake engine: shapes of replies and streams, and every kind of refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from lianlu.client.base import Constraint
from lianlu.core.errors import EngineError

Ask = Callable[..., httpx.Response]
USER = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "add"}}]
ADD, SUB = '{"name": "add", "arguments": {"x": 1}}', '{"name": "sub"}'
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def chat(ask: Ask, **fields: Any) -> httpx.Response:
    return ask("POST", CHAT, json={"model": "tiny", "messages": USER} | fields)


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream; its end mark is checked."""
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]


def error(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return dict(body["error"])


def test_a_chat_completion(ask: Ask) -> None:
    response = chat(ask)
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["id"] == response.headers["x-request-id"]
    assert body["model"] == "tiny"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"]["prompt_tokens"] == 3
    assert body["usage"]["completion_tokens"] == 5
    assert body["usage"]["total_tokens"] == 8


def test_sampling_reaches_the_engine(ask: Ask, fake_engine: Any) -> None:
    chat(ask, temperature=0.5, top_p=0.9, top_k=5, seed=7, stop=["x"], max_tokens=9, n=2, logprobs=True, top_logprobs=1)
    first, second = (request.sampling for request in fake_engine.seen)
    assert (first.temperature, first.top_p, first.top_k, first.stop, first.max_tokens) == (0.5, 0.9, 5, ("x",), 9)
    assert (first.seed, second.seed, first.logprobs) == (7, 8, 1)


def test_defaults_are_temperature_one_and_all_the_room(ask: Ask, fake_engine: Any) -> None:
    chat(ask)
    sampling = fake_engine.seen[0].sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.seed) == (1.0, 64 - 3, None)


def test_several_choices_share_one_prompt(ask: Ask) -> None:
    body = chat(ask, n=3).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["prompt_tokens"] == 3
    assert body["usage"]["completion_tokens"] == 15


def test_chat_logprobs(ask: Ask) -> None:
    entries = chat(ask, logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in entries] == list("Hello")
    assert entries[0]["bytes"] == [72]
    assert [top["token"] for top in entries[0]["top_logprobs"]] == ["H", "z"]


def test_a_stream_begins_with_the_role_and_ends_with_reason_and_usage(ask: Ask) -> None:
    events = chunks(chat(ask, stream=True, stream_options={"include_usage": True}))
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in events if e["choices"]) == "Hello"
    assert [e["choices"][0]["finish_reason"] for e in events if e["choices"]][-2:] == [None, "stop"]
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["total_tokens"] == 8
    assert all(event["usage"] is None for event in events[:-1])


def test_a_stream_without_usage_has_none(ask: Ask) -> None:
    assert all("usage" not in event for event in chunks(chat(ask, stream=True)))


def test_a_stream_of_choices_and_logprobs(ask: Ask) -> None:
    texts = {0: "", 1: ""}
    tokens: dict[int, list[str]] = {0: [], 1: []}
    for event in chunks(chat(ask, stream=True, n=2, logprobs=True)):
        for choice in event["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
            tokens[choice["index"]] += [entry["token"] for entry in (choice["logprobs"] or {}).get("content", [])]
    assert texts == {0: "Hello", 1: "Hello"}
    assert tokens == {0: list("Hello"), 1: list("Hello")}


def test_tool_calls(ask: Ask, fake_engine: Any) -> None:
    fake_engine.pieces = ["Let me see. ", "<tool", "_call>", ADD, "</tool_call>"]
    choice = chat(ask, tools=TOOLS).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]) == ("function", {"name": "add", "arguments": '{"x": 1}'})
    assert call["id"].startswith("call_")


def test_only_calls_means_no_content(ask: Ask, fake_engine: Any) -> None:
    fake_engine.pieces = [ADD]
    assert chat(ask, tools=TOOLS).json()["choices"][0]["message"]["content"] is None


def test_streamed_tool_calls(ask: Ask, fake_engine: Any) -> None:
    fake_engine.pieces = ["Let me see. ", "<tool_call>", f"{ADD}</tool_call><tool_call>{SUB}", "</tool_call>"]
    deltas = [e["choices"][0] for e in chunks(chat(ask, tools=TOOLS, stream=True))]
    assert "".join(d["delta"].get("content", "") for d in deltas) == "Let me see."
    pieces = [call for d in deltas for call in d["delta"].get("tool_calls", [])]
    begun = [piece for piece in pieces if "id" in piece]
    assert [(call["index"], call["function"]) for call in begun] == [
        (0, {"name": "add", "arguments": ""}),
        (1, {"name": "sub", "arguments": ""}),
    ]
    assert [piece["function"]["arguments"] for piece in pieces if "id" not in piece] == ['{"x": 1}', "{}"]
    assert len({call["id"] for call in begun}) == 2
    assert deltas[-1]["finish_reason"] == "tool_calls"


def test_under_a_grammar_calls_are_streamed_as_they_are_written(ask: Ask, fake_engine: Any) -> None:
    fake_engine.tool_rule = Constraint("lark", "start: call")
    fake_engine.pieces = ["<tool_call>", ADD[:20], ADD[20:30], ADD[30:], "</tool_call>"]
    pieces = [
        call
        for event in chunks(chat(ask, tools=TOOLS, tool_choice="required", stream=True))
        for call in event["choices"][0]["delta"].get("tool_calls", [])
    ]
    assert pieces[0]["function"] == {"name": "add", "arguments": ""}
    assert [piece["function"]["arguments"] for piece in pieces[1:]] == ["{", '"x": 1}']
    assert fake_engine.seen[0].sampling.constraint == fake_engine.tool_rule


def test_a_form_that_cannot_be_used_names_its_field(ask: Ask) -> None:
    response = chat(ask, guided_regex="impossible")
    assert (response.status_code, error(response)["param"]) == (422, "guided_regex")
    assert error(response)["message"] == "guided_regex: it cannot be compiled; simplify it"
    response = ask("POST", TEXT, json={"prompt": "a", "structured_outputs": {"regex": "impossible"}})
    assert (response.status_code, error(response)["param"]) == (422, "structured_outputs")


def test_the_form_reaches_the_engine(ask: Ask, fake_engine: Any) -> None:
    chat(ask, response_format={"type": "json_object"}, session="s", deadline_s=2, ignore_eos=True)
    ask("POST", TEXT, json={"prompt": "a", "guided_choice": ["x"], "session": "t"})
    first, second = fake_engine.seen
    assert first.sampling.constraint == Constraint("json", '{"type":"object"}')
    assert (first.session, first.deadline_s, first.ignore_eos) == ("s", 2.0, True)
    assert (second.sampling.constraint, second.session) == (Constraint("regex", "(?:x)"), "t")


def test_one_call_at_a_time_if_asked(ask: Ask, fake_engine: Any) -> None:
    fake_engine.pieces = [f"<tool_call>{ADD}", f"<tool_call>{SUB}"]
    message = chat(ask, tools=TOOLS, parallel_tool_calls=False).json()["choices"][0]["message"]
    assert len(message["tool_calls"]) == 1


def test_no_tools_no_calls(ask: Ask, fake_engine: Any) -> None:
    fake_engine.pieces = [ADD]
    choice = chat(ask, tools=TOOLS, tool_choice="none").json()["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": ADD, "refusal": None}


def test_completions(ask: Ask, fake_engine: Any) -> None:
    body = ask("POST", TEXT, json={"model": "tiny", "prompt": ["ab", "c"], "n": 2, "logprobs": 1}).json()
    assert body["object"] == "text_completion"
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [(i, "Hello") for i in range(4)]
    assert body["usage"]["prompt_tokens"] == 3
    logprobs = body["choices"][0]["logprobs"]
    assert logprobs["tokens"] == list("Hello")
    assert logprobs["token_logprobs"] == [-0.5] * 5
    assert logprobs["top_logprobs"][0] == {"H": -0.5, "z": -1.5}
    assert logprobs["text_offset"] == [0, 1, 2, 3, 4]
    assert [request.prompt for request in fake_engine.seen] == [(97, 98), (97, 98), (99,), (99,)]
    assert fake_engine.seen[0].sampling.max_tokens == 16


def test_streamed_completions(ask: Ask) -> None:
    events = chunks(ask("POST", TEXT, json={"prompt": [65, 66], "echo": True, "stream": True}))
    assert "".join(event["choices"][0]["text"] for event in events) == "ABHello"
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_models_and_health(ask: Ask) -> None:
    (card,) = ask("GET", "/v1/models").json()["data"]
    assert (card["id"], card["object"], card["owned_by"], card["context_length"]) == ("tiny", "model", "lianlu", 64)
    assert card["precision"] == "float32"
    assert ask("GET", "/v1/models/tiny").json() == card
    assert error(ask("GET", "/v1/models/other"))["code"] == "model_not_found"
    health = ask("GET", "/health").json()
    assert (health["status"], health["num_running"], health["used_blocks"]) == ("ready", 0, 0)
    assert ask("GET", "/ready").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v2", 404), ("GET", CHAT, 405), ("POST", "/v1/models", 405), ("PUT", TEXT, 405)]
)
def test_wrong_paths_and_methods_answer_in_json(ask: Ask, method: str, path: str, status: int) -> None:
    response = ask(method, path)
    assert response.status_code == status
    assert path in error(response)["message"]


def test_an_unknown_model_is_404(ask: Ask) -> None:
    response = chat(ask, model="gpt-5")
    assert response.status_code == 404
    assert error(response)["message"] == "there is no model 'gpt-5'; this server has 'tiny'"


def test_malformed_bodies_are_400(ask: Ask) -> None:
    response = ask("POST", CHAT, content=b'{"model": ')
    assert response.status_code == 400
    assert error(response)["type"] == "invalid_request_error"
    assert ask("POST", TEXT, content=b"\xff\xfe").status_code == 400


def test_a_prompt_longer_than_the_context_is_400_with_the_numbers(ask: Ask) -> None:
    response = chat(ask, messages=[{"role": "user", "content": "x" * 100}])
    assert response.status_code == 400
    assert "101 tokens, the context 64" in error(response)["message"]


def test_a_large_body_is_413(ask: Ask) -> None:
    response = ask("POST", CHAT, content=b" " * 2000, max_body_bytes=1000)
    assert response.status_code == 413
    assert "larger than 1.0 KB" in error(response)["message"]
    assert ask("POST", CHAT, content=b" " * 20_000, max_body_bytes=1000).status_code == 413


def test_a_full_queue_is_429_and_leaves_nothing_behind(ask: Ask, fake_engine: Any) -> None:
    fake_engine.max_waiting = 2
    response = chat(ask, n=3)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert error(response)["type"] == "rate_limit_error"
    assert all(handle.cancelled.is_set() for handle in fake_engine.handles)


def test_loading_and_draining_are_503(ask: Ask, fake_engine: Any) -> None:
    for state, engine in (("loading", None), ("draining", fake_engine)):
        fake_engine.draining = state == "draining"
        response = ask("POST", CHAT, json={"messages": USER}, engine=engine)
        assert (response.status_code, error(response)["code"]) == (503, state)
        assert "retry-after" in response.headers
        assert ask("GET", "/ready", engine=engine).status_code == 503
        assert ask("GET", "/health", engine=engine).json()["status"] == state


def test_the_key(ask: Ask) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}, {"Authorization": "Bearer s\u00e9cret"}):
        raw = {name: value.encode() for name, value in headers.items()}
        response = ask("GET", "/v1/models", api_key="secret", headers=raw)
        assert (response.status_code, error(response)["code"]) == (401, "invalid_api_key")
    assert ask("GET", "/v1/models", api_key="secret", headers={"Authorization": "Bearer secret"}).status_code == 200
    assert ask("GET", "/health", api_key="secret").status_code == 200


def test_a_failure_of_the_engine_is_500(ask: Ask, fake_engine: Any) -> None:
    fake_engine.finish, fake_engine.error = "error", EngineError("the logits are not finite")
    response = chat(ask)
    assert response.status_code == 500
    assert error(response)["type"] == "server_error"


def test_a_bug_is_500_without_its_details(ask: Ask, fake_engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake_engine.submit = lambda request: 1 / 0
    response = chat(ask)
    assert response.status_code == 500
    assert "division" not in response.text
    log = capsys.readouterr().err
    assert "division" in log
    assert f"POST {CHAT} 500" in log


def test_an_error_in_a_stream_ends_it_with_an_event(ask: Ask, fake_engine: Any) -> None:
    fake_engine.finish, fake_engine.error = "error", EngineError("the logits are not finite")
    response = chat(ask, stream=True)
    assert response.status_code == 200
    last = response.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "the logits are not finite"


def test_a_request_cut_off_by_the_end_of_the_server_is_503(ask: Ask, fake_engine: Any) -> None:
    fake_engine.finish = "cancelled"
    response = chat(ask)
    assert (response.status_code, error(response)["code"]) == (503, "draining")


def test_broken_escapes_in_a_tool_call_do_not_break_the_reply(ask: Ask, fake_engine: Any) -> None:
    fake_engine.pieces = ['<tool_call>{"name": "\\ud800"}</tool_call>']
    for stream in (False, True):
        response = chat(ask, tools=TOOLS, stream=stream)
        assert response.status_code == 200
        assert '"name":"?"' in response.text


def test_paths_cannot_write_into_the_log(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    ask("GET", "/v1/a%0aGET%20/v1/models%20200%1b[31m")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_each_request_has_an_access_line(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    name = chat(ask).headers["x-request-id"]
    ask("GET", "/health")
    chat(ask, model="other")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"POST {CHAT} 200 ")
    assert lines[0].endswith(name)
    assert " 404 " in lines[1]
