"""The nouns: legal moves between states, and events that join."""

from __future__ import annotations

import pytest

from lianlu.client.base import TokenLogprob
from lianlu.core.errors import EngineError
from lianlu.engine.sequence import LIVE, NEXT, Event, Request, Sequence, State


def test_what_has_ended_stays_ended() -> None:
    assert set(State) - LIVE == {State.FINISHED, State.CANCELLED, State.FAILED}
    assert set(NEXT) == LIVE
    assert all({State.CANCELLED, State.FAILED} <= moves for moves in NEXT.values())


@pytest.mark.parametrize("state", sorted(set(State) - LIVE, key=lambda state: state.value))
def test_no_way_back(state: State) -> None:
    sequence = Sequence(1, Request((1, 2)), 10)
    sequence.state = state
    with pytest.raises(AssertionError):
        sequence.to(State.RUNNING)


def test_the_gap_between_known_and_computed() -> None:
    sequence = Sequence(1, Request((1, 2, 3)), 10)
    assert (sequence.num_pending, sequence.num_generated, sequence.num_prompt) == (3, 0, 3)
    sequence.num_computed = 3
    sequence.tokens.append(9)
    assert (sequence.num_pending, sequence.num_generated, sequence.num_prompt) == (1, 1, 3)
    assert sequence.request.prompt == (1, 2, 3)


def test_events_join_in_order() -> None:
    error = EngineError("broken")
    events = [
        Event(4, "a", (1,), (TokenLogprob("a", -1.0),), None, 3, 1, 0),
        Event(4, "", (2,), (TokenLogprob("", -2.0),), None, 3, 2, 0),
        Event(4, "b", (), (), "error", 3, 2, 0, error),
    ]
    joined = Event.joined(events)
    assert joined == Event(4, "ab", (1, 2), (TokenLogprob("a", -1.0), TokenLogprob("", -2.0)), "error", 3, 2, 0, error)
    assert events[0].merged(events[1]).merged(events[2]) == joined
    assert Event.joined(events[:1]) is events[0]
