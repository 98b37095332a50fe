"""Task tables of a configuration, and the tasks they mean: the one place that knows every task."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from lianlu.core.config import Config
from lianlu.core.errors import ConfigError
from lianlu.eval.sources import Sources
from lianlu.eval.task import Task
from lianlu.eval.tasks import arithmetic, docstrings, gsm8k, humaneval, mmlu, needle

TaskTable = Annotated[
    docstrings.DocstringsTask
    | arithmetic.ArithmeticTask
    | needle.NeedleTask
    | gsm8k.Gsm8kTask
    | humaneval.HumanEvalTask
    | mmlu.MmluTask,
    Field(discriminator="kind"),
]

BUILDERS: dict[type[Config], Callable[[Any, Sources], Task]] = {
    docstrings.DocstringsTask: docstrings.build,
    arithmetic.ArithmeticTask: arithmetic.build,
    needle.NeedleTask: needle.build,
    gsm8k.Gsm8kTask: gsm8k.build,
    humaneval.HumanEvalTask: humaneval.build,
    mmlu.MmluTask: mmlu.build,
}
SUBJECTS, GSM8K_ITEMS, HUMANEVAL_ITEMS, MMLU_ITEMS, SOME = 57, 1_319, 164, 14_042, 500
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def build_tasks(tables: Sequence[TaskTable], sources: Sources) -> list[Task]:
    """The tasks of a configuration, in order. Raises: ConfigError, DataError."""
    tasks: list[Task] = []
    for table in tables:
        task = BUILDERS[type(table)](table, sources)
        name = table.name or task.name
        if not NAME.fullmatch(name):
            raise ConfigError(f"a task cannot be called {name!r}", hint="use lower-case letters, digits, dot, dash, underscore")
        if name in {other.name for other in tasks}:
            raise ConfigError(f"two tasks are called {name}", hint='give one of them another name, for example name = "long"')
        tasks.append(replace(task, name=name))
    return tasks


def num_requests(table: TaskTable) -> tuple[int, int]:
    """About how many continuations a task scores, and how many replies of its full length it asks for."""
    if isinstance(table, docstrings.DocstringsTask):
        return table.limit or SOME, table.generate
    if isinstance(table, arithmetic.ArithmeticTask):
        return 0, table.limit * (2 if table.tool else 1)
    if isinstance(table, needle.NeedleTask):
        return 0, len(table.lengths) * len(table.depths) * table.repeats
    if isinstance(table, mmlu.MmluTask):
        return 4 * (table.limit * (len(table.subjects) or SUBJECTS) or MMLU_ITEMS), 0
    most = GSM8K_ITEMS if isinstance(table, gsm8k.Gsm8kTask) else HUMANEVAL_ITEMS
    return 0, table.limit or most
