"""The chat-data stage: conversations to fine-tune on, made from the standard library's docstrings and from arithmetic.

Docstrings give short questions and answers about functions, classes and methods; a symbol, with all that is said about it,
is either in train.jsonl or in held_out.jsonl. Arithmetic is asked with a Python tool on offer, which the assistant calls,
and without one; problems come from the training side of `formats.problems`, so that evaluation never meets them.
`meta.kind` of a conversation is `docstring`, `arithmetic-tool` or `arithmetic`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from lianlu.core import console
from lianlu.core.config import Config, Input
from lianlu.core.errors import DataError
from lianlu.core.stage import Estimate
from lianlu.core.store import Output
from lianlu.data.docstrings import Symbol, symbols
from lianlu.data.questions import Question, has_good_answer, questions
from lianlu.data.read.extract import read
from lianlu.data.read.python_source import list_python, module_name
from lianlu.data.read.sources import MODULE
from lianlu.formats.messages import Conversation, Message, ToolCall, ToolSpec, write_conversations
from lianlu.formats.problems import Problem, arithmetic_problem

TRAIN, HELD_OUT = "train.jsonl", "held_out.jsonl"
PYTHON_TOOL = ToolSpec(
    name="python",
    description="Run Python code and return what it prints.",
    parameters={
        "type": "object",
        "properties": {"code": {"type": "string", "description": "The code to run."}},
        "required": ["code"],
        "additionalProperties": False,
    },
)
"""The tool of `agent/tools/python.py`, word for word: what is trained here is what the agent offers."""
_MAX_BYTES = 5_000_000


class ChatDataConfig(Config):
    """How many conversations of each sort."""

    source: Annotated[Literal["python"], Input()] = "python"
    """Where docstrings are taken from."""
    num_train: int = Field(400, ge=0)
    """Conversations about docstrings to train on."""
    num_held_out: int = Field(60, ge=0)
    """Conversations about docstrings of other symbols, for evaluation."""
    num_tool_train: int = Field(120, ge=0)
    """Arithmetic conversations in which the assistant calls the Python tool."""
    num_tool_held_out: int = Field(20, ge=0)
    """The same, held out."""
    num_plain_train: int = Field(40, ge=0)
    """Arithmetic conversations without a tool."""
    num_plain_held_out: int = Field(10, ge=0)
    """The same, held out."""
    max_answer_words: int = Field(80, gt=0)
    """Longest answer about a docstring."""
    seed: int = 0
    """Decides which symbols, phrasings and problems are drawn."""


def estimate(config: ChatDataConfig) -> Estimate:
    """A few seconds: the standard library is parsed once."""
    return Estimate(6, 300_000_000, "parsing the standard library")


def run(config: ChatDataConfig, out: Output) -> None:
    """Write train.jsonl and held_out.jsonl. Raises: DataError if the docstrings do not yield enough."""
    found = list(_symbols(config.max_answer_words))
    train, held_out = _split(found, config)
    problems = _problems(config)
    train += _arithmetic(problems, config.num_tool_train, config.num_plain_train, config.seed)
    held_out += _arithmetic(problems, config.num_tool_held_out, config.num_plain_held_out, config.seed)
    for name, conversations in ((TRAIN, train), (HELD_OUT, held_out)):
        random.Random(f"order/{name}/{config.seed}").shuffle(conversations)
        write_conversations(out.path / name, conversations)
    out.figures.update(_figures(found, train, held_out))


def _symbols(max_words: int) -> Iterator[Symbol]:
    """Public symbols of public modules whose docstring gives a good answer; of equal docstrings the first."""
    raws = [raw for raw in list_python().raws if raw.kind == MODULE]
    seen: set[str] = set()
    with console.progress("chat-data", total=len(raws), unit="module") as bar:
        for raw in raws:
            module = module_name(raw.path)
            text = read(raw, _MAX_BYTES) if not any(part.startswith("_") for part in module.split(".")) else ""
            for symbol in symbols(text, module) if isinstance(text, str) else ():
                key = " ".join(symbol.doc.lower().split())
                if symbol.name and key not in seen and has_good_answer(symbol, max_words):
                    seen.add(key)
                    yield symbol
            bar.advance()


def _split(found: list[Symbol], config: ChatDataConfig) -> tuple[list[Conversation], list[Conversation]]:
    """Questions for training and held-out questions; no symbol is in both."""
    shuffled = sorted(found, key=lambda symbol: symbol.full_name)
    random.Random(f"symbols/{config.seed}").shuffle(shuffled)
    wanted = config.num_train + config.num_held_out
    share = config.num_held_out / max(wanted, 1)
    cut = max(round(len(shuffled) * share), min(config.num_held_out, 1))
    return _asked(shuffled[cut:], config.num_train, config), _asked(shuffled[:cut], config.num_held_out, config)


def _asked(group: list[Symbol], count: int, config: ChatDataConfig) -> list[Conversation]:
    """`count` conversations: one about each symbol first, then second questions about the same symbols."""
    rounds: list[list[tuple[Symbol, Question]]] = []
    for symbol in group:
        rng = random.Random(f"question/{config.seed}/{symbol.full_name}")
        for turn, question in enumerate(questions(symbol, rng)):
            if turn == len(rounds):
                rounds.append([])
            rounds[turn].append((symbol, question))
    chosen = [pair for turn in rounds for pair in turn][:count]
    if len(chosen) < count:
        raise DataError(
            f"docstrings give {len(chosen)} questions of the {count} asked for", hint="lower num_train or num_held_out"
        )
    return [_about(symbol, question) for symbol, question in chosen]


def _about(symbol: Symbol, question: Question) -> Conversation:
    return Conversation(
        id=f"docstring/{symbol.full_name}/{question.kind}",
        messages=[Message(role="user", content=question.text), Message(role="assistant", content=question.answer)],
        meta={"kind": "docstring", "question": question.kind, "symbol": symbol.full_name, "module": symbol.module},
    )


def _problems(config: ChatDataConfig) -> Iterator[Problem]:
    """An endless stream of problems from the training side, no expression twice."""
    seen: set[str] = set()
    index = 0
    while True:
        problem = arithmetic_problem(config.seed, index, training=True)
        index += 1
        if problem.expression not in seen:
            seen.add(problem.expression)
            yield problem


def _arithmetic(problems: Iterator[Problem], with_tool: int, plain: int, seed: int) -> list[Conversation]:
    rng = random.Random(f"replies/{seed}")
    return [_with_tool(next(problems), rng) for _ in range(with_tool)] + [_plain(next(problems), rng) for _ in range(plain)]


def _with_tool(problem: Problem, rng: random.Random) -> Conversation:
    call = ToolCall(id="call_0", name=PYTHON_TOOL.name, arguments={"code": f"print({problem.expression})"})
    messages = [
        Message(role="user", content=problem.question),
        Message(role="assistant", tool_calls=[call]),
        Message(role="tool", content=str(problem.answer), tool_call_id=call.id, name=PYTHON_TOOL.name),
        Message(role="assistant", content=_stated(problem, rng)),
    ]
    return Conversation(
        id=f"arithmetic-tool/{problem.expression}",
        messages=messages,
        tools=[PYTHON_TOOL],
        meta=_about_problem("arithmetic-tool", problem),
    )


def _plain(problem: Problem, rng: random.Random) -> Conversation:
    messages = [Message(role="user", content=problem.question), Message(role="assistant", content=_stated(problem, rng))]
    return Conversation(id=f"arithmetic/{problem.expression}", messages=messages, meta=_about_problem("arithmetic", problem))


def _stated(problem: Problem, rng: random.Random) -> str:
    return rng.choice(("The answer is {}.", "It is {}.", "The result is {}.")).format(problem.answer)


def _about_problem(kind: str, problem: Problem) -> dict[str, Any]:
    return {"kind": kind, "expression": problem.expression, "answer": problem.answer}


def _figures(found: list[Symbol], train: list[Conversation], held_out: list[Conversation]) -> dict[str, Any]:
    counts: dict[str, Any] = {"symbols": len(found), "train": len(train), "held_out": len(held_out)}
    for name, group in (("train", train), ("held_out", held_out)):
        kinds = [conversation.meta["kind"] for conversation in group]
        counts[f"{name}_by_kind"] = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    first = next((conversation for conversation in train if conversation.meta["kind"] == "docstring"), None)
    if first is not None:
        counts["sample"] = {"question": first.messages[0].content, "answer": first.messages[-1].content}
    return counts
