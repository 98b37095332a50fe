"""Lineage: which artifact was made from which, up to the raw files and down to every score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from lianlu.core.store import Artifact


@dataclass
class Node:
    """An artifact or an outside file. `parents` are what it was made from, `children` what was made from it."""

    id: str
    label: str
    kind: str
    digest: str
    artifact: Artifact | None = None
    parents: list[str] = field(default_factory=list)
    children: list[str] = field(default_factory=list)


def build_graph(artifacts: Iterable[Artifact]) -> dict[str, Node]:
    """The graph over these artifacts; an input is joined to the artifact with its content digest, else to an outside node."""
    items = list(artifacts)
    by_digest = {item.manifest.digest: item.id for item in items}
    ids = {item.id for item in items}
    nodes = {item.id: Node(item.id, item.manifest.step, item.manifest.kind, item.manifest.digest, item) for item in items}
    for item in items:
        for record in item.manifest.inputs:
            parent = record.artifact if record.artifact in ids else by_digest.get(record.digest, "")
            if not parent:
                parent = f"outside:{record.digest[:12]}"
                nodes.setdefault(parent, Node(parent, record.written, "outside", record.digest))
            if parent not in nodes[item.id].parents:
                nodes[item.id].parents.append(parent)
                nodes[parent].children.append(item.id)
    return nodes


def reachable(nodes: dict[str, Node], start: str, *, upstream: bool) -> set[str]:
    """Every node above (or below) `start`, itself included."""
    found, todo = {start}, [start]
    while todo:
        node = nodes[todo.pop()]
        for other in node.parents if upstream else node.children:
            if other not in found:
                found.add(other)
                todo.append(other)
    return found


def draw_tree(nodes: dict[str, Node], start: str, *, upstream: bool) -> list[str]:
    """The graph above (or below) `start` as an indented tree; a node met before is marked and not opened again."""
    lines: list[str] = []
    seen: set[str] = set()

    def visit(node_id: str, lead: str, branch: str) -> None:
        node = nodes[node_id]
        again = node_id in seen
        seen.add(node_id)
        lines.append(f"{lead}{branch}{describe(node)}" + (" (see above)" if again else ""))
        others = [] if again else (node.parents if upstream else node.children)
        below = lead + ("" if not branch else "   " if branch.startswith("`") else "|  ")
        for index, other in enumerate(others):
            visit(other, below, "`- " if index == len(others) - 1 else "|- ")

    visit(start, "", "")
    return lines


def describe(node: Node) -> str:
    """One line about a node: label, kind, id, digest."""
    if node.artifact is None:
        return f"{node.label}  [outside]  sha256 {node.digest[:12]}"
    return f"{node.label}  [{node.kind}]  {node.id}  digest {node.digest[:12]}"


def layers(nodes: dict[str, Node]) -> list[list[str]]:
    """Node ids by depth: sources first, each node one layer below its deepest parent."""
    depth: dict[str, int] = {}

    def measure(node_id: str) -> int:
        if node_id not in depth:
            depth[node_id] = 1 + max((measure(parent) for parent in nodes[node_id].parents if parent in nodes), default=-1)
        return depth[node_id]

    for node_id in nodes:
        measure(node_id)
    return [[node_id for node_id in nodes if depth[node_id] == level] for level in range(max(depth.values(), default=-1) + 1)]
