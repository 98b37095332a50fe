"""How much one key may ask: buckets of requests and tokens that fill up evenly, and a number of requests at one time.

A request takes one from the first bucket when it comes. Tokens are known when a reply has ended, so the second bucket is
charged then and may be overdrawn; the next request waits until it is above zero again. A refusal says in how many seconds
that will be. Legal from any thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from lianlu.serve.failures import ApiError

Clock = Callable[[], float]
FIRST_GUESS_S = 1.0
"""How long a request takes, before any has ended."""


class Bucket:
    """Holds up to `per_minute`, and gets as much in a minute."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level, self._seen_s = float(per_minute), clock()

    @property
    def level(self) -> float:
        """What is in it now; below zero when it is overdrawn."""
        now = self._clock()
        self._level = min(self._level + (now - self._seen_s) * self.per_minute / 60, self.per_minute)
        self._seen_s = now
        return self._level

    def take(self, amount: float) -> None:
        """Take `amount` out, whether it is there or not."""
        self._level = self.level - amount

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` is in it; 0 if it is."""
        return max(amount - self.level, 0.0) * 60 / self.per_minute


class Quota:
    """The limits of one key; None: no such limit."""

    def __init__(
        self,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        max_concurrent: int | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._requests = Bucket(requests_per_minute, clock) if requests_per_minute else None
        self._tokens = Bucket(tokens_per_minute, clock) if tokens_per_minute else None
        self._max_concurrent = max_concurrent
        self._num_running = 0
        self._mean_s = FIRST_GUESS_S
        self._clock = clock
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Take a request's place for the length of the block. Raises: ApiError (429, with the time to wait)."""
        with self._lock:
            self._check()
            if self._requests:
                self._requests.take(1)
            self._num_running += 1
        began = self._clock()
        try:
            yield
        finally:
            with self._lock:
                self._num_running -= 1
                self._mean_s += 0.2 * (self._clock() - began - self._mean_s)

    def _check(self) -> None:
        if self._max_concurrent and self._num_running >= self._max_concurrent:
            what, wait_s = f"{self._max_concurrent} requests at one time", self._mean_s / self._max_concurrent
        elif self._requests and (wait_s := self._requests.wait_s(1)) > 0:
            what = f"{self._requests.per_minute} requests a minute"
        elif self._tokens and (wait_s := self._tokens.wait_s(1)) > 0:
            what = f"{self._tokens.per_minute} tokens a minute"
        else:
            return
        hint = f"try again in {max(wait_s, 0.1):.1f} s"
        raise ApiError(f"this key may use {what}", status=429, hint=hint, code="rate_limit_exceeded", retry_after_s=wait_s)

    def charge(self, num_tokens: int) -> None:
        """Take tokens that were used."""
        if self._tokens:
            with self._lock:
                self._tokens.take(num_tokens)

    def headers(self) -> dict[str, str]:
        """What is left of each limit, as OpenAI's headers say it."""
        with self._lock:
            shown: dict[str, str] = {}
            for kind, bucket in (("requests", self._requests), ("tokens", self._tokens)):
                if bucket:
                    shown[f"x-ratelimit-limit-{kind}"] = str(bucket.per_minute)
                    shown[f"x-ratelimit-remaining-{kind}"] = str(max(int(bucket.level), 0))
                    shown[f"x-ratelimit-reset-{kind}"] = _duration(bucket.wait_s(bucket.per_minute))
            return shown


def _duration(seconds: float) -> str:
    """A time as OpenAI's headers write it: 120ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f}m{rest:.0f}s" if minutes else f"{rest:.3g}s"
