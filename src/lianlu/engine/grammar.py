"""Constrained output: which tokens may follow, so that a reply keeps to a JSON Schema, a regular expression or a grammar.

llguidance walks a grammar over the bytes of tokens and gives, for a state, the set of tokens that may come next. Here it gets
the bytes of our vocabularies (whichever library holds them), grammars are compiled once and copied for each request, and a
request gets a `Course`: the state after its tokens, and after tokens that are only proposed.

Control tokens are part of no text; a grammar reaches them by name (`<|plugin|>`) or id (`<[5]>`). End tokens are allowed exactly
where the grammar may end. Compiling is done by the thread that hands in a request, without a lock and without Python's.

Source: llguidance (https://github.com/guidance-ai/llguidance).
Limits: vocabularies of the SentencePiece kind drop the first space of a text, so a reply that has to begin with a space is shown
without it.

Shapes: V vocab_size.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from itertools import takewhile

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from lianlu.client.base import Constraint
from lianlu.core import console
from lianlu.core.errors import RequestError
from lianlu.engine.schema import LIMITS, explain, grammar_of, refusal
from lianlu.formats.messages import ToolSpec
from lianlu.tokenizer.tokenizer import Tokenizer

MAX_KEPT = 64
"""Compiled grammars that are remembered."""


class Grammars:
    """The grammars of one model. `check` and `start` are legal from any thread."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: Collection[int]) -> None:
        """`vocab_size` is the number of rows of the model's logits; `eos_ids` end a reply. Does nothing until first use."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = frozenset(index for index in eos_ids if 0 <= index < vocab_size)
        self._vocabulary: LLTokenizer | None = None
        self._building = threading.Lock()
        self._lock = threading.Lock()
        self._kept: OrderedDict[Constraint, LLMatcher] = OrderedDict()

    def check(self, constraint: Constraint) -> None:
        """Compile and remember. Raises: RequestError (400) for a constraint that cannot be used."""
        self._compiled(constraint)

    def start(self, constraint: Constraint, ignore_eos: bool = False) -> Course:
        """The state before the first token of a reply. Raises: as `check`."""
        return Course(self._compiled(constraint).deep_copy(), self._vocab_size, self._eos_ids, ignore_eos)

    def for_tools(self, tools: Sequence[ToolSpec], choice: str = "auto", parallel: bool = True) -> Constraint | None:
        """What a reply has to keep to so that its tool calls are well formed, see `Tokenizer.tool_constraint`; compiled.

        With "auto", tools of which no grammar can be made (too many, say) leave the reply free, with a warning; otherwise they
        are a RequestError.
        """
        source = self._tokenizer.tool_constraint(tools, choice, parallel)
        if source is None:
            return None
        constraint = Constraint("lark", source)
        try:
            self.check(constraint)
        except RequestError as error:
            if choice != "auto":
                raise
            console.warn(f"tool calls are not held to their schemas: {error.message}")
            return None
        return constraint

    def _compiled(self, constraint: Constraint) -> LLMatcher:
        with self._lock:
            found = self._kept.get(constraint)
            if found is not None:
                self._kept.move_to_end(constraint)
                return found
        matcher = self._compile(constraint)
        with self._lock:
            self._kept[constraint] = matcher
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return matcher

    def _compile(self, constraint: Constraint) -> LLMatcher:
        """Compile, and take the first step on a copy, so that a grammar that allows nothing or too much is found out here."""
        matcher = LLMatcher(self._llguidance(), grammar_of(constraint), log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise explain(constraint, matcher.get_error())
        trial = matcher.deep_copy()
        trial.compute_bitmask()
        if trial.is_error():
            what = _said(trial) or "no reply of this model's tokens satisfies it"
            raise refusal(constraint, what)
        return matcher

    def _llguidance(self) -> LLTokenizer:
        with self._building:
            if self._vocabulary is None:
                tokens = _Tokens(self._tokenizer, self._vocab_size, self._eos_ids)
                self._vocabulary = LLTokenizer(TokenizerWrapper(tokens), eos_token=list(tokens.eos_ids))
            return self._vocabulary


class _Tokens:
    """A vocabulary as llguidance asks for it: bytes by id, control tokens by name, one entry for each row of the model.

    A vocabulary without end tokens gets one behind the last row, which is never drawn.
    """

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: Collection[int]) -> None:
        contents = [*tokenizer.contents()[:vocab_size], *[None] * (vocab_size - tokenizer.vocab_size)]
        self.eos_ids = sorted(eos_ids) or [vocab_size]
        self.special_token_ids = sorted({index for index, content in enumerate(contents) if content is None} | set(self.eos_ids))
        self.tokens = [content or b"" for content in contents] + [b""] * (self.eos_ids[0] == vocab_size)
        for index in self.special_token_ids:
            self.tokens[index] = (tokenizer.token(index) or f"<|row {index}|>").encode()
        self.eos_token_id = self.eos_ids[0]
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        """Ids of a text in the middle of a reply, up to the first that the model has no row for."""
        return list(takewhile(lambda index: index < len(self.tokens), self._tokenizer.encode_within(text)))


class Course:
    """A reply on its way through a grammar. One thread at a time."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, eos_ids: frozenset[int], ignore_eos: bool) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._hidden = sorted(eos_ids) if ignore_eos else []
        self._scout: tuple[list[int], LLMatcher] | None = None
        self._ended = False

    @property
    def finished(self) -> bool:
        """Whether nothing may follow any more."""
        return self._ended or (self._matcher.is_stopped() and not self._matcher.is_error())

    def refused(self, ahead: Sequence[int] = ()) -> NDArray[np.bool_]:
        """refused_V: True for the tokens that may not follow the accepted ones and `ahead`, which are not accepted by that.

        Where end tokens are ignored, they are refused as long as something else is allowed.
        Raises: RequestError (422) when the reply cannot go on within the grammar, or the grammar has become too complex.
        """
        matcher = self._after(ahead)
        mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        if matcher.is_error():
            raise RequestError(
                f"the reply cannot go on within its constraint: {_said(matcher) or 'no token of the vocabulary fits'}",
                hint="simplify the schema or grammar",
                status=422,
            )
        refused_V = np.unpackbits(~mask, bitorder="little")[: self._vocab_size].view(np.bool_)
        if self._hidden:
            without_V = refused_V.copy()
            without_V[self._hidden] = True
            return refused_V if without_V.all() else without_V
        return refused_V

    def _after(self, ahead: Sequence[int]) -> LLMatcher:
        """The state after `ahead`: a copy, as a dead end that is only proposed must not end the reply itself."""
        if not ahead:
            return self._matcher
        seen, matcher = self._scout or ([], self._matcher.deep_copy())
        if seen != list(ahead[: len(seen)]):
            seen, matcher = [], self._matcher.deep_copy()
        matcher.try_consume_tokens(list(ahead[len(seen) :]))
        self._scout = (list(ahead), matcher)
        return matcher

    def accept(self, token: int) -> None:
        """Go on by a token that was chosen for good."""
        self._scout = None
        if token in self._eos_ids:
            self._ended = True
        else:
            self._matcher.consume_token(token)

    def num_valid(self, drafts: Sequence[int]) -> int:
        """How many of the proposed tokens the grammar allows, one after the other."""
        if self._matcher.is_error():
            return 0
        first_end = next((place for place, token in enumerate(drafts) if token in self._eos_ids), len(drafts))
        kept = list(drafts[: first_end if self._hidden else first_end + 1])
        return int(self._matcher.validate_tokens(kept)) if kept else 0

    def forced(self) -> list[int]:
        """Tokens of which the grammar leaves no choice; more may be forced than these."""
        return [] if self._matcher.is_error() else list(self._matcher.compute_ff_tokens())


def _said(matcher: LLMatcher) -> str:
    """What llguidance complains about, in a line; empty for a plain dead end."""
    lines = matcher.get_error().removesuffix("<non-verbose/>").strip().splitlines()
    first = lines[0] if lines else ""
    return "" if first.startswith("NoExtension") else first
