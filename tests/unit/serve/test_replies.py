"""The shapes of replies that the routes' tests do not show."""

from __future__ import annotations

import math

from lianlu.client.base import TokenLogprob
from lianlu.client.wire import Assembly, chat_reply
from lianlu.engine.sequence import Event, Timings
from lianlu.serve import replies
from lianlu.serve.reading import Opened, WholeCall, Written


def test_each_prompt_counts_once_and_each_choice_for_itself() -> None:
    events = [Event(i, prompt_tokens=prompt, cached_tokens=1, completion_tokens=2) for i, prompt in enumerate([5, 5, 7, 7])]
    counted = replies.usage(events, num_prompts=2)
    assert (counted["prompt_tokens"], counted["completion_tokens"], counted["total_tokens"]) == (12, 8, 20)
    assert counted["prompt_tokens_details"] == {"cached_tokens": 2}


def test_offsets_run_on_over_calls() -> None:
    log = replies.TextLogprobs()
    first = log.shape([None, TokenLogprob("bc", -1.0, (("bc", -1.0),))], ["a", "bc"])
    assert first == {
        "tokens": ["a", "bc"],
        "token_logprobs": [None, -1.0],
        "top_logprobs": [None, {"bc": -1.0}],
        "text_offset": [0, 1],
    }
    assert log.shape([TokenLogprob("d", -2.0)], ["d"])["text_offset"] == [3]


def test_of_tokens_that_look_alike_the_likelier_stays() -> None:
    assert replies.best_by_text([("\ufffd", -3.0), ("\ufffd", -1.0), ("a", -2.0)]) == {"\ufffd": -1.0, "a": -2.0}


def test_what_was_proposed_and_kept_is_counted_where_there_was_any() -> None:
    events = [Event(0, timings=Timings(num_drafted=5, num_accepted=3)), Event(1, timings=Timings(num_drafted=1)), Event(2)]
    details = replies.usage(events, 1)["completion_tokens_details"]
    assert (details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]) == (3, 3)
    assert "completion_tokens_details" not in replies.usage([Event(0, timings=Timings())], 1)


def test_our_own_client_reads_what_we_write() -> None:
    call = WholeCall("call_1", "add", '{"a": 1}')
    tokens = [TokenLogprob("Add", -0.25, (("Add", -0.25), ("Sub", -2.0)))]
    event = Event(0, prompt_tokens=3, completion_tokens=4)
    head = replies.Head.chat("m", wants_usage=False)
    choice = replies.chat_choice(0, replies.chat_message("Adding.", [call]), "tool_calls", tokens)
    reply = chat_reply(head.whole([choice], replies.usage([event], 1)))
    assert reply.message.content == "Adding."
    assert reply.message.tool_calls[0].arguments == {"a": 1}
    assert (reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("tool_calls", 3, 4)
    assert reply.logprobs == tuple(tokens)


def test_our_own_client_puts_streamed_calls_together() -> None:
    head, assembly = replies.Head.chat("m", wants_usage=False), Assembly()
    for piece in (Opened(0, "call_1", "add"), Written(0, '{"a"'), Written(0, ": 1}"), Opened(1, "call_2", "sub")):
        assembly.add(head.chunk([replies.chat_delta(0, replies.call_delta(piece))]))
    assembly.add(head.chunk([replies.chat_delta(0, {}, "tool_calls")]))
    calls = assembly.reply().message.tool_calls
    assert [(call.id, call.name, call.arguments) for call in calls] == [("call_1", "add", {"a": 1}), ("call_2", "sub", {})]


def test_impossible_tokens_are_still_json() -> None:
    (entry,) = replies.chat_logprobs([TokenLogprob("a", -math.inf, (("b", -math.inf),))])["content"]
    assert (entry["logprob"], entry["top_logprobs"][0]["logprob"]) == (-9999.0, -9999.0)
    shape = replies.TextLogprobs().shape([TokenLogprob("a", -math.inf, (("b", -math.inf),))], ["a"])
    assert (shape["token_logprobs"], shape["top_logprobs"]) == ([-9999.0], [{"b": -9999.0}])
