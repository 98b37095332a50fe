"""The order of a repository's files: what is imported stands before what imports it.

InternLM2 (arXiv 2403.17297, section 3.1.2) sorts topologically, takes the shorter of two paths and starts a cycle with the
alphabetically first file. Here: files that nobody imports are taken in alphabetical order, each after what it needs; of the
files it needs, those with the shortest chain of imports below them come first, then the alphabet decides. So a file stands
near the first one that uses it. A cycle is cut at its late imports first (inside functions, for types); if it holds, the
alphabetically first file begins, without its imports in the cycle, and the rest is sorted likewise. Documentation stands
before the first code file of its folder or below it. Equal for any order of input; time is linear, for cycles bounded.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set

from lianlu.data.code.tree import ancestors, folder_of

MAX_WORK = 5_000_000
"""Imports that are looked at while cycles are cut one by one; cycles left after that keep the order of the alphabet."""
Edges = Mapping[str, Set[str]]


def dependency_order(files: Iterable[str], needs: Edges, late: Edges | None = None) -> list[str]:
    """Every file once, those a file needs before it wherever no cycle forbids it; names outside `files` are ignored.

    `late` imports count as well, but give way first when there is a cycle.
    """
    known = set(files)
    early = {file: (set(needs.get(file, ())) & known) - {file} for file in known}
    every = {file: early[file] | ((set((late or {}).get(file, ())) & known) - {file}) for file in known}
    return _sorted(known, [every, early])


def _sorted(files: Set[str], rounds: Sequence[Edges]) -> list[str]:
    """Components in order, each sorted inside by the next round of edges, or begun with its first file where none is left.

    An explicit stack, since a cycle of n files may be cut n times.
    """
    order: list[str] = []
    work = 0
    waiting = [(sorted(files), rounds)]
    while waiting:
        group, left = waiting.pop()
        if len(group) == 1:
            order += group
            continue
        inside = set(group)
        edges = {file: left[0][file] & inside for file in group}
        found = _in_order(components(group, edges), edges)
        if len(found) == 1 and len(left) > 1:
            found, left = [group], left[1:]
        elif len(found) == 1:
            work += sum(map(len, edges.values()))
            found = [group[:1], group[1:]] if work < MAX_WORK else [[file] for file in group]
        waiting += [(part, left) for part in reversed(found)]
    return order


def components(files: Sequence[str], edges: Edges) -> list[list[str]]:
    """Strongly connected components (Tarjan 1972), each sorted; without recursion."""
    found: list[list[str]] = []
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    on_path: set[str] = set()
    for start in files:
        if start in number:
            continue
        walk = [(start, iter(sorted(edges[start])))]
        number[start] = low[start] = len(number)
        path.append(start)
        on_path.add(start)
        while walk:
            file, targets = walk[-1]
            for target in targets:
                if target not in number:
                    number[target] = low[target] = len(number)
                    path.append(target)
                    on_path.add(target)
                    walk.append((target, iter(sorted(edges[target]))))
                    break
                if target in on_path:
                    low[file] = min(low[file], number[target])
            else:
                walk.pop()
                if walk:
                    low[walk[-1][0]] = min(low[walk[-1][0]], low[file])
                if low[file] == number[file]:
                    place = path.index(file)
                    on_path.difference_update(path[place:])
                    found.append(sorted(path[place:]))
                    del path[place:]
    return found


def _in_order(groups: list[list[str]], edges: Edges) -> list[list[str]]:
    """The components so that those needed stand first (see above for ties)."""
    of = {file: index for index, group in enumerate(groups) for file in group}
    below = [{of[target] for file in group for target in edges[file]} - {index} for index, group in enumerate(groups)]
    height = _heights(below)
    return [groups[index] for index in _after(below, lambda index: (height[index], groups[index][0]))]


def _heights(below: Sequence[Set[int]]) -> list[int]:
    """For each node of an acyclic graph the length of the shortest chain down to one that needs nothing."""
    above: defaultdict[int, list[int]] = defaultdict(list)
    for index, targets in enumerate(below):
        for target in targets:
            above[target].append(index)
    height = [-1] * len(below)
    queue = deque(index for index, targets in enumerate(below) if not targets)
    for index in queue:
        height[index] = 0
    while queue:
        index = queue.popleft()
        for other in above[index]:
            if height[other] < 0:
                height[other] = height[index] + 1
                queue.append(other)
    return height


def _after(below: Sequence[Set[int]], rank: Callable[[int], tuple[int, str]]) -> list[int]:
    """Each node after those below it, depth first; starts are the nodes that nobody needs, by name."""
    needed = set().union(*below)
    order: list[int] = []
    seen: set[int] = set()
    for start in sorted((index for index in range(len(below)) if index not in needed), key=lambda index: rank(index)[1]):
        walk = [(start, iter(sorted(below[start], key=rank)))]
        seen.add(start)
        while walk:
            index, targets = walk[-1]
            for target in targets:
                if target not in seen:
                    seen.add(target)
                    walk.append((target, iter(sorted(below[target], key=rank))))
                    break
            else:
                walk.pop()
                order.append(index)
    return order


def with_docs(code: Sequence[str], docs: Iterable[str]) -> list[str]:
    """Code in its order with documentation put in: each before the first code file in its folder or below it.

    A folder without code looks at the folder above it. Outer folders come first, a README first in its folder.
    """
    first: dict[str, int] = {}
    for place, path in enumerate(code):
        for folder in ancestors(folder_of(path)):
            first.setdefault(folder, place)
    before: defaultdict[int, list[str]] = defaultdict(list)
    for path in sorted(set(docs), key=_doc_rank):
        before[next((first[folder] for folder in ancestors(folder_of(path)) if folder in first), 0)].append(path)
    placed = [path for place, file in enumerate(code) for path in (*before[place], file)]
    return placed if code else before[0]


def _doc_rank(path: str) -> tuple[int, str, bool, str]:
    folder, name = posixpath.split(path)
    return path.count("/"), folder, not name.lower().startswith("readme"), name
