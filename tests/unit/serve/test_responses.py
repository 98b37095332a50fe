"""The responses API over a fake engine: whole and streamed, with calls, stored and gone on from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from lianlu.core.errors import EngineError
from lianlu.serve.rest import app

Ask = Callable[..., httpx.Response]
URL = "/v1/responses"
TOOLS = [{"type": "function", "name": "add", "parameters": {"type": "object"}}]
CALL = '<tool_call>{"name": "add", "arguments": {"x": 1}}</tool_call>'


def respond(ask: Ask, **fields: Any) -> httpx.Response:
    return ask("POST", URL, json={"model": "tiny", "input": "hi"} | fields)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream; their names and numbers are checked."""
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    found = []
    for number, block in enumerate(blocks):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
        assert found[-1]["sequence_number"] == number
    return found


@pytest.fixture
def talk(serving: Callable[..., Any]) -> Callable[..., list[httpx.Response]]:
    """Several requests to one server, each made from the response before it."""

    def send(*requests: Callable[[dict[str, Any]], tuple[str, str, Any]]) -> list[httpx.Response]:
        async def exchange() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app=app(serving()), raise_app_exceptions=False)
            answers: list[httpx.Response] = []
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                for make in requests:
                    method, path, body = make(answers[-1].json() if answers else {})
                    answers.append(await client.request(method, path, json=body))
            return answers

        return asyncio.run(exchange())

    return send


def test_a_response(ask: Ask) -> None:
    body = respond(ask, instructions="Be brief.", metadata={"a": "b"}, max_output_tokens=9).json()
    assert (body["object"], body["status"], body["error"], body["incomplete_details"]) == ("response", "completed", None, None)
    (item,) = body["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert item["content"] == [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}]
    assert (body["model"], body["metadata"], body["instructions"], body["store"]) == ("tiny", {"a": "b"}, "Be brief.", True)
    assert body["usage"]["output_tokens"] == 5
    assert body["usage"]["input_tokens"] == len("sBe brief.uhi")
    assert body["usage"]["total_tokens"] == 5 + len("sBe brief.uhi")


def test_the_wishes_reach_the_engine(ask: Ask, fake_engine: Any) -> None:
    respond(ask, temperature=0.5, top_p=0.9, max_output_tokens=7, seed=3, top_k=2, stop="x", session="s", deadline_s=4)
    (request,) = fake_engine.seen
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.max_tokens) == (0.5, 0.9, 7)
    assert (request.sampling.seed, request.sampling.top_k, request.sampling.stop) == (3, 2, ("x",))
    assert (request.session, request.deadline_s) == ("s", 4)


def test_a_reply_that_was_cut_off_is_incomplete(ask: Ask, fake_engine: Any) -> None:
    fake_engine.finish = "length"
    body = respond(ask).json()
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert body["output"][0]["status"] == "incomplete"
    assert events(respond(ask, stream=True))[-1]["type"] == "response.incomplete"


def test_a_call(ask: Ask, fake_engine: Any) -> None:
    fake_engine.pieces = ["Well. ", CALL]
    message, call = respond(ask, tools=TOOLS).json()["output"]
    assert message["content"][0]["text"] == "Well."
    assert (call["type"], call["name"], call["arguments"], call["status"]) == ("function_call", "add", '{"x": 1}', "completed")
    assert call["call_id"].startswith("call_")
    assert call["id"].startswith("fc_")


def test_events_tell_of_everything_in_order(ask: Ask, fake_engine: Any) -> None:
    fake_engine.pieces = ["Well. ", CALL]
    told = events(respond(ask, tools=TOOLS, stream=True))
    assert [event["type"].removeprefix("response.") for event in told] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event["output_index"] for event in told[2:-1]] == [0] * 6 + [1] * 4
    assert told[0]["response"]["status"] == "in_progress"
    final = told[-1]["response"]
    assert final["output"] == [event["item"] for event in told if event["type"] == "response.output_item.done"]
    assert final["usage"]["output_tokens"] == sum(map(len, fake_engine.pieces))
    ids = [event.get("item_id") or event["item"]["id"] for event in told[2:-1]]
    assert ids == [final["output"][0]["id"]] * 6 + [final["output"][1]["id"]] * 4


def test_the_text_of_a_stream_is_the_text(ask: Ask, fake_engine: Any) -> None:
    fake_engine.pieces = ['\u00e9 "', "", "\n\u2028\U0001f600\\"]
    told = events(respond(ask, stream=True))
    deltas = [event for event in told if event["type"] == "response.output_text.delta"]
    assert [event["delta"] for event in deltas] == ['\u00e9 "', "\n\u2028\U0001f600\\"]
    assert set(deltas[0]) == {"type", "sequence_number", "output_index", "content_index", "item_id", "delta", "logprobs"}
    assert told[-1]["response"]["output"][0]["content"][0]["text"] == "".join(fake_engine.pieces)


def test_an_empty_reply_has_an_empty_message(ask: Ask, fake_engine: Any) -> None:
    fake_engine.pieces = [""]
    assert respond(ask).json()["output"][0]["content"][0]["text"] == ""


def test_log_probabilities(ask: Ask) -> None:
    part = respond(ask, top_logprobs=1).json()["output"][0]["content"][0]
    assert [entry["token"] for entry in part["logprobs"]] == list("Hello")
    told = events(respond(ask, include=["message.output_text.logprobs"], stream=True))
    streamed = [entry for event in told if event["type"].endswith("text.delta") for entry in event["logprobs"]]
    assert [entry["token"] for entry in streamed] == list("Hello")


def test_a_failure_on_the_way_is_an_event(ask: Ask, fake_engine: Any) -> None:
    fake_engine.finish, fake_engine.error = "error", EngineError("the logits are not finite")
    last = events(respond(ask, stream=True))[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {"code": "server_error", "message": "the logits are not finite"}
    assert respond(ask).status_code == 500


def test_a_response_can_be_gone_on_from(talk: Any, fake_engine: Any) -> None:
    fake_engine.pieces = ['{"name": "add"}']
    first, second, third = talk(
        lambda _: ("POST", URL, {"input": "1 + 1?", "tools": TOOLS, "instructions": "Once."}),
        lambda before: (
            "POST",
            URL,
            {
                "previous_response_id": before["id"],
                "input": [{"type": "function_call_output", "call_id": before["output"][0]["call_id"], "output": "2"}],
            },
        ),
        lambda before: ("POST", URL, {"previous_response_id": before["id"], "input": "Sure?"}),
    )
    assert (first.status_code, second.status_code, third.status_code) == (200, 200, 200)
    shown = ["".join(map(chr, request.prompt)) for request in fake_engine.seen]
    assert shown == ["sOnce.u1 + 1?add", "u1 + 1?at2", 'u1 + 1?at2a{"name": "add"}uSure?']
    assert second.json()["previous_response_id"] == first.json()["id"]


def test_a_stored_response_is_looked_up_and_forgotten(talk: Any) -> None:
    made, seen, gone, again, unknown = talk(
        lambda _: ("POST", URL, {"input": "hi"}),
        lambda before: ("GET", f"{URL}/{before['id']}", None),
        lambda before: ("DELETE", f"{URL}/{before['id']}", None),
        lambda before: ("GET", f"{URL}/{before['id']}", None),
        lambda _: ("POST", URL, {"input": "hi", "previous_response_id": "resp_x"}),
    )
    assert seen.json() == made.json()
    assert gone.json() == {"id": made.json()["id"], "object": "response", "deleted": True}
    assert (again.status_code, again.json()["error"]["code"]) == (404, "response_not_found")
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "previous_response_id")


def test_what_shall_not_be_stored_is_not(talk: Any) -> None:
    _, seen = talk(
        lambda _: ("POST", URL, {"input": "hi", "store": False}), lambda before: ("GET", f"{URL}/{before['id']}", None)
    )
    assert seen.status_code == 404


def test_a_stored_response_cannot_be_streamed(ask: Ask) -> None:
    response = ask("GET", f"{URL}/resp_x?stream=true")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "stream")
