from __future__ import annotations

from pathlib import Path
from typing import Any

from lianlu.core.lineage import build_graph, draw_tree, layers, reachable
from lianlu.core.store import Artifact, InputRecord, Manifest


def artifact(name: str, *inputs: str) -> Artifact:
    fields: dict[str, Any] = {
        "id": name, "kind": "documents", "stage": name, "stage_version": 1, "step": name, "key": name, "digest": f"d-{name}",
        "config": {}, "files": [], "figures": {}, "lianlu": "0", "git": "", "device": "", "started": "", "seconds": 0,
        "peak_memory_bytes": 0, "inputs": [InputRecord(field="data", written=i, digest=f"d-{i}") for i in inputs],
    }  # fmt: skip
    return Artifact(Path(name), Manifest(**fields))


def diamond() -> list[Artifact]:
    return [artifact("a", "raw"), artifact("b", "a"), artifact("c", "a"), artifact("d", "b", "c"), artifact("lone")]


def test_graph_joins_by_content_and_keeps_outside_sources() -> None:
    nodes = build_graph(diamond())
    assert nodes["d"].parents == ["b", "c"]
    assert nodes["a"].children == ["b", "c"]
    assert [nodes[parent].kind for parent in nodes["a"].parents] == ["outside"]


def test_reachable_up_and_down() -> None:
    nodes = build_graph(diamond())
    assert {"a", "b", "c", "d"} < reachable(nodes, "d", upstream=True)
    assert reachable(nodes, "b", upstream=False) == {"b", "d"}


def test_tree_opens_a_shared_node_once() -> None:
    text = "\n".join(draw_tree(build_graph(diamond()), "d", upstream=True))
    assert text.count("- raw") == 1
    assert "see above" in text


def test_layers_put_every_node_below_its_parents() -> None:
    nodes = build_graph(diamond())
    depth = {node: level for level, row in enumerate(layers(nodes)) for node in row}
    assert all(depth[parent] < depth[node.id] for node in nodes.values() for parent in node.parents)
    assert depth["d"] == 3
