"""Tools beside each other: each a process of its own in its own environment, asked by lines of JSON (`peers/lines.py`).

`make bench` sets the peers' environment up (`peers/data.sh`, .venv-data-peers); one that cannot be started is left out, with the
reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parent / "peers"
PYTHON = Path(os.environ.get("LIANLU_DATA_PEERS", PEERS.parents[1] / ".venv-data-peers")) / "bin" / "python"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
OURS = "lianlu"


class Tool:
    """A process that answers."""

    def __init__(self, name: str, log: Path) -> None:
        self.name, self._log = name, log
        python = sys.executable if name == OURS else str(PYTHON)
        self._process = subprocess.Popen(
            [python, PEERS / f"ask_{name}.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("wb"),
            text=True,
            env={**os.environ, **ONE_THREAD, "TQDM_DISABLE": "1"},
        )
        self.pid = self._process.pid

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """One question. Raises: RuntimeError with what the process said last, if it died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **more}, default=str) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise RuntimeError(f"{self.name} could not {do}: {self._log.read_text('utf-8', 'replace')[-1500:]}")
        return dict(json.loads(line))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def tools(names: Sequence[str], warm: Path) -> Iterator[list[Tool]]:
    """Those of the tools that can be started, lianlu first; each has answered once."""
    opened: list[Tool] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in (OURS, *names):
            if name != OURS and not PYTHON.exists():
                print(f"left out: {name} ({PYTHON} is not there: sh bench/peers/data.sh .venv-data-peers)")
                continue
            tool = Tool(name, Path(folder) / name)
            try:
                tool.ask(
                    "warm" if name == OURS else "near_dedup",
                    documents=warm,
                    **({} if name == OURS else {"folder": f"{folder}/w-{name}"}),
                )
            except RuntimeError as error:
                if name == OURS:
                    raise
                print(f"left out: {error}")
                tool.close()
                continue
            opened.append(tool)
        try:
            yield opened
        finally:
            for tool in opened:
                tool.close()
