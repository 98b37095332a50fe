"""Generated arithmetic problems, shared by the chat-data stage (training) and the eval stage (evaluation).

The two never meet: the hash of a problem's expression decides on which side it falls, whatever the seed. Expressions that
differ only in the order of their terms (`17 * 48`, `48 * 17`) share a side.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

_TOKENS = re.compile(r"\d+|[-+*/()]")
_ITEMS = ("pens", "apples", "books", "bolts", "tickets", "stamps", "eggs", "cards", "bottles", "chairs")
_PLACES = ("box", "crate", "shelf", "room", "bag", "cart")
_PLURALS = {"box": "boxes", "shelf": "shelves"}


@dataclass(frozen=True)
class Problem:
    """A question in words, the same as a Python expression over integers, and its value."""

    question: str
    expression: str
    answer: int


def for_training(expression: str) -> bool:
    """Whether an expression belongs to training: SHA-256 of its sorted tokens is even. The odd ones are for evaluation."""
    tokens = " ".join(sorted(_TOKENS.findall(expression)))
    return hashlib.sha256(tokens.encode()).digest()[-1] % 2 == 0


def arithmetic_problem(seed: int, index: int, training: bool) -> Problem:
    """Problem number `index` of the stream `seed`, from the side asked for; equal arguments give equal problems."""
    side = "training" if training else "evaluation"
    rng = random.Random(f"arithmetic/{side}/{seed}/{index}")
    while True:
        problem = rng.choice(_KINDS)(rng)
        if for_training(problem.expression) == training:
            return problem


def _asked(rng: random.Random, expression: str, answer: int) -> Problem:
    phrasing = rng.choice(("What is {}?", "Compute {}.", "Calculate {}.", "How much is {}?", "Work out {}."))
    return Problem(phrasing.format(expression), expression, answer)


def _sum_or_difference(rng: random.Random) -> Problem:
    a, b = rng.randint(100, 9999), rng.randint(100, 9999)
    return _asked(rng, f"{a} + {b}", a + b) if rng.random() < 0.5 else _asked(rng, f"{max(a, b)} - {min(a, b)}", abs(a - b))


def _product(rng: random.Random) -> Problem:
    a, b = rng.randint(12, 999), rng.randint(12, 99)
    return _asked(rng, f"{a} * {b}", a * b)


def _product_and_sum(rng: random.Random) -> Problem:
    a, b, c = rng.randint(12, 99), rng.randint(12, 99), rng.randint(2, 99)
    return _asked(rng, f"{a} * {b} + {c}", a * b + c)


def _bracketed(rng: random.Random) -> Problem:
    a, b, c = rng.randint(12, 499), rng.randint(12, 499), rng.randint(3, 29)
    return _asked(rng, f"({a} + {b}) * {c}", (a + b) * c)


def _packed(rng: random.Random) -> Problem:
    a, b, c = rng.randint(12, 99), rng.randint(12, 99), rng.randint(2, 99)
    item, place = rng.choice(_ITEMS), rng.choice(_PLACES)
    places = _PLURALS.get(place, place + "s")
    question = f"One {place} holds {a} {item}. How many {item} are there in {b} {places} and {c} more {item}?"
    return Problem(question, f"{a} * {b} + {c}", a * b + c)


def _shared(rng: random.Random) -> Problem:
    each, people = rng.randint(12, 199), rng.randint(3, 40)
    item = rng.choice(_ITEMS)
    question = f"{each * people} {item} are shared equally by {people} people. How many {item} does each of them get?"
    return Problem(question, f"{each * people} // {people}", each)


def _spent(rng: random.Random) -> Problem:
    price, count = rng.randint(3, 89), rng.randint(3, 40)
    budget = price * count + rng.randint(1, 999)
    item = rng.choice(_ITEMS)
    question = f"I have {budget} coins and buy {count} {item} at {price} coins each. How many coins are left?"
    return Problem(question, f"{budget} - {price} * {count}", budget - price * count)


_KINDS: tuple[Callable[[random.Random], Problem], ...] = (
    _sum_or_difference,
    _product,
    _product_and_sum,
    _bracketed,
    _packed,
    _shared,
    _spent,
)
