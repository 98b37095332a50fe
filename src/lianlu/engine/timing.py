"""Where the time of a request goes: a clock that is in one phase at a time, and what steps cost it.

The engine tells it of each change; `timings` sums up at the end. No tensors, no HTTP.
"""

from __future__ import annotations

from typing import Literal

from lianlu.engine.sequence import Timings

Phase = Literal["queued", "prefill", "preempted", "decode"]


class Timeline:
    """The life of one request in seconds of a monotonic clock."""

    def __init__(self, now_s: float) -> None:
        self._start_s = self._since_s = now_s
        self._phase: Phase = "queued"
        self._spent_s: dict[Phase, float] = {"queued": 0.0, "prefill": 0.0, "preempted": 0.0, "decode": 0.0}
        self._computing_s = self._share_s = 0.0
        self._num_steps = self.num_drafted = self.num_accepted = 0

    def enter(self, phase: Phase, now_s: float) -> None:
        """Go to another phase, or stay in it."""
        if phase != self._phase:
            self._spent_s[self._phase] += now_s - self._since_s
            self._phase, self._since_s = phase, now_s

    def stepped(self, seconds: float, share: float) -> None:
        """A step of that many seconds had this request in it, with that share of its tokens."""
        self._num_steps += 1
        self._computing_s += seconds
        self._share_s += seconds * share

    def timings(self, now_s: float, num_preempted: int) -> Timings:
        """All of it, up to now."""
        spent_s = dict(self._spent_s)
        spent_s[self._phase] += now_s - self._since_s
        return Timings(
            queued_s=spent_s["queued"],
            prefill_s=spent_s["prefill"],
            decode_s=spent_s["decode"],
            preempted_s=spent_s["preempted"],
            total_s=now_s - self._start_s,
            computing_s=self._computing_s,
            share_s=self._share_s,
            num_steps=self._num_steps,
            num_preempted=num_preempted,
            num_drafted=self.num_drafted,
            num_accepted=self.num_accepted,
        )
