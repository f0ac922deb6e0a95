"""The wait-for graph: nodes wait for the nodes they point to, and what waits for nothing is a root.

Pure: it knows nothing about traces. Nodes are any hashable values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

N = TypeVar("N", bound=Hashable)


class Graph(Generic[N]):
    """A directed graph."""

    def __init__(self) -> None:
        self.edges: dict[N, list[N]] = {}
        self.back: dict[N, list[N]] = defaultdict(list)

    def add(self, node: N) -> None:
        """Add a node that may wait for nothing."""
        self.edges.setdefault(node, [])

    def wait(self, waiting: N, for_node: N) -> None:
        """Make one node wait for another."""
        self.add(waiting)
        self.add(for_node)
        self.edges[waiting].append(for_node)
        self.back[for_node].append(waiting)

    def free(self, node: N) -> None:
        """Make a node wait for nothing."""
        for target in self.edges[node]:
            self.back[target].remove(node)
        self.edges[node] = []

    def roots(self) -> list[list[N]]:
        """Return the components that wait for nothing outside of themselves: single nodes, or circles."""
        components = self.components()
        home = {node: number for number, component in enumerate(components) for node in component}
        return [
            component
            for number, component in enumerate(components)
            if all(home[target] == number for node in component for target in self.edges[node])
        ]

    def waiting_for(self, nodes: Iterable[N]) -> set[N]:
        """Return `nodes` and every node that waits for one of them, directly or through others."""
        found = set(nodes)
        stack = list(found)
        while stack:
            for node in self.back[stack.pop()]:
                if node not in found:
                    found.add(node)
                    stack.append(node)
        return found

    def components(self) -> list[list[N]]:
        """Return the strongly connected components (Tarjan's, without recursion: chains may be long)."""
        index: dict[N, int] = {}
        low: dict[N, int] = {}
        on_stack: set[N] = set()
        stack: list[N] = []
        components: list[list[N]] = []
        for start in self.edges:
            if start in index:
                continue
            work = [(start, iter(self.edges[start]))]
            index[start] = low[start] = len(index)
            stack.append(start)
            on_stack.add(start)
            while work:
                node, targets = work[-1]
                for target in targets:
                    if target not in index:
                        index[target] = low[target] = len(index)
                        stack.append(target)
                        on_stack.add(target)
                        work.append((target, iter(self.edges[target])))
                        break
                    if target in on_stack:
                        low[node] = min(low[node], index[target])
                else:
                    work.pop()
                    if work:
                        low[work[-1][0]] = min(low[work[-1][0]], low[node])
                    if low[node] == index[node]:
                        component = []
                        while True:
                            member = stack.pop()
                            on_stack.discard(member)
                            component.append(member)
                            if member == node:
                                break
                        components.append(component)
        return components
