"""The verbs of cleaned data: explain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lianlu.data.cleaned import Cleaned
    from lianlu.data.explain import Explained

GROUP = "lineage"
EXCERPT_CHARS = 200
In = Annotated[str, typer.Option("--in", metavar="ARTIFACT", help="@step, or the beginning of an id; else all current ones.")]


def add_verbs(app: typer.Typer) -> None:
    """Add the verbs of this file, below `data`."""
    group = typer.Typer(help="Ask cleaned data: why was this document kept or dropped?", no_args_is_help=True)
    group.callback()(lambda: None)  # a group stays a group while it has one command
    group.command()(explain)
    app.add_typer(group, name="data", rich_help_panel=GROUP)


def explain(
    name: Annotated[str, typer.Argument(metavar="ID", help="The id of a document, as it was read.")], within: In = ""
) -> None:
    """Why was a document kept or dropped: every rule with its value and threshold, its edits, what it repeats."""
    from lianlu.core.errors import DataError
    from lianlu.core.store import Store
    from lianlu.data.cleaned import open_cleaned
    from lianlu.data.explain import explain as explained
    from lianlu.data.explain import unread

    found = 0
    for cleaned in open_cleaned(Store.locate(), within):
        for one in explained(cleaned.artifact.path, cleaned.scored, name, cleaned.rules):
            _print(cleaned, one)
            found += 1
        for record in unread(cleaned.artifact.path, name):
            if record["step"] in ("read", "extract", "normalise"):
                _print_unread(cleaned, record)
                found += 1
    if not found:
        hint = "ids are those of the input: a path below the source, or the field id of a record; rejected.jsonl lists some"
        raise DataError(f"nothing called {name} was read", hint=hint)


def _print(cleaned: Cleaned, one: Explained) -> None:
    from lianlu.core import console

    document, decision = one.document, one.decision
    verdict = decision.verdict
    said = "kept" if verdict is None else f"dropped by {verdict.rule}: {verdict.value}, allowed {verdict.threshold}"
    console.out(f"\n{document.id} in @{cleaned.artifact.manifest.step} ({cleaned.artifact.id}): {said}")
    facts = {"repeats": decision.repeats, "source": document.source, "path": document.path, "url": document.url}
    facts |= {"license": document.license, "date": document.date, "domain": document.domain, "language": document.lang}
    facts |= {"begins": " ".join(document.text[:EXCERPT_CHARS].split())}
    console.table(["what", "value"], [[key, value] for key, value in facts.items() if value])
    rows = [[rule.rule, rule.value, _allowed(rule.rule, rule.threshold), "broken" if rule.broken else ""] for rule in one.rules]
    console.table(["rule", "value", "allowed", ""], rows)
    if one.edits:
        edits: list[list[Any]] = [[e.rule, e.start, document.text[e.start : e.end].strip()[:60], e.text] for e in one.edits[:20]]
        console.table(["edit by", "at", "text", "becomes"], edits, title=f"{len(one.edits)} edits")


def _allowed(rule: str, threshold: Any) -> str:
    if threshold is False:
        return "off"
    if not isinstance(threshold, int | float):
        return str(threshold)
    return f"{'at least' if rule.split('.')[1].startswith('min_') else 'at most'} {threshold:g}"


def _print_unread(cleaned: Cleaned, record: dict[str, Any]) -> None:
    from lianlu.core import console

    console.out(f"\n{record['id']} in @{cleaned.artifact.manifest.step}: not read, by {record['rule']}: {record['value']}")
