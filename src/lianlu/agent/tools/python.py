"""The Python interpreter as a tool: code that a model wrote, run in the sandbox.

Every call starts afresh, with the standard library and nothing else. The value of a last expression is printed, as in a
notebook. The model reads what was printed, then the traceback if there is one, then why it was stopped.
"""

from __future__ import annotations

from lianlu.agent.tool import Tool, tool
from lianlu.sandbox.run import Limits, Result, run_python

MAX_CHARS = 8000


def python_tool(limits: Limits | None = None, max_chars: int = MAX_CHARS) -> Tool:
    """The tool `python`; `max_chars` bounds what the model has to read of one call."""
    allowed = limits or Limits()

    def python(code: str) -> str:
        """Run Python code and return what it prints.

        Args:
            code: The code to run.
        """
        return describe(run_python(code, allowed, show_last=True), allowed, max_chars)

    return tool(python)


def describe(result: Result, limits: Limits, max_chars: int = MAX_CHARS) -> str:
    """A result as text for a model; a long one is cut in the middle, so that the end of a traceback is kept."""
    endings = {
        "time": f"(stopped: it ran longer than {limits.wall_s:g} s)",
        "cpu": f"(stopped: it used more than {limits.cpu_s} s of processor time)",
        "memory": f"(stopped: it used more than {limits.memory_bytes >> 20} MiB of memory)",
        "output": f"(stopped: it printed more than {limits.output_bytes} bytes)",
        "files": "(stopped: it made too many files)",
        "": f"(it was killed by signal {-result.exit_code})" if result.exit_code < 0 else "",
    }
    parts = [cut(text, max_chars // 2) for text in (result.stdout, result.stderr)]
    parts = [part.rstrip("\n") for part in (*parts, endings[result.killed_by]) if part.strip()]
    if not parts:
        return "(nothing was printed)" if result.exit_code == 0 else f"(nothing was printed; exit code {result.exit_code})"
    return "\n".join(parts)


def cut(text: str, max_chars: int) -> str:
    """`text`, with its middle left out if it is longer than `max_chars`."""
    if len(text) <= max_chars:
        return text
    head = max_chars // 2
    return f"{text[:head]}\n... ({len(text) - max_chars} characters left out) ...\n{text[len(text) - (max_chars - head) :]}"
