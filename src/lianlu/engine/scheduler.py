"""The scheduler: which tokens of which sequences are computed in the next step.

Every step has a budget of tokens. Sequences that need one token to go on (decoding) come first, then the rest of prompts
that were begun, oldest first, then new sequences. A sequence holds blocks for all its known tokens. When there are none
left for a running one, the newest is preempted: it gives its blocks back, keeps its tokens, and computes them again
later, mostly out of the prefix cache. A new sequence whose next block is being computed by another waits for it.

After vLLM's V1 scheduler (computed tokens chase known tokens) and mini-sglang's size. No tensors here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain as concat
from itertools import islice

from lianlu.engine.blocks import BlockPool, chain
from lianlu.engine.sequence import Sequence, State

LOOK_AHEAD = 64


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start:end` of a sequence, to be computed in one step; its last `num_samples` rows each give a token.

    A chunk that ends before the last known token gives none, one that ends with it gives the next token, and one that goes
    on over proposed tokens gives the token after each of them as well.
    """

    sequence: Sequence
    start: int
    end: int
    num_samples: int


class Scheduler:
    """Queues of sequences and the plan of each step."""

    def __init__(self, pool: BlockPool, *, max_batch_tokens: int, max_running: int, prefix_cache: bool = True) -> None:
        assert max_batch_tokens >= max_running > 0, "every running sequence must be able to decode in one step"
        self.pool = pool
        self.max_batch_tokens = max_batch_tokens
        self.max_running = max_running
        self.prefix_cache = prefix_cache
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self.num_preempted = self.num_waiting_tokens = 0
        self.gave_way: list[Sequence] = []
        """Sequences that were preempted by the last plan."""

    def __iter__(self) -> Iterator[Sequence]:
        """All live sequences, in order of admission, then of arrival."""
        return concat(self.running, self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        assert self.pool.blocks_for(sequence.max_len) <= self.pool.num_blocks, "the sequence could never be held"
        self.waiting.append(sequence)
        self.num_waiting_tokens += len(sequence.tokens)

    def plan(self) -> list[Chunk]:
        """The chunks of the next step, decoding ones first; empty when there is nothing to do."""
        preempted = self._make_room()
        chunks = self._decoding()
        budget = self.max_batch_tokens - sum(chunk.end - chunk.start for chunk in chunks)
        for sequence in self.running:
            if budget and sequence.num_pending > 1:
                chunks.append(_chunk(sequence, self._share(sequence, budget)))
                budget -= chunks[-1].end - chunks[-1].start
        if not preempted:
            self._admit(chunks, budget)
        return chunks

    def reserve(self, sequence: Sequence, count: int) -> int:
        """Make room for up to `count` proposed tokens of a running sequence, so far as nobody has to give way; for how many."""
        held = len(sequence.blocks) * self.pool.block_size - len(sequence.tokens)
        missing = self.pool.blocks_for(max(count - held, 0))
        taken = self.pool.take(missing, reserve=len(self.running)) if missing else []
        if taken is None:
            return max(min(count, held), 0)
        sequence.blocks += taken
        return count

    def advance(self, chunk: Chunk) -> None:
        """Note that a planned chunk has been computed and its new tokens are known; its full blocks can be found from now on.

        What was computed for proposals that were not right is behind the last known token, and counts as not computed.
        """
        sequence = chunk.sequence
        assert sequence.num_computed == chunk.start
        sequence.num_computed = min(chunk.end, len(sequence.tokens) - 1)
        sequence.drafts = []
        self._trim(sequence)
        if self.prefix_cache:
            full = sequence.num_computed // self.pool.block_size
            digests = self._digests(sequence, full)
            for index in range(sequence.num_published, full):
                self.pool.publish(sequence.blocks[index], digests[index])
            sequence.num_published = max(sequence.num_published, full)

    def _trim(self, sequence: Sequence) -> None:
        """Give blocks back that only held proposals."""
        needed = self.pool.blocks_for(len(sequence.tokens))
        if len(sequence.blocks) > needed:
            self.pool.release(sequence.blocks[needed:])
            del sequence.blocks[needed:]

    def _decoding(self) -> list[Chunk]:
        """The running sequences that need one token to go on, with as many of their proposals as the budget has room for."""
        decoding = [sequence for sequence in self.running if sequence.num_pending == 1]
        room = self.max_batch_tokens - len(decoding)
        for sequence in decoding:
            if sequence.drafts:
                del sequence.drafts[room:]
                room -= len(sequence.drafts)
        return [_chunk(sequence, 1 + len(sequence.drafts)) for sequence in decoding]

    def end(self, sequence: Sequence, state: State) -> None:
        """Take a live sequence out, wherever it is, and give its blocks back."""
        self._remove(sequence)
        sequence.to(state)
        self.pool.release(sequence.blocks)
        sequence.blocks = []

    def expel(self, sequence: Sequence) -> list[int]:
        """`end` for a sequence whose computed values are worthless: nobody may find them; the blocks to be wiped."""
        self._remove(sequence)
        sequence.to(State.FAILED)
        gone = self.pool.discard(sequence.blocks)
        sequence.blocks = []
        return gone

    def audit(self) -> None:
        """Check that every block is accounted for. Raises: AssertionError."""
        self.pool.audit([s.blocks for s in self])
        for sequence in self.running:
            assert sequence.state is State.RUNNING
            assert 0 <= sequence.num_computed < len(sequence.tokens)
            known = len(sequence.tokens) + len(sequence.drafts)
            needed = self.pool.blocks_for(sequence.num_computed), self.pool.blocks_for(known)
            assert needed[0] <= len(sequence.blocks) <= needed[1]
        for sequence in self.waiting:
            assert sequence.state in {State.QUEUED, State.PREEMPTED}
            assert not sequence.blocks

    def _make_room(self) -> bool:
        """Blocks for all known tokens of the running, oldest first; whether somebody had to give way."""
        self.gave_way = []
        index = 0
        while index < len(self.running):
            sequence = self.running[index]
            missing = self.pool.blocks_for(len(sequence.tokens)) - len(sequence.blocks)
            taken = self.pool.take(missing) if missing > 0 else []
            if taken is None:
                self._preempt(self.running[-1])
            else:
                sequence.blocks += taken
                index += 1
        return bool(self.gave_way)

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        sequence.to(State.PREEMPTED)
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.num_computed = sequence.num_published = 0
        sequence.drafts = []
        sequence.num_preempted += 1
        self.num_preempted += 1
        self.gave_way.append(sequence)
        self.waiting.appendleft(sequence)
        self.num_waiting_tokens += len(sequence.tokens)

    def _admit(self, chunks: list[Chunk], budget: int) -> None:
        """Start waiting sequences as long as tokens, places and blocks last; adds their chunks."""
        if not self.waiting or not budget:
            return
        coming = self._coming()
        for sequence in list(islice(self.waiting, LOOK_AHEAD)):
            if not budget or len(self.running) >= self.max_running:
                break
            shared = self._find(sequence)
            if self._next_digest(sequence, len(shared)) in coming:
                continue
            missing = self.pool.blocks_for(len(sequence.tokens)) - len(shared)
            blocks = self.pool.take(missing, shared, reserve=len(self.running))
            if blocks is None:
                break
            self._start(sequence, blocks, len(shared))
            coming.update(self._unpublished(sequence))
            chunks.append(_chunk(sequence, self._share(sequence, budget)))
            budget -= chunks[-1].end - chunks[-1].start

    def _start(self, sequence: Sequence, blocks: list[int], num_shared: int) -> None:
        self._unqueue(sequence)
        if sequence.state is State.QUEUED:
            sequence.num_cached = num_shared * self.pool.block_size
        sequence.to(State.RUNNING)
        sequence.blocks = blocks
        sequence.num_computed = num_shared * self.pool.block_size
        sequence.num_published = num_shared
        self.running.append(sequence)

    def _find(self, sequence: Sequence) -> list[int]:
        """Published blocks with the beginning of a sequence; at least one token is left to compute."""
        if not self.prefix_cache:
            return []
        return self.pool.match(self._digests(sequence, (len(sequence.tokens) - 1) // self.pool.block_size))

    def _coming(self) -> set[bytes]:
        """Digests of the blocks that are being computed out of known tokens."""
        if not self.prefix_cache:
            return set()
        return {digest for sequence in self.running if sequence.num_pending > 1 for digest in self._unpublished(sequence)}

    def _unpublished(self, sequence: Sequence) -> list[bytes]:
        if not self.prefix_cache:
            return []
        return self._digests(sequence, len(sequence.tokens) // self.pool.block_size)[sequence.num_published :]

    def _next_digest(self, sequence: Sequence, num_shared: int) -> bytes | None:
        """The first block that was looked for and not found."""
        looked_for = (len(sequence.tokens) - 1) // self.pool.block_size
        return sequence.digests[num_shared] if self.prefix_cache and num_shared < looked_for else None

    def _digests(self, sequence: Sequence, count: int) -> list[bytes]:
        """Chained digests of the first `count` full blocks."""
        known, size = sequence.digests, self.pool.block_size
        for index in range(len(known), count):
            parent = known[-1] if known else sequence.root
            known.append(chain(parent, sequence.tokens[index * size : (index + 1) * size]))
        return known[:count]

    def _share(self, sequence: Sequence, budget: int) -> int:
        """Tokens to compute now: all that is pending, or what the budget allows, up to the end of a block if it gets that far."""
        if sequence.num_pending <= budget:
            return sequence.num_pending
        end = sequence.num_computed + budget
        aligned = end - end % self.pool.block_size
        return (aligned if aligned > sequence.num_computed else end) - sequence.num_computed

    def _remove(self, sequence: Sequence) -> None:
        if sequence.state is State.RUNNING:
            self.running.remove(sequence)
        else:
            self._unqueue(sequence)

    def _unqueue(self, sequence: Sequence) -> None:
        self.waiting.remove(sequence)
        self.num_waiting_tokens -= len(sequence.tokens)


def _chunk(sequence: Sequence, count: int) -> Chunk:
    end = sequence.num_computed + count
    return Chunk(sequence, sequence.num_computed, end, num_samples=max(0, end + 1 - len(sequence.tokens)))
