"""The wait-for graph of a job: operations wait for the ranks that have not entered them, ranks for operations.

How this works. An operation that is open points to each member that has not entered it; a rank points to the
operations that it has open itself. An operation that everybody has entered points to what its members have
launched before it and not finished. Stacks correct this: a rank that is in code of its own waits for no
operation, whatever it has launched; a rank inside torch.distributed without an open entry is in something that
the recorder does not show (gloo's send and recv, monitored_barrier), and that points to the ranks that are in
no operation at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.waits.activity import Doing
from torchctl.diagnosis.waits.entered import OpenOp
from torchctl.diagnosis.waits.graph import Graph
from torchctl.diagnosis.waits.openops import OpenOperations
from torchctl.flightrec.table.trace import State

_P2P_CALL = "send or recv"

NodeKind = Literal["rank", "lost", "op", "pair", "hidden", "mismatch"]


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the graph; `number` is a rank or an index, `name` the call of a hidden operation."""

    kind: NodeKind
    number: int = 0
    name: str = ""


class Waits(OpenOperations):
    """All that waits in a job.

    Attributes:
        graph: the wait-for graph; the number of a node is an index in `ops`, `pairs` or `mismatches`, or a rank.
        blocked: what each rank waits in.
        order: of each operation that waits for an earlier one, the ranks that launched them in this order.
        ambiguous: operations of groups of which members may never have shown themselves, with the ranks that may be
            them.
    """

    def __init__(self, evidence: Evidence) -> None:
        super().__init__(evidence)
        self.ambiguous: list[tuple[OpenOp, list[int]]] = []
        self.blocked: dict[int, list[Node]] = {}
        self.graph: Graph[Node] = Graph()
        self.order: dict[tuple[Node, Node], set[int]] = {}
        self._open_mismatches: dict[int, int] = {}
        self._connect()

    def rows_of(self, node: Node) -> dict[int, int]:
        """Return the row of each rank that is in the operation of a node."""
        if node.kind == "op":
            return self.ops[node.number].rows
        if node.kind == "pair":
            return {self.pairs[node.number].rank: self.pairs[node.number].row}
        if node.kind == "mismatch":
            return self.mismatches[node.number].rows
        return {}

    def undecided(self, node: Node) -> bool:
        """Whether a send or recv that seems alone may have been done with: its partner's end may be past.

        Where a ring has lost its beginning, the ends are paired by what is open, and an end that the watchdog has not
        marked done yet looks like one whose partner never came. What decides is a second look, proof that it hangs, or
        stacks that show the one inside and the other in code of its own.
        """
        if node.kind != "pair" or self.evidence.moved is not None:
            return False
        pair = self.pairs[node.number]
        if not pair.alone or not self.wrapped & {pair.rank, pair.partner} or self.hard([pair.row]):
            return False
        inside = self.activity.get(pair.rank)
        shown = inside is not None and inside.is_p2p and self.doing(pair.partner) is Doing.OWN_CODE
        return not shown

    def _connect(self) -> None:
        mismatch_of = {(one.group, one.seq): number for number, one in enumerate(self.mismatches)}
        for number, one in enumerate(self.mismatches):  # at most one of each group
            if (self.trace.state[list(one.rows.values())] <= State.LATE).any():
                self._open_mismatches[one.group] = number
        inside = self._nodes_by_rank()
        for number, op in enumerate(self.ops):
            node = Node("op", number)
            self.graph.add(node)
            wrong = self._mismatch_before(op)
            if wrong is not None:
                self.graph.wait(node, Node("mismatch", wrong))
            elif (op.group, op.seq) in mismatch_of:
                self.graph.wait(node, Node("mismatch", mismatch_of[op.group, op.seq]))
            elif op.missing or op.skipped:
                absent = [*op.missing, *op.skipped]
                if self.is_gloo(op.group) and self.may_be_in_p2p(absent):
                    self.ambiguous.append((op, absent))
                    continue
                for rank in (*op.missing, *op.skipped):
                    self.graph.wait(node, Node("rank", rank))
            elif op.unknown:
                for rank in op.unknown:
                    self.graph.wait(node, self._without_dump(rank))
            else:
                self._connect_entered(node, op, inside)
        for number, pair in enumerate(self.pairs):
            node = Node("pair", number)
            self.graph.add(node)
            if pair.alone is None:
                self.graph.wait(node, self._without_dump(pair.partner))
            elif pair.alone:
                self.graph.wait(node, Node("rank", pair.partner))
            else:
                ends = {pair.rank: pair.row}
                if pair.other is not None:
                    ends[pair.partner] = pair.other
                self._behind(node, ends, inside)
        for rank, nodes in inside.items():
            if self.doing(rank) is not Doing.OWN_CODE:
                self.blocked[rank] = nodes
        self._connect_hidden(inside)
        for rank, nodes in self.blocked.items():
            for node in nodes:
                self.graph.wait(Node("rank", rank), node)

    def may_be_in_p2p(self, missing: Sequence[int]) -> bool:
        """Whether of several missing ranks one may wait for another in a send or recv that gloo does not record."""
        if len(missing) < 2 or all(rank in self.activity for rank in missing):
            return False
        return any(dump.gaps for dump in self.trace.dumps)

    def _nodes_by_rank(self) -> dict[int, list[Node]]:
        inside: dict[int, list[Node]] = {}
        for number, op in enumerate(self.ops):
            for rank in op.rows:
                inside.setdefault(rank, []).append(Node("op", number))
        for number, pair in enumerate(self.pairs):
            inside.setdefault(pair.rank, []).append(Node("pair", number))
        return inside

    def _without_dump(self, rank: int) -> Node:
        """Return the node of a rank without a usable dump: its stack may still tell what it does."""
        return Node("rank" if rank in self.activity else "lost", rank)

    def _mismatch_before(self, op: OpenOp) -> int | None:
        """Return the disagreement that an operation comes after, where that one is still open itself.

        A rank that takes part in another operation than the others goes on alone, and they never meet again.
        """
        number = self._open_mismatches.get(op.group)
        return number if number is not None and op.seq > self.mismatches[number].seq else None

    def _connect_entered(self, node: Node, op: OpenOp, inside: dict[int, list[Node]]) -> None:
        group = self.trace.groups[op.group]
        if not group.known:
            candidates = self.unseen(op)
            shown = len(candidates) == 1 and candidates[0] in self.activity
            if shown or (group.unseen and len(candidates) == group.unseen):
                for rank in candidates:
                    self.graph.wait(node, self._without_dump(rank) if rank not in self.usable else Node("rank", rank))
                return
            if candidates:
                self.ambiguous.append((op, candidates))
        self._behind(node, op.rows, inside)

    def _behind(self, node: Node, rows: dict[int, int], inside: dict[int, list[Node]]) -> None:
        """Let an entered operation wait for what its members have launched before it, and not finished."""
        for rank, row in rows.items():
            for other in inside.get(rank, ()):
                if other == node:
                    continue
                other_row = self.rows_of(other)[rank]
                same_dump = self.trace.dump[other_row] == self.trace.dump[row]
                apart = not self._independent(node, other) and not self._in_one_batch(row, other_row)
                if same_dump and other_row < row and apart:
                    self.graph.wait(node, other)
                    self.order.setdefault((node, other), set()).add(rank)

    def _in_one_batch(self, row: int, other: int) -> bool:
        """Whether two rows of a rank are members of one batch, which is launched at once."""
        trace = self.trace
        both = bool(trace.member[row] and trace.member[other] and trace.p2p[row] == trace.p2p[other])
        return both and trace.group[row] == trace.group[other] and trace.seq[row] == trace.seq[other]

    def _independent(self, one: Node, other: Node) -> bool:
        """Whether two operations run side by side: gloo has threads of its own for each group."""
        first, second = self.group_of(one), self.group_of(other)
        return first != second and self.is_gloo(first)

    def group_of(self, node: Node) -> int:
        return self.ops[node.number].group if node.kind == "op" else self.pairs[node.number].group

    def _connect_hidden(self, inside: dict[int, list[Node]]) -> None:
        """Add the operations that only stacks show."""
        hidden: dict[str, list[int]] = {}
        recorded = {rank for op in (*self.passing, *self.in_flight) for rank in op.rows}
        for rank, activity in self.activity.items():
            shown = rank in inside or rank in recorded
            if activity.doing is Doing.COLLECTIVE and not shown and rank not in self.moved:
                hidden.setdefault(_P2P_CALL if activity.is_p2p else activity.call, []).append(rank)
        if not hidden:
            return
        idle = [
            rank
            for rank, activity in self.activity.items()
            if activity.outside and rank not in self.blocked and rank not in self.moved
        ]
        lost = [rank for rank in self.evidence.failed if rank not in self.activity]
        for call, ranks in hidden.items():
            node = Node("hidden", name=call)
            self.graph.add(node)
            for rank in ranks:
                self.blocked[rank] = [node]
            for rank in idle:
                self.graph.wait(node, Node("rank", rank))
            if not idle:
                for rank in lost:
                    self.graph.wait(node, Node("lost", rank))
