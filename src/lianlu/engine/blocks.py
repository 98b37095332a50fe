"""Blocks of keys and values: who holds which, which are free, and which can be found again by what they contain.

A block holds `block_size` tokens. A full block may be published under a digest that chains over all tokens before it, so
equal beginnings of two requests share blocks. A published block that nobody holds is cached: it can be found until
it is needed for something else, oldest first, and within one sequence the end before the beginning. Blocks are never
moved and tables only grow at their end.

No tensors here. Digests are 128 bits of BLAKE2b, long enough that a collision between strangers needs no thought.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b


def chain(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Digest of a full block: of its token ids and of the digest of all that lies before it."""
    return blake2b(parent + array("I", tokens).tobytes(), digest_size=16).digest()


class BlockPool:
    """A fixed number of blocks, each free, held by one or more sequences, or cached."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        assert num_blocks > 0
        assert block_size > 0
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._holders = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._digest_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free) - len(self._cached)

    @property
    def num_available(self) -> int:
        """Blocks that can be handed out now: free ones, and cached ones that would be given up."""
        return len(self._free) + len(self._cached)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold that many tokens."""
        return -(-num_tokens // self.block_size)

    def match(self, digests: Iterable[bytes]) -> list[int]:
        """The published blocks of the longest beginning of `digests`; nothing is taken yet."""
        found = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def num_known(self, tokens: Sequence[int], root: bytes) -> int:
        """How many of the first tokens lie in blocks that can be found now; nothing is taken, legal from any thread."""
        known, parent = 0, root
        while known + self.block_size < len(tokens):
            parent = chain(parent, tokens[known : known + self.block_size])
            if parent not in self._block_of:
                break
            known += self.block_size
        return known

    def take(self, count: int, shared: Sequence[int] = (), reserve: int = 0) -> list[int] | None:
        """Hold the `shared` blocks and `count` new ones, or change nothing and return None if `reserve` would not be left.

        Returns the shared blocks followed by the new ones.
        """
        idle = sum(1 for block in shared if self._holders[block] == 0)
        if self.num_available - idle < count + reserve:
            return None
        for block in shared:
            if self._holders[block] == 0:
                del self._cached[block]
            self._holders[block] += 1
        return [*shared, *(self._new() for _ in range(count))]

    def publish(self, block: int, digest: bytes) -> None:
        """Let a full, computed block be found; the first of two equal blocks stays the one that is found."""
        assert self._holders[block] > 0, f"block {block} is published but not held"
        if digest not in self._block_of and block not in self._digest_of:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def release(self, blocks: Sequence[int]) -> None:
        """Give blocks back, in the order of the sequence; published ones stay findable until they are needed."""
        for block in reversed(blocks):
            if self._drop(block):
                if block in self._digest_of:
                    self._cached[block] = None
                else:
                    self._free.append(block)

    def discard(self, blocks: Sequence[int]) -> list[int]:
        """Give blocks back and let none of them be found again; those that nobody holds now (their content is worthless)."""
        for block in blocks:
            self._forget(block)
        gone = [block for block in reversed(blocks) if self._drop(block)]
        self._free.extend(gone)
        return gone

    def clear_cache(self) -> None:
        """Let no block be found any more; held blocks stay held."""
        self._free.extend(reversed(self._cached))
        self._cached.clear()
        self._digest_of.clear()
        self._block_of.clear()

    def audit(self, tables: Iterable[Sequence[int]]) -> None:
        """Check the books against the block tables of all live sequences. Raises: AssertionError."""
        held = Counter(block for table in tables for block in table)
        assert self._holders == [held[block] for block in range(self.num_blocks)], "holders do not agree with the tables"
        free, cached = set(self._free), set(self._cached)
        assert len(free) == len(self._free), "a block is free twice"
        assert not free & cached, "a block is free and cached"
        assert not (free | cached) & set(held), "a held block is idle"
        assert len(free) + len(cached) + len(held) == self.num_blocks, "blocks are lost"
        assert cached <= set(self._digest_of), "a cached block cannot be found"
        inverse = {digest: block for block, digest in self._digest_of.items()}
        assert inverse == self._block_of, "the index does not agree with itself"
        assert not free & set(self._digest_of), "a free block can be found"

    def _new(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            self._forget(block)
        self._holders[block] = 1
        return block

    def _drop(self, block: int) -> bool:
        """One holder less; whether it was the last."""
        assert self._holders[block] > 0, f"block {block} is given back twice"
        self._holders[block] -= 1
        return self._holders[block] == 0

    def _forget(self, block: int) -> None:
        digest = self._digest_of.pop(block, None)
        if digest is not None:
            del self._block_of[digest]
