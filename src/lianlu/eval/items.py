"""STAGE eval-items: the items of evaluation tasks as documents, for the decontaminate stage to search a corpus for.

A document is one part of an item: `meta` has task, dataset, item and part (question, answer). Of multiple choice the answer is
the text of the right choice, and the question goes without its choices where it has the words of a window by itself: pages
that copy it number the choices in their own way. What a task generates from a seed stands in no corpus and is not taken by
itself; name the task to have it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from lianlu.core.config import AnyArtifact, Config, Conversations
from lianlu.core.errors import ConfigError
from lianlu.core.stage import Estimate
from lianlu.core.store import Output
from lianlu.eval.sources import Sources
from lianlu.eval.task import Item, Task
from lianlu.eval.task_tables import BUILDERS, TaskTable, build_tasks
from lianlu.eval.tasks.docstrings import DocstringsTask
from lianlu.formats.documents import Document, write_documents

_CHOICE = re.compile(r"^\(?([A-Z])[.)] +(.*)$", re.MULTILINE)
_WINDOW_WORDS = 13
GENERATED = ("arithmetic", "needle")


class ItemsConfig(Config):
    """Whose items are written."""

    benchmarks: AnyArtifact | None = None
    """A folder of public benchmarks (gsm8k/, humaneval/, mmlu/, ...), used in place."""
    data: Conversations | None = None
    """Held-out conversations, for the task docstrings."""
    tasks: list[TaskTable] = Field(default_factory=list)
    """The tasks, each a table with a kind, as in the eval stage; none: all whose data are there."""
    seed: int = 0
    """Seed of generated items."""


def estimate(config: ItemsConfig) -> Estimate:
    """A few seconds: benchmarks are small."""
    return Estimate(5, 300_000_000, "benchmarks are small")


def run(config: ItemsConfig, out: Output) -> None:
    """Write the items as documents. Raises: ConfigError if there is no task, DataError if its data cannot be read."""
    data, benchmarks = (Path(path) if path else None for path in (config.data, config.benchmarks))
    sources = Sources(data, benchmarks, config.seed)
    tasks = build_tasks(config.tasks or tables_there(sources), sources)
    parts = Counter[str]()

    def documents() -> Iterator[Document]:
        for task in tasks:
            for document in documents_of(task):
                parts[f"{task.name} {document.meta['part']}s"] += 1
                yield document

    count = write_documents(out.path, documents())
    out.figures.update(tasks=len(tasks), items=sum(len(task.items) for task in tasks), documents=count, parts=dict(parts))


def tables_there(sources: Sources) -> list[TaskTable]:
    """The tasks whose data are there, with their defaults, so with all their items. Raises: ConfigError if there are none."""
    classes: list[Any] = [cls for cls in BUILDERS if _is_there(cls.model_fields["kind"].default, sources)]
    found = [cls(**({"limit": 0} if "limit" in cls.model_fields else {})) for cls in classes]
    if not found:
        raise ConfigError("there are no evaluation tasks to take items from", hint='set benchmarks = "DIR", or name tasks')
    return found


def _is_there(kind: str, sources: Sources) -> bool:
    if kind == DocstringsTask.model_fields["kind"].default:
        return sources.conversations is not None
    return kind not in GENERATED and sources.benchmarks is not None and (sources.benchmarks / kind).is_dir()


def documents_of(task: Task) -> Iterator[Document]:
    """The parts of all items of a task."""
    for item in task.items:
        for part, text in parts_of(item).items():
            meta = {"task": task.name, "dataset": task.dataset, "item": item.id, "part": part}
            yield Document(f"{task.name}/{item.id}/{part}", text, source=task.name, domain="eval", meta=meta)


def parts_of(item: Item) -> dict[str, str]:
    """Question and answer of an item, those that are not empty."""
    question, answer = item.input, item.target
    choices = dict(_CHOICE.findall(question))
    if answer in choices:
        stem = question[: next(_CHOICE.finditer(question)).start()]
        question = stem if len(stem.split()) >= _WINDOW_WORDS else question
        answer = choices[answer]
    return {part: text.strip() for part, text in (("question", question), ("answer", answer)) if text.strip()}
