"""The verbs of lineage: ls, show, trace, diff, gc."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lianlu.core.store import Artifact, Store

GROUP = "lineage"
Name = Annotated[str, typer.Argument(metavar="ARTIFACT", help="@step, or the beginning of an id or digest.")]


def add_verbs(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    for verb in (ls, show, trace, diff, gc):
        app.command(rich_help_panel=GROUP)(verb)


def _store() -> Store:
    from lianlu.core.store import Store

    return Store.locate()


def ls(kind: Annotated[str | None, typer.Option(help="Only artifacts of this kind.")] = None) -> None:
    """List the artifacts of the store, newest last; a star marks what @step means now."""
    from lianlu.core import console

    store = _store()
    current = set(store.names().values())
    rows = [
        [("*" if a.id in current else " ") + a.manifest.step, a.manifest.kind, a.id, _size(a), a.manifest.started[:19]]
        for a in store.list()
        if kind in (None, a.manifest.kind)
    ]
    if not rows:
        console.info(f"no artifacts in {store.root}; `lianlu run recipes/tiny.toml` makes some")
        return
    console.table(["step", "kind", "id", "size", "started"], rows)


def _size(artifact: Artifact) -> str:
    from lianlu.core import console

    return console.format_bytes(sum(record.bytes for record in artifact.manifest.files))


def show(
    name: Annotated[str, typer.Argument(metavar="RUN", help="@step, or the beginning of an id or digest; finished or not.")],
    verify: Annotated[bool, typer.Option(help="Read every file and check its hash.")] = False,
    metric: Annotated[str, typer.Option(metavar="NAME", help="The figure to draw in place of the loss, for example lr.")] = "",
) -> None:
    """Show one artifact (configuration, inputs, figures, files, curve), or a run at work or killed: its curve and pace."""
    from lianlu.core import console
    from lianlu.core.errors import ArtifactError

    store = _store()
    unfinished = store.unfinished(name)
    try:
        artifact = store.get(name)
    except ArtifactError:
        if not unfinished:
            raise
        _show_run(store, unfinished[-1], metric)
        return
    _show_artifact(artifact, verify)
    _show_training(artifact.path, metric)
    for folder in unfinished:
        console.out(f"\n{folder.name} has not finished: `lianlu show {folder.name}`")


def _show_artifact(artifact: Artifact, verify: bool) -> None:
    from lianlu.core import console
    from lianlu.core.errors import ArtifactError
    from lianlu.core.store import damaged_files
    from lianlu.recipe.toml_text import dump_toml

    m = artifact.manifest
    console.out(f"{m.step}: {m.kind} {m.id}\nfolder   {artifact.path}\ndigest   {m.digest}")
    console.out(f"made     {m.started}, {console.format_seconds(m.seconds)}, peak {console.format_bytes(m.peak_memory_bytes)}")
    console.out(f"on       {m.device}; lianlu {m.lianlu} {m.git}\n\n{dump_toml({'config': m.config})}\n")
    console.table(["input", "written", "from"], [[i.field, i.written, i.artifact or i.digest[:12]] for i in m.inputs])
    console.out()
    console.table(["figure", "value"], [[key, console.format_value(value)] for key, value in m.figures.items()])
    console.out()
    console.table(["file", "size", "sha256"], [[f.path, console.format_bytes(f.bytes), f.sha256[:12]] for f in m.files])
    if verify:
        if bad := damaged_files(artifact):
            raise ArtifactError(f"damaged: {', '.join(bad)}", hint="`lianlu gc --damaged` removes it; then run the recipe again")
        console.out("\nall files have their recorded hash")


def _show_run(store: Store, folder: Path, metric: str) -> None:
    """A run that has not finished."""
    from lianlu.core import console

    state = "at work" if store.is_locked(folder.name) else "stopped; the command that started it continues it"
    console.out(f"{folder.name}: {state}\nfolder   {folder}")
    _show_training(folder, metric)


def _show_training(folder: Path, metric: str) -> None:
    import shutil

    from lianlu.apps.report.training import describe, read_training
    from lianlu.core import console
    from lianlu.core.errors import DataError

    training = read_training(folder)
    if training is None:
        if metric:
            raise DataError(f"{folder.name} has no training log", hint="--metric draws figures of training runs")
        return
    width = min(shutil.get_terminal_size().columns, 110)
    console.out("\n" + "\n".join(describe(training, metric, width)))


def trace(name: Name, svg: Annotated[Path | None, typer.Option(help="Also draw the lineage into this file.")] = None) -> None:
    """Walk from an artifact up to its raw files and down to everything made from it."""
    from lianlu.apps.report.graph import draw_svg
    from lianlu.core import console
    from lianlu.core.files import write_text
    from lianlu.core.lineage import build_graph, draw_tree, reachable

    store = _store()
    start = store.get(name).id
    nodes = build_graph(store.list())
    console.out("made from:")
    for line in draw_tree(nodes, start, upstream=True):
        console.out("  " + line)
    if nodes[start].children:
        console.out("\nused by:")
        for line in draw_tree(nodes, start, upstream=False):
            console.out("  " + line)
    if svg:
        near = reachable(nodes, start, upstream=True) | reachable(nodes, start, upstream=False)
        write_text(svg, draw_svg({key: node for key, node in nodes.items() if key in near}, highlight=start))
        console.info(f"drawn: {svg}")


def diff(first: Name, second: Name) -> None:
    """Say in what two artifacts differ: configuration, inputs, figures, files."""
    from lianlu.core import console

    store = _store()
    a, b = store.get(first).manifest, store.get(second).manifest
    if a.digest == b.digest:
        console.out(f"{a.id} and {b.id} have the same contents (digest {a.digest[:12]})")
    rows: list[list[Any]] = []
    for part in ("config", "figures"):
        rows += _differences(part, getattr(a, part), getattr(b, part))
    rows += _differences("input", {i.field: i.digest[:12] for i in a.inputs}, {i.field: i.digest[:12] for i in b.inputs})
    rows += _differences("file", {f.path: f.sha256[:12] for f in a.files}, {f.path: f.sha256[:12] for f in b.files})
    if rows:
        console.table(["what", a.id, b.id], rows)


def _differences(part: str, a: dict[str, Any], b: dict[str, Any]) -> list[list[Any]]:
    from lianlu.core import console

    rows = []
    for key in dict.fromkeys([*a, *b]):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            rows += _differences(f"{part}.{key}", left, right)
        elif left != right:
            rows.append([f"{part}.{key}", console.format_value(left), console.format_value(right)])
    return rows


def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only list.")] = False,
    damaged: Annotated[bool, typer.Option("--damaged", help="Only damaged artifacts.")] = False,
) -> None:
    """Free space: artifacts that no step name and nothing current was made from, unfinished work, damaged artifacts."""
    from lianlu.core import console
    from lianlu.recipe.garbage import find_garbage, remove

    store = _store()
    rows = [row for row in find_garbage(store) if row.damaged or not damaged]
    if not rows:
        console.info("nothing to delete")
        return
    console.table(["what", "why", "size"], [[row.path.name, row.why, console.format_bytes(row.bytes)] for row in rows])
    if not yes and not damaged:
        console.info("this was a list; `lianlu gc --yes` deletes")
        return
    freed = sum(remove(store, row) for row in rows)
    console.info(f"freed {console.format_bytes(freed)}")
