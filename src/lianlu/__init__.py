"""lianlu: from raw text to an answering agent on your own language model, with one tool."""

import os

# Waiting OpenMP threads spin for milliseconds by default, which costs a factor of ten where another process wants the core;
# a tenth of that is as fast alone (docs/log.md). Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

__version__ = "0.1.0"
