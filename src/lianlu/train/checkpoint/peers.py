"""What the processes of a run say to each other about states: what the main one decides, and whether all have succeeded.

Groups of their own over gloo, one for the training thread and one for the thread that writes, so that neither meets a
message of the other or of the training. One process alone says nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import distributed

from lianlu.core.errors import LianluError
from lianlu.train.parallel.layout import Layout

T = TypeVar("T")
# the slowest process may still be writing a large state to a slow disk
PATIENCE = datetime.timedelta(hours=3)


class Peers:
    """One group of the processes of `layout`; made by all of them at the same moment."""

    def __init__(self, layout: Layout) -> None:
        self.group: Any = distributed.new_group(backend="gloo", timeout=PATIENCE) if layout.num_ranks > 1 else None
        self.is_main = layout.is_main

    def told(self, value: bool) -> bool:
        """What the main process says."""
        if self.group is None:
            return value
        flag = torch.tensor([value])
        distributed.broadcast(flag, src=0, group=self.group)
        return bool(flag)

    def made(self, make: Callable[[], T]) -> T:
        """What the main process makes, on all; its error is raised on all."""
        if self.group is None:
            return make()
        said: list[Any] = [None, None]
        if self.is_main:
            said = list(_tried(make))
        distributed.broadcast_object_list(said, src=0, group=self.group)
        if said[1] is not None:
            raise said[1]
        result: T = said[0]
        return result

    def together(self, each: Callable[[], None], then: Callable[[], None]) -> None:
        """`each` on all processes; if all succeed, `then` on the main one. An error of any of them is raised on all."""
        if self.group is None:
            each()
            then()
            return
        _, error = _tried(each)
        errors: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(errors, error, group=self.group)
        for found in errors:
            if found is not None:
                raise found
        self.made(then)


def _tried(act: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """The result or the error, in a form that can be sent."""
    try:
        return act(), None
    except LianluError as error:
        return None, error
    except Exception as error:
        return None, RuntimeError(f"{type(error).__name__}: {error}")
