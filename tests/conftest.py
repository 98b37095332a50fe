"""Shared fixtures: where real data and the embedded model are, or a clear reason to skip."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

# started in the background by a shell, a process ignores Ctrl-C, and so would all that the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)

# no test asserts on time: the machine may be slow or busy; the same examples each time, but LIANLU_FUZZ=1 looks for new ones
settings.register_profile("any machine", deadline=None, derandomize=not os.environ.get("LIANLU_FUZZ"))
settings.load_profile("any machine")

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("LIANLU_TEST_DATA", ROOT.parent / "shared" / "data"))
SMOLLM2 = "smollm2-135m-instruct"
SYLLABLES = ["ba", "ko", "li", "mer", "tan", "dor", "sil", "ven", "gar", "pel", "mi", "sha", "rot", "nel", "fi", "lum", "har"]
FRAMES = (
    "The {} {} with {} to {}.",
    "Of {} and {}, {} have {}.",
    "{} that {} must be {} by the {}.",
    "To {} is to {} {} and {}.",
)


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


@pytest.fixture(scope="session")
def story() -> Callable[..., str]:
    """A text of made-up words that the rules for prose take for English: of a seed, in so many sentences, three a line."""

    def told(seed: int, sentences: int = 12) -> str:
        rng = random.Random(seed)
        words = ("".join(rng.choices(SYLLABLES, k=rng.randint(2, 4))) for _ in range(4 * sentences))
        made = [rng.choice(FRAMES).format(*(next(words) for _ in range(4))) for _ in range(sentences)]
        return "\n".join(" ".join(made[at : at + 3]) for at in range(0, sentences, 3))

    return told
