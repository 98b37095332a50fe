"""The lineage as a picture: boxes in layers from raw files on the left to scores on the right, as one SVG."""

from __future__ import annotations

from html import escape

from lianlu.core.lineage import Node, layers

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 150, 40, 46, 14, 10
COLOURS = {
    "outside": "#e5e7eb",
    "documents": "#dbeafe",
    "tokenizer": "#e0e7ff",
    "shards": "#dbeafe",
    "conversations": "#dbeafe",
    "checkpoint": "#dcfce7",
    "adapter": "#d1fae5",
    "eval-log": "#fef3c7",
    "leaderboard": "#fde68a",
    "traces": "#fce7f3",
}
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#111827}.small{font-size:10px;fill:#4b5563}"
    ".edge{fill:none;stroke:#9ca3af;stroke-width:1.2}"
)


def draw_svg(nodes: dict[str, Node], highlight: str = "") -> str:
    """Draw these nodes and the edges between them; `highlight` gets a thick border."""
    rows = _ordered(nodes)
    tallest = max((len(row) for row in rows), default=0)
    width = len(rows) * (BOX_WIDTH + GAP_X) - GAP_X + 2 * MARGIN
    height = tallest * (BOX_HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN
    places: dict[str, tuple[float, float]] = {}
    for column, row in enumerate(rows):
        offset = (tallest - len(row)) * (BOX_HEIGHT + GAP_Y) / 2
        for index, node_id in enumerate(row):
            x = MARGIN + column * (BOX_WIDTH + GAP_X)
            places[node_id] = (x, MARGIN + offset + index * (BOX_HEIGHT + GAP_Y))
    edges = [_edge(places[parent], places[node.id]) for node in nodes.values() for parent in node.parents if parent in places]
    boxes = [_box(nodes[node_id], place, node_id == highlight) for node_id, place in places.items()]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return "".join([head, f"<style>{STYLE}</style>", *edges, *boxes, "</svg>"])


def _ordered(nodes: dict[str, Node]) -> list[list[str]]:
    """Layers, each sorted by the mean place of the parents, which keeps most edges from crossing."""
    rows = layers(nodes)
    place: dict[str, float] = {}
    for row in rows:

        def mean(node_id: str) -> float:
            above = [place[parent] for parent in nodes[node_id].parents if parent in place]
            return sum(above) / len(above) if above else 0.0

        row.sort(key=mean)
        place.update({node_id: index / max(len(row), 1) for index, node_id in enumerate(row)})
    return rows


def _edge(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1 = start[0] + BOX_WIDTH, start[1] + BOX_HEIGHT / 2
    x2, y2 = end[0], end[1] + BOX_HEIGHT / 2
    middle = (x1 + x2) / 2
    return f'<path class="edge" d="M{x1} {y1:.0f}C{middle} {y1:.0f} {middle} {y2:.0f} {x2} {y2:.0f}"/>'


def _box(node: Node, place: tuple[float, float], strong: bool) -> str:
    x, y = place
    label = node.label if len(node.label) <= 20 else "..." + node.label[-17:]
    tip = f"{node.label}\n{node.id}\ndigest {node.digest}"
    return (
        f'<g><title>{escape(tip)}</title><rect x="{x}" y="{y:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" '
        f'fill="{COLOURS.get(node.kind, "#f3f4f6")}" stroke="#374151" stroke-width="{2.5 if strong else 0.8}"/>'
        f'<text x="{x + 9}" y="{y + 17:.0f}">{escape(label)}</text>'
        f'<text class="small" x="{x + 9}" y="{y + 32:.0f}">{escape(node.kind)} {node.digest[:8]}</text></g>'
    )
