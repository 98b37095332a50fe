"""What gzip makes of held-out text."""

from __future__ import annotations

import numpy as np
import pytest

from lianlu.train.baselines import gzip_bits_per_byte


def test_gzip_counts_its_whole_stream() -> None:
    assert gzip_bits_per_byte([b"a" * 1000, b"a" * 1000]) < 0.2
    noise = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8).tobytes()
    assert gzip_bits_per_byte([noise]) == pytest.approx(8.0, abs=0.1)
    assert gzip_bits_per_byte([]) == 8 * 20
