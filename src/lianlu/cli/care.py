"""The verbs of care: pull, doctor."""

from __future__ import annotations

from typing import Annotated

import typer

GROUP = "care"


def add_verbs(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command("pull", rich_help_panel=GROUP)(pull)
    app.command("doctor", rich_help_panel=GROUP)(doctor)


def pull(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A known name, or a hub id such as org/model.")] = None,
    list_known: Annotated[bool, typer.Option("--list", help="List the known names.")] = False,
) -> None:
    """Fetch a model: with progress, continued after an interruption, checked by its hash."""
    from lianlu.core import console
    from lianlu.model import pull as models

    if list_known or name is None:
        rows = [[m.name, console.format_bytes(m.bytes), m.license, m.note, str(m.path or "not here yet")] for m in models.known()]
        console.table(["name", "size", "licence", "note", "where"], rows)
        return
    console.out(str(models.pull(name)))


def doctor() -> None:
    """Say what this machine has and lacks, and how to get it."""
    from lianlu.apps.doctor import checks
    from lianlu.core import console

    rows = checks()
    console.table(["", "what", "found", "how to get it"], [["ok" if r.ok else "--", r.what, r.found, r.remedy] for r in rows])
    if any(not r.ok and r.needed for r in rows):
        raise typer.Exit(2)
