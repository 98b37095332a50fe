"""lianlu: from raw text to an answering agent on your own language model, with one tool."""

__version__ = "0.1.0"
