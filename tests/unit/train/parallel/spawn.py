"""Cases that need several processes: functions `case_...` of some files, run one after another by each of a few processes.

As a script (`python spawn.py FOLDER RANK SIZE FILE...`) it is one of the processes: it joins the others over gloo and a file
store, runs every case of the files with a `World`, and writes what became of them to FOLDER/RANK.json. `run_cases` starts
the processes and reads that. A case that fails on one process leaves the others waiting, so the first failure ends the run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType

TIMEOUT_S = 60


@dataclass(frozen=True)
class World:
    """What a case knows: the process it runs in, how many there are, and a folder that all of them share."""

    rank: int
    size: int
    folder: Path

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Within it this process counts as the only one, so that a case can make what it compares with."""
        os.environ["WORLD_SIZE"] = "1"
        try:
            yield
        finally:
            os.environ["WORLD_SIZE"] = str(self.size)


def case_names(files: Sequence[Path]) -> list[str]:
    """Names of all cases in some files, without importing them: `file.case_name`."""
    found = [(file.stem, re.findall(r"^def (case_\w+)", file.read_text(), re.MULTILINE)) for file in files]
    return [f"{stem}.{name}" for stem, names in found for name in names]


def run_cases(files: Sequence[Path], size: int, folder: Path) -> dict[str, str]:
    """What became of every case: empty if it passed on all processes, else what went wrong and where."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    running = []
    for rank in range(size):
        command = [sys.executable, __file__, str(folder), str(rank), str(size), *map(str, files)]
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        running.append(subprocess.Popen(command, env={**environment, **own}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    said = [_end_of(process) for process in running]
    results = dict.fromkeys(case_names(files), "")
    for rank in range(size):
        path = folder / f"{rank}.json"
        own_results = json.loads(path.read_text()) if path.exists() else {}
        for name in results:
            wrong = own_results.get(name, f"not run; the process said: {said[rank][-2000:]}")
            results[name] += f"\nrank {rank}: {wrong}" if wrong else ""
    return results


def _end_of(process: subprocess.Popen[bytes]) -> str:
    try:
        return process.communicate(timeout=TIMEOUT_S)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0].decode(errors="replace") + f"\nkilled after {TIMEOUT_S} s"


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def main(folder: Path, rank: int, size: int, files: Sequence[Path]) -> None:
    """One of the processes."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=TIMEOUT_S / 3))
    modules = {file.stem: _load(file) for file in files}
    results: dict[str, str] = {}
    for name in case_names(files):
        stem, _, case = name.partition(".")
        try:
            getattr(modules[stem], case)(World(rank, size, folder))
            results[name] = ""
        except BaseException:
            results[name] = traceback.format_exc()
        (folder / f"{rank}.json").write_text(json.dumps(results))
        if results[name]:
            os._exit(1)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), [Path(name) for name in sys.argv[4:]])
