"""How fast replies come: time to the first piece, tokens a second behind it, and what the prefix cache saved."""

from __future__ import annotations

from dataclasses import dataclass, field

from lianlu.client.base import Reply
from lianlu.core import console

SHORT_S = 0.02


@dataclass
class Pace:
    """When one reply was asked for, and when its first and its last piece came (seconds of a monotonic clock)."""

    began_s: float
    first_s: float | None = None
    last_s: float = 0.0
    num_pieces: int = 0

    def note(self, now_s: float) -> None:
        """A piece has come."""
        self.first_s = now_s if self.first_s is None else self.first_s
        self.last_s = now_s
        self.num_pieces += 1

    @property
    def wait_s(self) -> float:
        """Time to the first piece."""
        return 0.0 if self.first_s is None else self.first_s - self.began_s

    def per_second(self, num_tokens: int) -> float:
        """Tokens a second behind the first one; over the whole time for what came in one go."""
        if self.first_s is None or num_tokens < 1:
            return 0.0
        took_s = self.last_s - self.first_s
        return (num_tokens - 1) / took_s if took_s > SHORT_S else num_tokens / max(self.last_s - self.began_s, 1e-9)

    def note_of(self, reply: Reply | None) -> str:
        """A line about the reply; None is one that was stopped."""
        if reply is None:
            return "stopped; the part is kept"
        speed = f"{reply.completion_tokens} tokens, {self.per_second(reply.completion_tokens):.1f} tokens/s"
        cut = "; cut off at the limit of tokens" if reply.finish_reason == "length" else ""
        return f"{speed}, first after {self.wait_s:.2f} s{cut}"


@dataclass
class Paces:
    """The replies of a talk so far; stopped ones count by their pieces."""

    replies: list[tuple[Pace, Reply | None]] = field(default_factory=list)

    def add(self, pace: Pace, reply: Reply | None) -> None:
        """Keep the figures of one more reply."""
        if reply is not None or pace.num_pieces:
            self.replies.append((pace, reply))

    def summary(self) -> str:
        """The last reply, and all of them together."""
        if not self.replies:
            return "there is no reply yet"
        pace, last = self.replies[-1]
        lines = [f"last reply: {pace.note_of(last)}"]
        if last is not None:
            cached = f", {last.cached_tokens:,} of them from the prefix cache" if last.cached_tokens else ""
            context = last.prompt_tokens + last.completion_tokens
            lines += [f"its prompt: {last.prompt_tokens:,} tokens{cached}", f"in context: {context:,} tokens"]
        return "\n".join([*lines, self._total()])

    def _total(self) -> str:
        counts = [(pace, pace.num_pieces if reply is None else reply.completion_tokens) for pace, reply in self.replies]
        tokens, wait_s = sum(count for _, count in counts), sum(pace.wait_s for pace, _ in counts)
        took_s = sum(pace.last_s - pace.began_s for pace, _ in counts if pace.first_s is not None)
        noun = "reply" if len(counts) == 1 else "replies"
        return (
            f"in all: {len(counts)} {noun}, {tokens:,} tokens in {console.format_seconds(took_s)}, {wait_s:.2f} s of it waiting"
        )
