"""The command line: verbs over the floors below, grouped as in `docs/tour.md`.

A verb imports what it needs when it is called, so that help is quick. All errors end here: message and hint, exit code 2
for what the user can mend, 1 for what only we can, 130 after Ctrl-C; a traceback only with --debug.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import typer
import typer.core

from lianlu.cli import care, chain, data, export, lineage, live, stage_verbs
from lianlu.core import processes

HELP = """From raw text to an answering agent on your own language model, with one tool.

Start here: `lianlu run recipes/tiny.toml` runs the whole chain on a laptop, `lianlu plan RECIPE` says beforehand what it
will do, `lianlu chat smollm2-135m-instruct` talks to a model, `lianlu doctor` says what this machine lacks.
Settings are TOML lines: `lianlu run recipes/tiny.toml steps.clean.source=docs/`. Add --debug for a traceback."""

# ClickException: the base of every error about the command line itself, wherever this version of typer keeps it.
USAGE_ERRORS: Any = typer.BadParameter.__mro__[2]


INTERRUPTED = 130
# what a process that fails after another leaves it to say why, before torchrun ends them all
SPEAKING_S = 1.0


class Verbs(typer.core.TyperGroup):
    """The verbs listed under the headings of the chain rather than as one long list."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one block a heading: the verb and the first sentence of its help."""
        width = max(len(name) for name in self.commands)
        headings = {name: getattr(command, "rich_help_panel", "") for name, command in self.commands.items()}
        for heading in dict.fromkeys(headings.values()):
            with formatter.section(heading):
                members = [(name, command) for name, command in self.commands.items() if headings[name] == heading]
                formatter.write_dl([(name.ljust(width), (command.help or "").splitlines()[0]) for name, command in members])


app = typer.Typer(
    name="lianlu",
    cls=Verbs,
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for part in (chain, stage_verbs, live, lineage, data, care, export):
    part.add_verbs(app)


def main() -> None:
    """Entry point of `lianlu`."""
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    sys.exit(call(arguments, debug="--debug" in sys.argv[1:]))


def call(arguments: list[str], *, debug: bool = False) -> int:
    """Run one command line and return its exit code."""
    if not processes.is_main():
        from lianlu.core import console

        console.hush()
    try:
        code = int(app(arguments, standalone_mode=False) or 0)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        return code
    except USAGE_ERRORS as error:
        error.show()
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        from lianlu.core import console

        console.info("\nstopped; the same command continues where it was")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        if debug:
            raise
        return _report(error)


def _report(error: Exception) -> int:
    from lianlu.core import console
    from lianlu.core.errors import LianluError

    if processes.num_processes() > 1 and not _speaks():
        time.sleep(SPEAKING_S)
        return error.exit_code if isinstance(error, LianluError) else 1
    if isinstance(error, LianluError):
        console.error(error.message, error.hint)
        return error.exit_code
    where = "run the same command with --debug for the traceback, and please report it"
    console.error(f"{type(error).__name__}: {error}", hint=f"this is a fault of lianlu; {where}")
    return 1


def _speaks() -> bool:
    """Of several processes that fail the first one says why: the others have the same to say, or miss the first."""
    from lianlu.train.parallel.launch import first_to_fail

    return first_to_fail()


if __name__ == "__main__":
    main()
