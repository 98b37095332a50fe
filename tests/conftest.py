"""Shared fixtures: where real data and the embedded model are, or a clear reason to skip."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

# started in the background by a shell, a process ignores Ctrl-C, and so would all that the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)

# no test asserts on time: the machine may be slow or busy
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("LIANLU_TEST_DATA", ROOT.parent / "shared" / "data"))
SMOLLM2 = "smollm2-135m-instruct"


@pytest.fixture(autouse=True)
def _same_numbers_each_time() -> None:
    """What a test draws does not depend on the tests before it, nor on the day."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real corpora and benchmarks."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the development data in {SHARED} (set LIANLU_TEST_DATA)")
    return SHARED


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF of SmolLM2-135M-Instruct, if it has been pulled."""
    from lianlu.model.pull import local_path

    path = local_path(SMOLLM2)
    if path is None:
        pytest.skip(f"needs the embedded model: run `lianlu pull {SMOLLM2}` first")
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of its own for one test."""
    monkeypatch.setenv("LIANLU_HOME", str(tmp_path / "store"))
    return tmp_path / "store"
