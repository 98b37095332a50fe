"""Which of the processes of one launch this one is: the environment that torchrun gives each of them.

One process alone (nothing set) is the main one of one. A launcher other than torchrun has to set RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR and MASTER_PORT as torchrun does.
"""

from __future__ import annotations

import os


def num_processes() -> int:
    """Processes of this launch, on all machines together."""
    return max(int(os.environ.get("WORLD_SIZE", "1")), 1)


def rank() -> int:
    """The number of this process among all, from 0."""
    return int(os.environ.get("RANK", "0")) if num_processes() > 1 else 0


def local_rank() -> int:
    """The number of this process on its machine, from 0: which of the GPUs is its own."""
    return int(os.environ.get("LOCAL_RANK", "0")) if num_processes() > 1 else 0


def is_main() -> bool:
    """Whether this process speaks for all: logs, results, messages."""
    return rank() == 0
