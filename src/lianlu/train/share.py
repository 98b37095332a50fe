"""How the examples of one optimiser step are dealt out: to processes, and to micro-batches within each.

A pure function of sizes, so that every process knows the whole deal without asking the others. All get the same number of
micro-batches, because sharded processes have to meet in each; one that has nothing left gets an empty one.
"""

from __future__ import annotations

from collections.abc import Sequence

from lianlu.train.packing import best_fit

Deal = list[list[list[int]]]


def deal(sizes: Sequence[int], num_ranks: int, max_tokens: int) -> Deal:
    """`result[rank][micro_batch]` lists indices of `sizes` (tokens); a micro-batch holds at most `max_tokens`, or one example."""
    if num_ranks == 1:
        return [best_fit(sizes, max_tokens)]
    bins = best_fit(sizes, min(max_tokens, max(-(-sum(sizes) // num_ranks), 1)))
    bins.sort(key=lambda chosen: -sum(sizes[index] for index in chosen))
    dealt: Deal = [[] for _ in range(num_ranks)]
    for number, chosen in enumerate(bins):
        turn, place = divmod(number, num_ranks)
        # there and back again: whoever got the largest of one round gets the smallest of the next
        dealt[place if turn % 2 == 0 else num_ranks - 1 - place].append(chosen)
    longest = max(len(own) for own in dealt)
    return [own + [[] for _ in range(longest - len(own))] for own in dealt]
