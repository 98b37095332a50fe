"""What runs first inside the sandbox: give up rights, set limits, then run the code.

`sandbox.run` passes the text of this file to the interpreter, so it imports nothing of lianlu and needs no installed
package. The request is one JSON object on standard input. A byte on the pipe `ready` says that everything is in place;
only then is the code compiled and run. What goes wrong before that byte is a failure of the sandbox, what comes after
it is the code's own. The limits set here are hard: the code cannot raise them again.
"""

from __future__ import annotations

import ast
import contextlib
import json
import linecache
import os
import resource
import site
import sys
import traceback
import types
from typing import Any

NAME = "<code>"
WORK = "/tmp"


def give_up_rights(uid: int | None) -> None:
    """Become the user `uid` for good (None: the user namespace has done it), and make sure that nothing is left."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    with open("/proc/self/status", encoding="utf-8") as file:
        status = dict(line.split(":", 1) for line in file)
    rights = [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")]
    walls = (int(status["NoNewPrivs"]), int(status["Seccomp"]))
    if 0 in os.getresuid() + os.getresgid() or any(rights) or walls != (1, 2):
        raise PermissionError(f"rights are left: users {os.getresuid()}, capabilities {rights}, walls {walls}")


def set_limits(limits: dict[str, int]) -> None:
    """Set resource limits, hard ones; for CPU time the signal that can be told apart comes a second before the kill."""
    for name, wanted in limits.items():
        which = getattr(resource, name)
        highest = resource.getrlimit(which)[1]
        value = wanted if highest == resource.RLIM_INFINITY else min(wanted, highest)
        resource.setrlimit(which, (value, value + 1 if which == resource.RLIMIT_CPU else value))


def write_files(files: dict[str, str]) -> None:
    """Put text files into the work folder."""
    for name, text in files.items():
        path = os.path.join(WORK, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)


def prepare() -> dict[str, Any]:
    """All that comes before the code; returns the request."""
    with open(0, encoding="utf-8", closefd=False) as file:
        request: dict[str, Any] = json.load(file)
    give_up_rights(request["uid"])
    set_limits(request["limits"])
    os.chdir(WORK)
    write_files(request["files"])
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    site.setquit()
    sys.path.insert(0, WORK)
    sys.argv[:] = [NAME]
    os.write(request["ready"], b"1")
    close_all()
    return request


def close_all() -> None:
    """Close every descriptor but the three standard ones."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):
                os.close(int(name))


def execute(code: str, show_last: bool) -> None:
    """Run the code as the main module; with `show_last` the value of a last expression is printed as in a notebook."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    linecache.cache[NAME] = (len(code), None, code.splitlines(keepends=True), NAME)
    tree = ast.parse(code, NAME)
    last = tree.body[-1] if show_last and tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    exec(compile(tree, NAME, "exec", dont_inherit=True), module.__dict__)
    if isinstance(last, ast.Expr):
        expression = compile(ast.Expression(last.value), NAME, "eval", dont_inherit=True)
        sys.displayhook(eval(expression, module.__dict__))


def report(error: BaseException) -> None:
    """Print the traceback of the code, without the frames of this file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != NAME:
        trace = trace.tb_next
    try:
        traceback.print_exception(type(error), error, trace)
    except (MemoryError, RecursionError):
        os.write(2, f"{type(error).__name__}\n".encode())


def main() -> None:
    """Prepare, run, report."""
    request = prepare()
    try:
        execute(request["code"], request["show_last"])
    except SystemExit:
        raise
    except BaseException as error:
        report(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
