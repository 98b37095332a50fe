"""The verbs of cleaned data: explain, tune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianlu.cli import data_compare, data_files

if TYPE_CHECKING:
    from lianlu.data.cleaned import Cleaned
    from lianlu.data.explain import Explained
    from lianlu.formats.documents import Document

GROUP = "lineage"
EXCERPT_CHARS = 200
SHOWN_CHARS = 1500
In = Annotated[str, typer.Option("--in", metavar="ARTIFACT", help="@step, or the beginning of an id; else all current ones.")]


def add_verbs(app: typer.Typer) -> None:
    """Add the verbs of this file, below `data`."""
    group = typer.Typer(
        help="Cleaned data: why was a document kept, what if a threshold moved, who holds it.", no_args_is_help=True
    )
    group.callback()(lambda: None)  # a group stays a group while it has one command
    group.command()(explain)
    group.command()(tune)
    group.command()(data_compare.compare)
    data_files.add_verbs(group)
    app.add_typer(group, name="data", rich_help_panel=GROUP)


def explain(
    name: Annotated[
        str,
        typer.Argument(metavar="ID", help="The id or address of a document, as it was read; or its id as written, such as x~2."),
    ],
    within: In = "",
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
    notes = {rule.rule: f" ({rule.note})" for rule in one.rules if rule.note}
    said = "kept"
    if verdict:
        said = f"dropped by {verdict.rule}: {verdict.value}, allowed {verdict.threshold}{notes.get(verdict.rule, '')}"
    console.out(f"\n{document.id} in @{cleaned.artifact.manifest.step} ({cleaned.artifact.id}): {said}")
    facts = {"repeats": decision.repeats, "source": document.source, "path": document.path, "url": document.url}
    facts |= {"license": document.license, "date": document.date, "domain": document.domain, "language": document.lang}
    facts |= {"begins": " ".join(document.text[:EXCERPT_CHARS].split())}
    console.table(["what", "value"], [[key, value] for key, value in facts.items() if value])
    rows = [
        [own.rule, own.value, _allowed(own.rule, own.threshold) + notes.get(own.rule, ""), "broken" if own.broken else ""]
        for own in one.rules
    ]
    console.table(["rule", "value", "allowed", ""], rows)
    if one.edits:
        edits: list[list[Any]] = [[e.rule, e.start, document.text[e.start : e.end].strip()[:60], e.text] for e in one.edits[:20]]
        console.table(["edit by", "at", "text", "becomes"], edits, title=f"{len(one.edits)} edits")


def _allowed(rule: str, threshold: Any) -> str:
    if threshold is False:
        return "off"
    if not isinstance(threshold, int | float):
        return str(threshold)
    return f"{'at least' if rule.split('.')[1].startswith(('min_', 'top_')) else 'at most'} {threshold:g}"


def _print_unread(cleaned: Cleaned, record: dict[str, Any]) -> None:
    from lianlu.core import console

    console.out(f"\n{record['id']} in @{cleaned.artifact.manifest.step}: not read, by {record['rule']}: {record['value']}")


def tune(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="As in rejected.jsonl, for example gopher_quality.min_words.")],
    within: In = "",
    domain: Annotated[str, typer.Option(help="Only documents of this domain; the threshold is set for it.")] = "",
    script: Annotated[str, typer.Option(help="Only documents of this script, for example cjk.")] = "",
    lang: Annotated[str, typer.Option(help="Only documents in this language, for example zh.")] = "",
    samples: Annotated[int, typer.Option(min=1, help="Documents on each side of the threshold.")] = 20,
    apply: Annotated[bool, typer.Option("--apply", help="Decide anew with the moved threshold.")] = False,
) -> None:
    """Move a threshold by looking: documents near it on both sides, your answers, and the bound that agrees with most."""
    from lianlu.core import console
    from lianlu.core.errors import ConfigError
    from lianlu.core.store import Store
    from lianlu.data.cleaned import open_cleaned
    from lianlu.data.tune import border, fraction_at, moved, texts_of

    found = open_cleaned(Store.locate(), within)
    if len(found) > 1:
        raise ConfigError("there are several cleaned artifacts", hint=f"choose one with --in: {_names(found)}")
    edge = border(found[0].scored, found[0].rules, rule, (domain, script, lang), samples)
    documents = texts_of(found[0].scored, [*edge.taken, *edge.left])
    told = f" ({edge.cut.told})" if edge.cut else " (off: it would take 5 % there)" if edge.is_off else ""
    console.out(f"{rule}, threshold {edge.threshold:g}{told}: {len(edge.taken)} documents it takes, {len(edge.left)} that pass")
    answers = _ask([(place.value, documents[place]) for place in sorted(documents, key=lambda place: place.value)])
    limit = moved(rule, edge.threshold, answers)
    console.out(f"\n{len(answers)} answers: {rule} moves from {edge.threshold:g} to {limit:g}")
    is_moved = limit != edge.threshold or (edge.is_off and bool(answers))
    if edge.cut:
        limit = fraction_at(found[0].scored, found[0].rules, edge.cut, limit) if is_moved else edge.cut.fraction
    console.out(f"in a recipe: {edge.setting} = {limit:g}")
    if apply and is_moved:
        _decide_anew(found[0], edge.setting, limit)


def _names(found: list[Cleaned]) -> str:
    return ", ".join(f"@{cleaned.artifact.manifest.step}" for cleaned in found)


def _ask(shown: list[tuple[float, Document]]) -> list[tuple[float, bool]]:
    """Show documents one by one and ask about each; q ends it. Raises: DataError at Ctrl-C or where the input ends."""
    from lianlu.core import console
    from lianlu.core.errors import DataError

    answers = []
    for number, (value, document) in enumerate(shown, 1):
        console.out(f"\n--- {number} of {len(shown)}: {document.id}, value {value:g}\n{document.text[:SHOWN_CHARS]}")
        try:
            answer = typer.prompt("worth keeping? y, n, s to skip, q to end", default="s", show_default=False)[:1].lower()
        except typer.Abort as stop:
            raise DataError(
                "stopped before the end, nothing was changed", hint="q ends it and counts the answers so far"
            ) from stop
        if answer == "q":
            break
        if answer in ("y", "n"):
            answers.append((value, answer == "y"))
    return answers


def _decide_anew(cleaned: Cleaned, where: str, limit: float) -> None:
    """Run the clean stage again on the scores that are there."""
    from lianlu.core import console
    from lianlu.core.config import with_overrides
    from lianlu.core.store import Store
    from lianlu.recipe.recipe import build_recipe
    from lianlu.recipe.run import run_recipe

    step = cleaned.artifact.manifest.step
    own = cleaned.config.model_dump(mode="json") | {"scores": str(cleaned.scored.parent), "stage": "clean"}
    recipe = build_recipe(step, {"steps": {step: with_overrides(own, [f"{where}={limit!r}"])}})
    for result in run_recipe(recipe, Store.locate()):
        console.out(f"{step}: {result.artifact.path}, {result.artifact.manifest.figures['documents']} documents")
