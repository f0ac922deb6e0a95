"""Roots of the wait-for graph to findings: whom to name, of what, how surely, and who waits for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from torchctl.diagnosis.absent import absent
from torchctl.diagnosis.circles import circle
from torchctl.diagnosis.disagreement import disagreement
from torchctl.diagnosis.model import Collective, Finding, GroupName, Location
from torchctl.diagnosis.stuck import nobody_left, stuck
from torchctl.diagnosis.waiting import Node, Waits
from torchctl.flightrec.trace import NO_SEQ, NO_TIME
from torchctl.flightrec.userframe import user_frame


def accuse(waits: Waits) -> tuple[list[Finding], list[str]]:
    """Return the findings of all roots, and what could not be told."""
    made = Accuser(waits)
    return made.findings(), made.unknown


class Accuser:
    """The roots of one graph, and what findings about them need.

    Attributes:
        waited_in: nodes of operations in which a rank waits.
        unknown: what could not be told, in words.
    """

    def __init__(self, waits: Waits) -> None:
        self.waits = waits
        self.trace = waits.trace
        self.waited_in = {node for nodes in waits.blocked.values() for node in nodes}
        self.unknown: list[str] = []

    def findings(self) -> list[Finding]:
        found: list[Finding] = []
        by_operation: dict[tuple[str, Node], list[Node]] = defaultdict(list)
        for component in self.waits.graph.roots():
            if len(component) > 1:
                found.append(circle(self, component))
                continue
            node = component[0]
            if node.kind in ("rank", "lost"):
                operation = self._first_waiting(node)
                if operation is not None:
                    by_operation[node.kind, operation].append(node)
            elif node.kind == "op":
                found += stuck(self, node)
            elif node.kind == "pair":
                self.unknown.append("a send and its recv are both there and not done; they may be in flight")
            elif node.kind == "hidden":
                found += nobody_left(self, node)
        for (kind, operation), nodes in by_operation.items():
            found += absent(self, kind, operation, [node.number for node in nodes])
        for number, mismatch in enumerate(self.waits.mismatches):
            found.append(disagreement(self, Node("mismatch", number), mismatch))
        return found

    def waiting(self, roots: Iterable[Node], culprits: Iterable[int]) -> tuple[int, ...]:
        """Return the ranks that wait for `roots`, at once or through others."""
        reached = self.waits.graph.waiting_for(roots)
        ranks = {node.number for node in reached if node.kind == "rank" and node.number in self.waits.blocked}
        return tuple(sorted(ranks - set(culprits)))

    def group(self, number: int) -> GroupName:
        group = self.trace.groups[number]
        return GroupName(group.name, group.desc, group.members, group.known)

    def collective(self, node: Node) -> tuple[Collective | None, GroupName | None]:
        if node.kind == "hidden":
            return Collective(node.name, None, node.name.startswith("send"), (), (), ""), None
        rows = self.waits.rows_of(node)
        if not rows:
            return None, None
        return self.collective_of_row(min(rows.values()), list(rows.values()))

    def collective_of_row(self, row: int, rows: Sequence[int]) -> tuple[Collective, GroupName]:
        call, seq = self.trace.call_of(row), int(self.trace.seq[row])
        times = [int(self.trace.created_ns[at]) for at in rows if self.trace.created_ns[at] != NO_TIME]
        made = Collective(
            call.name,
            None if seq == NO_SEQ else seq,
            bool(self.trace.p2p[row]),
            call.input_sizes,
            call.output_sizes,
            call.dtype,
            min(times, default=None),
        )
        return made, self.group(int(self.trace.group[row]))

    def location(self, ranks: Sequence[int], rows: dict[int, int] | None = None) -> Location | None:
        """Return where the first culprit stands by its stack, else where it has launched its row."""
        for rank in ranks:
            activity = self.waits.activity.get(rank)
            if activity is not None and activity.location is not None:
                return activity.location
        for rank in ranks:
            row = (rows or {}).get(rank)
            frame = user_frame(self.trace.stack_of(row)) if row is not None else None
            if frame is not None:
                return Location(rank, frame.filename, frame.line, frame.name)
        return None

    def _first_waiting(self, root: Node) -> Node | None:
        """Return the operation that waits for a rank itself; of several the one that was entered first."""
        direct = [node for node in self.waits.graph.back[root] if node in self.waited_in]
        return min(direct, key=self.entered_first, default=None)

    def entered_first(self, node: Node) -> tuple[int, int, int]:
        rows = self.waits.rows_of(node)
        times = [int(self.trace.created_ns[row]) for row in rows.values() if self.trace.created_ns[row] != NO_TIME]
        return min(times, default=1 << 62), -len(rows), node.number
