"""One sentence that explains where the time went, and a ring that forgets."""

from __future__ import annotations

import pytest

from lianlu.core.errors import EngineError
from lianlu.engine.sequence import Event, Timings
from lianlu.serve.failures import ApiError
from lianlu.serve.keys import Caller
from lianlu.serve.recent import End, Entry, Recent, sentence

ADMIN = Caller("admin", is_admin=True)


def entry(number: int = 0, key: str = "", ahead: int = 0) -> Entry:
    return Entry(f"id-{number}", "m", key, 1, ahead)


def ended(ahead: int = 0, http_s: float | None = None, **times: float | int) -> Entry:
    known = entry(ahead=ahead)
    total = sum(value for name, value in times.items() if name in ("queued_s", "prefill_s", "decode_s", "preempted_s"))
    timings = Timings(total_s=total, **times)  # type: ignore[arg-type]
    known.ends.append(End("stop", 900, 128, 120, timings))
    known.http_s = http_s
    return known


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (ended(14, queued_s=1.2, decode_s=0.7), "waited behind 14 requests (1.2 s of 1.9 s)"),
        (ended(1, queued_s=0.3), "waited behind 1 request (300 ms of 300 ms)"),
        (ended(prefill_s=1.2, decode_s=0.7), "read 900 prompt tokens, 128 of them from the cache (1.2 s of 1.9 s)"),
        (ended(decode_s=1.19), "wrote 120 tokens, 10.0 ms each (1.2 s of 1.2 s)"),
        (
            ended(decode_s=1.19, computing_s=1.0, share_s=0.25, num_drafted=50, num_accepted=40),
            "wrote 120 tokens, 10.0 ms each, 40 of 50 proposed ones stood, "
            "beside others that took 75% of its steps (1.2 s of 1.2 s)",
        ),
        (
            ended(preempted_s=2.0, decode_s=1.0, num_preempted=2),
            "was set aside 2 times, as the memory for keys and values was full (2.0 s of 3.0 s)",
        ),
        (
            ended(http_s=3.0, decode_s=0.5),
            "was busy outside the engine: reading the body, templates, tokenising, or a client that read slowly (2.5 s of 3.0 s)",
        ),
        (entry(), "it is still running"),
    ],
)
def test_the_dominant_part_is_named(known: Entry, said: str) -> None:
    assert sentence(known) == said


def test_what_never_ran_is_not_explained_away() -> None:
    known = entry()
    known.ends.append(End.of(Event(-1, finish_reason="error", error=EngineError("no"))))
    assert sentence(known) == "it never reached the engine"
    assert known.as_json()["sequences"][0]["error"] == "no"


def test_texts_are_not_kept() -> None:
    recent = Recent(3)
    recent.begin(entry())
    recent.ended("id-0", Event(1, text="secret", token_ids=(1, 2), finish_reason="stop", completion_tokens=2, timings=Timings()))
    known = recent.get("id-0", ADMIN)
    assert "secret" not in repr(known)
    assert known.as_json()["sequences"][0]["completion_tokens"] == 2
    assert known.as_json()["state"] == "finished"


def test_the_oldest_goes() -> None:
    recent = Recent(3)
    for number in range(5):
        recent.begin(entry(number))
    assert [known.id for known in recent.last(Caller())] == ["id-4", "id-3", "id-2"]
    with pytest.raises(ApiError, match="there is no request 'id-1'"):
        recent.get("id-1", ADMIN)
    recent.ended("id-1", Event(1, finish_reason="stop"))
    recent.answered("id-1", 1.0, 200)


def test_nobody_sees_the_requests_of_others() -> None:
    recent = Recent(9)
    for number, key in enumerate(("a", "b", "")):
        recent.begin(entry(number, key))
    assert [known.id for known in recent.last(Caller("a"))] == ["id-0"]
    assert len(recent.last(ADMIN)) == 3
    with pytest.raises(ApiError) as caught:
        recent.get("id-1", Caller("a"))
    assert caught.value.status == 404
