"""Constrained replies: whatever a model likes to say, what it says fits; and nothing a grammar does reaches other requests."""

from __future__ import annotations

import contextlib
import json
import random
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Library

from lianlu.client.base import Constraint, Sampling
from lianlu.core.errors import RequestError
from lianlu.engine.config import EngineConfig, NgramSpeculation
from lianlu.engine.engine import Engine
from lianlu.engine.grammar import Grammars
from lianlu.engine.sequence import Request
from lianlu.tokenizer.backend import Loaded
from lianlu.tokenizer.fast import FastBackend
from lianlu.tokenizer.tokenizer import Tokenizer

MERGES = [('"', ":"), ("{", '"'), ('"', ","), ("t", "r"), ("u", "e"), ("tr", "ue"), ("1", "2"), ("\u0120", "\u0120"), ("a", "b")]
ROWS = 300
CLOSERS = b'"}])0x,'


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """All bytes, some pairs of them, two end tokens, a gap in the ids (a token that nothing encodes to), a control token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = letters + ["".join(pair) for pair in MERGES]
    library = Library(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=MERGES))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    library.add_tokens([AddedToken(text, special=True) for text in ("<|im_end|>", "<|endoftext|>", "<|go|>")])
    return Tokenizer(Loaded("bytes", FastBackend(library), {"eos_token": "<|im_end|>"}))


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer, ROWS, tokenizer.eos_ids)


def schema(value: Any) -> Constraint:
    return Constraint("json", json.dumps(value))


def babble(grammars: Grammars, tokenizer: Tokenizer, constraint: Constraint, seed: int, patience: int = 60) -> str:
    """The text of a reply of random tokens, which after a while prefers those that end things."""
    course, rng, ids = grammars.start(constraint), random.Random(seed), []
    closers = [token for byte in CLOSERS for token in tokenizer.encode(chr(byte))]
    while not course.finished:
        assert len(ids) < 1200, f"no end: {tokenizer.decode(ids)!r}"
        allowed = [int(index) for index in (~course.refused()).nonzero()[0]]
        assert max(allowed) < tokenizer.vocab_size
        ending = [token for token in (*tokenizer.eos_ids, *closers) if token in allowed]
        wants_end = ending and rng.random() < (0.2 if len(ids) < patience else 0.9)
        ids.append(rng.choice(ending if len(ids) > 2 * patience else ending[:1]) if wants_end else rng.choice(allowed))
        course.accept(ids[-1])
    return tokenizer.decode(ids)


TEXTS = ["a", "b", "ab", "\u4f60\u597d", "x y", "caf\u00e9", '"', "\\"]
RANGES = st.tuples(st.integers(-50, 50), st.integers(0, 60))
LEAVES = st.one_of(
    st.sampled_from(
        [{"type": "boolean"}, {"type": "null"}, {"type": "integer"}, {"type": "number"}, {"type": ["string", "null"]}]
    ),
    RANGES.map(lambda pair: {"type": "integer", "minimum": pair[0], "maximum": pair[0] + pair[1]}),
    RANGES.map(lambda pair: {"type": "number", "minimum": pair[0] / 4, "exclusiveMaximum": (pair[0] + pair[1] + 1) / 4}),
    st.integers(1, 7).map(lambda n: {"type": "integer", "multipleOf": n}),
    st.tuples(st.integers(0, 3), st.integers(0, 5)).map(
        lambda pair: {"type": "string", "minLength": pair[0], "maxLength": pair[0] + pair[1]}
    ),
    st.sampled_from(["^[a-c]{2,4}$", "^\\d{4}-\\d{2}$", "x+y?", "^(ja|nein)$"]).map(lambda p: {"type": "string", "pattern": p}),
    st.lists(st.one_of(st.sampled_from(TEXTS), st.integers(-5, 5), st.none()), min_size=1, max_size=4, unique=True).map(
        lambda values: {"enum": values}
    ),
    st.sampled_from([{"const": {"a": [1, 2.5, None]}}, {"const": "ab"}]),
)


def deeper(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    fields = st.dictionaries(st.sampled_from(TEXTS), inner, max_size=4)
    objects = st.tuples(fields, st.lists(st.sampled_from(TEXTS)), st.one_of(st.just(False), inner)).map(
        lambda made: {
            "type": "object",
            "properties": made[0],
            "required": sorted(set(made[1]) & set(made[0])),
            "additionalProperties": made[2],
        }
    )
    arrays = st.tuples(inner, st.integers(0, 2), st.integers(0, 3)).map(
        lambda made: {"type": "array", "items": made[0], "minItems": made[1], "maxItems": made[1] + made[2]}
    )
    return st.one_of(objects, arrays, st.lists(inner, min_size=1, max_size=3).map(lambda many: {"anyOf": many}))


def fits(value: Any, wanted: Any) -> bool:
    """A judge of the schemas above, written without a look at how they are enforced."""
    if isinstance(wanted, bool):
        return wanted
    if "anyOf" in wanted:
        return any(fits(value, one) for one in wanted["anyOf"])
    if "enum" in wanted or "const" in wanted:
        return any(value == one and type(value) is type(one) for one in wanted.get("enum", [wanted.get("const")]))
    kinds = wanted["type"] if isinstance(wanted["type"], list) else [wanted["type"]]
    return any(JUDGES[kind](value, wanted) for kind in kinds)


def is_number(value: Any, wanted: Any) -> bool:
    low, high, below = wanted.get("minimum"), wanted.get("maximum"), wanted.get("exclusiveMaximum")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return (low is None or value >= low) and (high is None or value <= high) and (below is None or value < below)


def is_text(value: Any, wanted: Any) -> bool:
    if not isinstance(value, str) or not wanted.get("minLength", 0) <= len(value) <= wanted.get("maxLength", 1 << 30):
        return False
    return re.search(wanted.get("pattern", ""), value) is not None


def is_object(value: Any, wanted: Any) -> bool:
    if not isinstance(value, dict) or not set(wanted["required"]) <= set(value):
        return False
    return all(fits(item, wanted["properties"].get(key, wanted["additionalProperties"])) for key, item in value.items())


JUDGES: dict[str, Callable[[Any, Any], bool]] = {
    "boolean": lambda value, _: isinstance(value, bool),
    "null": lambda value, _: value is None,
    "integer": lambda value, wanted: (
        isinstance(value, int) and is_number(value, wanted) and value % wanted.get("multipleOf", 1) == 0
    ),
    "number": is_number,
    "string": is_text,
    "object": is_object,
    "array": lambda value, wanted: (
        isinstance(value, list)
        and wanted["minItems"] <= len(value) <= wanted["maxItems"]
        and all(fits(item, wanted["items"]) for item in value)
    ),
}


@settings(max_examples=60, deadline=None)
@given(st.recursive(LEAVES, deeper, max_leaves=8), st.integers(0, 1000))
def test_any_schema_gives_json_that_satisfies_it(
    grammars: Grammars, tokenizer: Tokenizer, wanted: dict[str, Any], seed: int
) -> None:
    text = babble(grammars, tokenizer, schema(wanted), seed)
    assert fits(json.loads(text), wanted), text


def test_the_judge_refuses() -> None:
    closed = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
    assert fits({"a": 1}, closed)
    assert not any(fits(value, closed) for value in ({}, {"a": "1"}, {"a": 1, "b": 2}, {"a": True}, [], None))


@pytest.mark.parametrize(
    "pattern", ["a+b", "^[a-z]{3}-\\d+$", "(ja|nein)", "[^a]{0,5}", "(\u4f60|\u597d){2}!", "a*", "x(.|\n){3}y"]
)
def test_an_expression_is_matched_as_a_whole(grammars: Grammars, tokenizer: Tokenizer, pattern: str) -> None:
    for seed in range(10):
        text = babble(grammars, tokenizer, Constraint("regex", pattern), seed, patience=20)
        assert re.fullmatch(pattern, text), text


def test_a_grammar_is_kept(grammars: Grammars, tokenizer: Tokenizer) -> None:
    """Nested brackets, which no regular expression can describe."""
    lark = 'start: pair\npair: "(" pair* ")" | "[" pair* "]"\n'
    for seed in range(10):
        text = babble(grammars, tokenizer, Constraint("lark", lark), seed, patience=20)
        rest = text
        while (shorter := rest.replace("()", "").replace("[]", "")) != rest:
            rest = shorter
        assert text
        assert not rest


def test_control_tokens_come_by_name_only(grammars: Grammars, tokenizer: Tokenizer) -> None:
    go = tokenizer.token_id("<|go|>")
    assert grammars.start(Constraint("regex", "(.|\n)*")).refused()[go]
    for name in ("<|go|>", f"<[{go}]>"):
        course = grammars.start(Constraint("lark", f'start: "a" {name} "b"'))
        course.accept(tokenizer.encode("a")[0])
        assert (~course.refused()).nonzero()[0].tolist() == [go]


def test_end_tokens_stand_exactly_where_the_grammar_may_end(grammars: Grammars, tokenizer: Tokenizer) -> None:
    course = grammars.start(Constraint("regex", "ab?"))
    assert course.refused()[list(tokenizer.eos_ids)].all()
    assert not course.finished
    course.accept(tokenizer.token_id("a"))
    assert len(tokenizer.eos_ids) == 2
    assert not course.refused()[list(tokenizer.eos_ids)].any()
    assert not course.finished
    course.accept(tokenizer.token_id("b"))
    assert course.finished
    ended = grammars.start(Constraint("regex", "a*"))
    ended.accept(tokenizer.eos_ids[0])
    assert ended.finished


def test_ignored_end_tokens_are_refused_while_something_else_is_allowed(grammars: Grammars, tokenizer: Tokenizer) -> None:
    course = grammars.start(Constraint("regex", "a{0,3}"), ignore_eos=True)
    a = tokenizer.token_id("a")
    for _ in range(3):
        assert not course.finished
        assert (~course.refused()).nonzero()[0].tolist() == [a]
        course.accept(a)
    assert course.finished


def test_rows_beyond_the_vocabulary_are_refused(grammars: Grammars, tokenizer: Tokenizer) -> None:
    refused = grammars.start(Constraint("regex", "(.|\n)*")).refused()
    assert refused.shape == (ROWS,)
    assert refused[tokenizer.vocab_size :].all()


def test_a_vocabulary_without_end_tokens_and_with_more_ids_than_rows(tokenizer: Tokenizer) -> None:
    small = Grammars(tokenizer, 200, ())
    course = small.start(Constraint("regex", "[ -~]b"))
    allowed = (~course.refused()).nonzero()[0]
    assert len(allowed) > 0
    assert allowed.max() < 200
    course.accept(int(allowed[0]))
    course.accept(tokenizer.token_id("b"))
    assert course.finished


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(['{"a": [12, true], "b": "ab  c"}', '{"b": "\u4f60"}', '{"a": [', "nonsense"]), min_size=1),
    st.data(),
)
def test_looking_ahead_changes_nothing(grammars: Grammars, tokenizer: Tokenizer, texts: list[str], data: st.DataObject) -> None:
    """After any proposals, right or wrong, the state is what it was; and the row ahead is the one that comes in time."""
    wanted = {"type": "object", "properties": {"a": {"type": "array"}, "b": {"type": "string"}}}
    course, plain = grammars.start(schema(wanted)), grammars.start(schema(wanted))
    for text in texts:
        ids = tokenizer.encode(text)
        start = data.draw(st.integers(0, len(ids) - 1))
        drafts = ids[start:]
        valid = course.num_valid(drafts)
        rows = [course.refused(drafts[:count]) for count in range(valid + 1)]
        assert (rows[0] == plain.refused()).all()
        for place in range(data.draw(st.integers(0, valid))):
            assert not rows[place][drafts[place]]
            course.accept(drafts[place])
            plain.accept(drafts[place])
            if not plain.finished:
                assert (rows[place + 1] == plain.refused()).all()
        if plain.finished:
            assert course.finished
            break


def test_num_valid_stops_at_the_first_wrong_token(grammars: Grammars, tokenizer: Tokenizer) -> None:
    course = grammars.start(Constraint("regex", "aab?"))
    a, b, end = tokenizer.token_id("a"), tokenizer.token_id("b"), tokenizer.eos_ids[0]
    assert [course.num_valid(ids) for ids in ([], [b], [a, a, b], [a, b], [a, a, end], [a, end], [a, a, end, a])] == [
        0,
        0,
        3,
        1,
        3,
        1,
        3,
    ]
    quiet = grammars.start(Constraint("regex", "aab?"), ignore_eos=True)
    assert quiet.num_valid([a, a, end]) == 2


def test_forced_tokens_spell_what_has_to_come(grammars: Grammars, tokenizer: Tokenizer) -> None:
    course = grammars.start(Constraint("regex", "abtrue(x|y)"))
    forced = course.forced()
    assert "abtrue".startswith(tokenizer.decode(forced))
    assert course.num_valid(forced) == len(forced) > 1
    assert grammars.start(Constraint("regex", "[ab]")).forced() == []


def test_a_dead_end_is_an_error_of_its_own_request_and_not_of_a_proposal(tokenizer: Tokenizer) -> None:
    course = Grammars(tokenizer, 60, ()).start(Constraint("regex", "AB|C\\x7f"))
    a, b, c = (tokenizer.token_id(letter) for letter in "ABC")
    with pytest.raises(RequestError, match="cannot go on") as caught:
        course.refused([c])
    assert caught.value.status == 422
    assert (~course.refused([a])).nonzero()[0].tolist() == [b]
    assert not course.refused()[c]
    course.accept(c)
    with pytest.raises(RequestError, match="cannot go on"):
        course.refused()
    assert course.num_valid([b]) == 0
    assert course.forced() == []
    assert not course.finished


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        (Constraint("json", "{bad"), "not JSON"),
        (schema({"properties": {"a": {"items": {"not": {}}}}}), r"Unimplemented keys: \[\"not\"\] \(at /properties/a/items\)"),
        (schema({"anyOf": [{"type": "string"}, {"type": "strin"}]}), r"Invalid type: strin \(at /anyOf/1\)"),
        (schema({"type": "string", "pattern": "a(?=b)"}), "look-around"),
        (schema(False), "allows anything"),
        (schema([1]), "an object, or true"),
        (schema({"$ref": "#/nowhere"}), "nowhere"),
        (schema({"$ref": "http://somewhere.example/x.json"}), "somewhere"),
        (schema({"multipleOf": 1e9}), "multipleOf"),
        (schema({"allOf": [{"multipleOf": 9973}, {"multipleOf": 0.0991}]}), "multipleOf"),
        (Constraint("json", '{"multipleOf": NaN}'), "cannot be used"),
        (Constraint("json", '{"items":' * 5000 + "{}" + "}" * 5000), "cannot be used"),
        (schema({"enum": [f"number {n}" for n in range(60_000)]}), "cannot be used"),
        (Constraint("regex", "a("), "unclosed group"),
        (Constraint("regex", "(?<!a)b"), "look-around"),
        (Constraint("regex", "a\ud800"), "surrogate"),
        (Constraint("json", '{"const": "\\ud800"}'), "cannot be used"),
        (Constraint("regex", "("  * 5000 + ")" * 5000), "cannot be used"),
        (Constraint("regex", "a" * 20_001), "20001 characters"),
        (Constraint("lark", "start: nowhere"), "nowhere"),
        (Constraint("lark", "begin: \"a\""), "start"),
        (Constraint("lark", "start: <|nowhere|>"), "nowhere"),
        (Constraint("lark", "start: " + "(" * 9999 + '"a"' + ")" * 9999), "nested"),
        (Constraint("lark", 'start: %json {"multipleOf": 1e9}'), "multipleOf"),
        (Constraint("lark", "start: start"), "cannot be used"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_constraint_that_cannot_be_used_is_a_request_error(grammars: Grammars, constraint: Constraint, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        grammars.check(constraint)
    assert caught.value.status == 400
    assert caught.value.hint
    assert len(caught.value.message) < 2000


def test_a_vocabulary_that_cannot_say_it_is_a_request_error(tokenizer: Tokenizer) -> None:
    small = Grammars(tokenizer, 60, ())
    with pytest.raises(RequestError, match="no reply"):
        small.check(Constraint("regex", "~"))


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["json", "regex", "lark"]), st.text(st.characters(codec=None), max_size=60))
def test_any_text_is_a_constraint_or_a_request_error(grammars: Grammars, kind: Any, text: str) -> None:
    with contextlib.suppress(RequestError):
        grammars.check(Constraint(kind, text))


def test_many_threads_compile_at_once(tokenizer: Tokenizer) -> None:
    fresh, found = Grammars(tokenizer, ROWS, tokenizer.eos_ids), []

    def work(number: int) -> None:
        for place in range(12):
            constraint = Constraint("regex", f"[a-c]{{{place % 5 + 1}}}x")
            found.append((constraint, babble(fresh, tokenizer, constraint, number)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 48
    assert all(re.fullmatch(constraint.source, text) for constraint, text in found)


def wishes(count: int) -> list[Request]:
    """Requests of all kinds, constrained and not, greedy and drawn."""
    kinds: list[Constraint | None] = [
        schema({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["ab", "x"]}}, "required": ["a", "b"]}),
        None,
        Constraint("regex", "[a-f]{3,9}(true|12)*"),
        schema({"type": "array", "items": {"type": "boolean"}, "maxItems": 5}),
        Constraint("lark", 'start: "<" ("ab" | /[0-9]/)+ ">"'),
    ]
    rng = random.Random(5)
    return [
        Request(
            tuple(rng.randrange(250) for _ in range(rng.randrange(1, 30))),
            Sampling(
                max_tokens=rng.randrange(1, 24),
                temperature=rng.choice([0.0, 1.5]),
                min_p=rng.choice([0.0, 0.05]),
                frequency_penalty=rng.choice([0.0, 0.7]),
                repetition_penalty=rng.choice([1.0, 1.3]),
                seed=number,
                logprobs=2,
                constraint=kinds[number % len(kinds)],
            ),
            ignore_eos=rng.random() < 0.3,
        )
        for number in range(count)
    ]


def run_all(lab: Any, tokenizer: Tokenizer, requests: Sequence[Request], **config: Any) -> list[Any]:
    engine = Engine(lab.build(vocab_size=ROWS), tokenizer, EngineConfig(max_tokens=1024, block_size=8, **config))
    return [(event.token_ids, event.logprobs, event.text, event.finish_reason) for event in lab.run(engine, requests)]


def test_a_constrained_reply_is_the_same_alone_in_a_batch_and_with_proposals(lab: Any, tokenizer: Tokenizer) -> None:
    wanted = wishes(15)
    alone = [run_all(lab, tokenizer, [one])[0] for one in wanted]
    assert alone == run_all(lab, tokenizer, wanted)
    assert alone == run_all(lab, tokenizer, wanted, max_batch_tokens=7, max_running=3)
    speculation = NgramSpeculation(num_tokens=4, shortest_match=1)
    assert alone == run_all(lab, tokenizer, wanted, max_running=2, speculation=speculation)
    assert {reason for *_, reason in alone} == {"stop", "length"}
    for one, (_, _, text, reason) in zip(wanted, alone, strict=True):
        constraint = one.sampling.constraint
        if reason == "stop" and constraint is not None and constraint.kind == "json":
            json.loads(text)


def test_a_dead_end_fails_alone(lab: Any, tokenizer: Tokenizer) -> None:
    dead, good = Constraint("regex", "A\\x7f"), Constraint("regex", "[A-C]{4}")
    requests = [Request((5, 6), Sampling(max_tokens=9, constraint=one)) for one in (good, dead, good)]
    events = lab.run(Engine(lab.build(vocab_size=60), tokenizer, EngineConfig(max_tokens=256, block_size=8)), requests)
    assert [event.finish_reason for event in events] == ["stop", "error", "stop"]
    assert isinstance(events[1].error, RequestError)
    assert events[0].text == events[2].text
    assert len(events[0].text) == 4
