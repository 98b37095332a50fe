"""The last requests: where the time of each went, in figures and in one sentence. `why` shows them over HTTP.

They are remembered by the id that a reply carries. A caller sees its own requests, the admin sees all. Times are the
engine's; what an HTTP exchange takes beyond them (reading the body, templates, tokenising, grammars, a slow reader) is
`outside_s`. Of a reply only counts are kept, no texts.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, field

from lianlu.core.console import format_seconds
from lianlu.engine.sequence import Event, Timings
from lianlu.serve.failures import ApiError
from lianlu.serve.keys import Caller
from lianlu.serve.replies import Json

HINT = "ids are in X-Request-Id and in the reply; only the last requests are remembered"
SHOWN = 50


@dataclass(frozen=True)
class End:
    """How one sequence of a request ended."""

    finish_reason: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    timings: Timings | None = None
    error: str | None = None

    @classmethod
    def of(cls, event: Event) -> End:
        """What is kept of a last event; texts, log-probabilities and tracebacks would take memory."""
        error = None if event.error is None else event.error.message
        counts = (event.prompt_tokens, event.cached_tokens, event.completion_tokens)
        return cls(event.finish_reason, *counts, timings=event.timings, error=error)

    def as_json(self) -> Json:
        """Reason, tokens, and times."""
        shown = {name: value for name, value in asdict(self).items() if name != "timings" and (name != "error" or value)}
        if self.timings is not None:
            times = asdict(self.timings) | {"first_token_s": self.timings.first_token_s}
            shown |= {name: _rounded(value) if isinstance(value, float) else value for name, value in times.items()}
        return shown


@dataclass
class Entry:
    """One request: who asked what, what stood before it, and how each of its sequences ended."""

    id: str
    model: str
    key: str
    num_sequences: int
    num_ahead: int
    """Sequences that were running or waiting in its engine when it came."""
    created: float = field(default_factory=time.time)
    ends: list[End] = field(default_factory=list)
    http_s: float | None = None
    """How long the whole HTTP exchange took."""
    status: int | None = None

    @property
    def longest(self) -> Timings | None:
        """Times of the sequence that took longest; None while there is none."""
        known = [end.timings for end in self.ends if end.timings is not None]
        return max(known, key=lambda times: times.total_s, default=None)

    def as_json(self) -> Json:
        """All that is known."""
        times = self.longest
        head: Json = {
            "id": self.id,
            "model": self.model,
            "key": self.key or None,
            "created": round(self.created, 3),
            "state": "finished" if len(self.ends) >= self.num_sequences else "running",
            "status": self.status,
            "sentence": sentence(self),
            "num_ahead": self.num_ahead,
            "http_s": _rounded(self.http_s),
            "outside_s": None if times is None or self.http_s is None else _rounded(max(self.http_s - times.total_s, 0.0)),
        }
        return head | {"sequences": [end.as_json() for end in self.ends]}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def sentence(entry: Entry) -> str:
    """The dominant part of a request's time in one sentence."""
    times = entry.longest
    if times is None:
        return "it is still running" if len(entry.ends) < entry.num_sequences else "it never reached the engine"
    end = next(end for end in entry.ends if end.timings is times)
    total_s = max(times.total_s, entry.http_s or 0.0)
    parts = {
        "queued": times.queued_s,
        "prefill": times.prefill_s,
        "decode": times.decode_s,
        "preempted": times.preempted_s,
        "outside": total_s - times.total_s,
    }
    name = max(parts, key=lambda part: parts[part])
    return f"{_said(name, entry, end, times)} ({_of(parts[name], total_s)})"


def _of(part_s: float, total_s: float) -> str:
    return f"{_short(part_s)} of {_short(total_s)}"


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else format_seconds(seconds)


def _said(part: str, entry: Entry, end: End, times: Timings) -> str:
    if part == "queued":
        return f"waited behind {_count(entry.num_ahead, 'request')}"
    if part == "preempted":
        return f"was set aside {_count(times.num_preempted, 'time')}, as the memory for keys and values was full"
    if part == "outside":
        return "was busy outside the engine: reading the body, templates, tokenising, or a client that read slowly"
    others = 1 - times.share_s / times.computing_s if times.computing_s > 0 else 0.0
    beside = f", beside others that took {others:.0%} of its steps" if others >= 0.05 else ""
    if part == "prefill":
        cached = f", {end.cached_tokens} of them from the cache" if end.cached_tokens else ""
        return f"read {_count(end.prompt_tokens, 'prompt token')}{cached}{beside}"
    each_s = times.decode_s / max(end.completion_tokens - 1, 1)
    ahead = f", {times.num_accepted} of {times.num_drafted} proposed ones stood" if times.num_drafted else ""
    return f"wrote {_count(end.completion_tokens, 'token')}, {each_s * 1000:.1f} ms each{ahead}{beside}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


class Recent:
    """The last requests by their id; the oldest goes when there are too many."""

    def __init__(self, max_entries: int) -> None:
        self._max = max_entries
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def begin(self, entry: Entry) -> None:
        """A request has been submitted."""
        self._entries[entry.id] = entry
        while len(self._entries) > self._max:
            self._entries.popitem(last=False)

    def ended(self, job_id: str, event: Event) -> None:
        """One of its sequences has ended."""
        if entry := self._entries.get(job_id):
            entry.ends.append(End.of(event))

    def answered(self, job_id: str, seconds: float, status: int) -> None:
        """Its HTTP exchange is over."""
        if entry := self._entries.get(job_id):
            entry.http_s, entry.status = seconds, status

    def get(self, job_id: str, caller: Caller) -> Entry:
        """A request that this caller may see. Raises: ApiError (404), also for those of others."""
        entry = self._entries.get(job_id)
        if entry is None or not _sees(caller, entry):
            raise ApiError(f"there is no request {job_id[:100]!r}", status=404, hint=HINT, code="request_not_found")
        return entry

    def last(self, caller: Caller) -> list[Entry]:
        """The latest requests that this caller may see, newest first."""
        return [entry for entry in reversed(self._entries.values()) if _sees(caller, entry)][:SHOWN]


def _sees(caller: Caller, entry: Entry) -> bool:
    return caller.is_admin or caller.name == entry.key
