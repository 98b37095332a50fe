"""`report.html`: a run on one self-contained page, drawn from finished artifacts alone.

What a section shows is decided by the kind of artifact and the files in it, so that a recipe of any shape gets a page:
lineage, steps, data funnel, loss curves, samples, quality cards, scores, traces.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, select_autoescape
from markupsafe import Markup

import lianlu
from lianlu.apps.report import sections
from lianlu.apps.report.graph import draw_svg
from lianlu.core import console, lineage
from lianlu.core.files import write_text
from lianlu.core.store import Artifact


def write_report(name: str, artifacts: Sequence[Artifact], path: Path) -> None:
    """Draw the page of a run. Raises: ArtifactError if it cannot be written."""
    write_text(path, render(name, artifacts))


def render(name: str, artifacts: Sequence[Artifact]) -> str:
    """The page as HTML; it loads nothing from anywhere."""
    environment = Environment(autoescape=select_autoescape(["html"]), undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(
        value=console.format_value, seconds=console.format_seconds, bytes=console.format_bytes, percent=_percent
    )
    template = environment.from_string(_asset("report.html"))
    return template.render(
        name=name,
        version=lianlu.__version__,
        style=Markup(_asset("report.css")),
        graph=Markup(draw_svg(lineage.build_graph(artifacts))),
        steps=[_step(artifact) for artifact in artifacts],
        total_s=sum(artifact.manifest.seconds for artifact in artifacts),
        device=artifacts[-1].manifest.device if artifacts else "",
        funnels=sections.funnels(artifacts),
        curves=[(title, Markup(svg), note) for title, svg, note in sections.curves(artifacts)],
        memory=sections.memory(artifacts),
        samples=sections.samples(artifacts),
        cards=sections.cards(artifacts),
        boards=sections.boards(artifacts),
        traces=sections.traces(artifacts),
    )


def _asset(file: str) -> str:
    return resources.files("lianlu.apps.report").joinpath(file).read_text(encoding="utf-8")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _step(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest
    figures = {key: value for key, value in manifest.figures.items() if isinstance(value, int | float | str | bool)}
    return {"manifest": manifest, "figures": figures, "bytes": sum(record.bytes for record in manifest.files)}
