"""The wait-for graph of a job: operations wait for the ranks that have not entered them, ranks for operations.

How this works. An operation that is open points to each member that has not entered it; a rank points to the
operations that it has open itself. An operation that everybody has entered points to what its members have
launched before it and not finished. Stacks correct this: a rank that is in code of its own waits for no
operation, whatever it has launched; a rank inside torch.distributed without an open entry is in something that
the recorder does not show (gloo's send and recv, monitored_barrier), and that points to the ranks that are in
no operation at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.waits.activity import Doing
from torchctl.diagnosis.waits.entered import OpenOp
from torchctl.diagnosis.waits.graph import Graph
from torchctl.diagnosis.waits.openops import OpenOperations, open_operations
from torchctl.diagnosis.waits.proofs import Proofs, proofs_of
from torchctl.flightrec.table.trace import State, Trace

_P2P_CALL = "send or recv"

NodeKind = Literal["rank", "lost", "op", "pair", "hidden", "mismatch"]


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the graph; `number` is a rank or an index, `name` the call of a hidden operation."""

    kind: NodeKind
    number: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Waits:
    """All that waits in a job.

    Attributes:
        proofs: what the evidence proves.
        open: the open operations; the number of a node is an index in its `ops`, `pairs` or `mismatches`, or a rank.
        graph: the wait-for graph.
        blocked: what each rank waits in.
        order: of each operation that waits for an earlier one, the ranks that launched them in this order.
        ambiguous: operations of groups of which members may never have shown themselves, with the ranks that may be
            them.
    """

    proofs: Proofs
    open: OpenOperations
    graph: Graph[Node]
    blocked: dict[int, list[Node]]
    order: dict[tuple[Node, Node], set[int]]
    ambiguous: list[tuple[OpenOp, list[int]]]

    @property
    def trace(self) -> Trace:
        return self.proofs.trace

    def rows_of(self, node: Node) -> dict[int, int]:
        """Return the row of each rank that is in the operation of a node."""
        if node.kind == "op":
            return self.open.ops[node.number].rows
        if node.kind == "pair":
            pair = self.open.pairs[node.number]
            return {pair.rank: pair.row}
        if node.kind == "mismatch":
            return self.open.mismatches[node.number].rows
        return {}

    def group_of(self, node: Node) -> int:
        """Return the number of the group of a collective, a send or a recv."""
        return self.open.ops[node.number].group if node.kind == "op" else self.open.pairs[node.number].group

    def undecided(self, node: Node) -> bool:
        """Whether a send or recv that seems alone may have been done with: its partner's end may be past.

        Where a ring has lost its beginning, the ends are paired by what is open, and an end that the watchdog has not
        marked done yet looks like one whose partner never came. What decides is a second look, proof that it hangs, or
        stacks that show the one inside and the other in code of its own.
        """
        proofs = self.proofs
        if node.kind != "pair" or proofs.compared:
            return False
        pair = self.open.pairs[node.number]
        if not pair.alone or not proofs.wrapped & {pair.rank, pair.partner} or proofs.hard([pair.row]):
            return False
        inside = proofs.activity.get(pair.rank)
        shown = inside is not None and inside.is_p2p and proofs.doing(pair.partner) is Doing.OWN_CODE
        return not shown


def waits_of(evidence: Evidence) -> Waits:
    """Return all that waits in a job."""
    proofs = proofs_of(evidence)
    waits = Waits(proofs, open_operations(proofs), Graph(), {}, {}, [])
    _Connecting(waits).connect()
    return waits


class _Connecting:
    """Fills in the graph of a job's waits.

    Attributes:
        inside: the open operations that each rank is in by its dump.
        first_open: of each group with an open disagreement, its number.
    """

    def __init__(self, waits: Waits) -> None:
        self.waits, self.proofs, self.open, self.trace = waits, waits.proofs, waits.open, waits.trace
        self.graph = waits.graph
        self.inside = self._nodes_by_rank()
        self.first_open = {
            one.group: number  # at most one of each group
            for number, one in enumerate(self.open.mismatches)
            if (self.trace.state[list(one.rows.values())] <= State.LATE).any()
        }

    def connect(self) -> None:
        mismatch_of = {(one.group, one.seq): number for number, one in enumerate(self.open.mismatches)}
        for number, op in enumerate(self.open.ops):
            node = Node("op", number)
            self.graph.add(node)
            wrong = self._mismatch_before(op)
            if wrong is None:
                wrong = mismatch_of.get((op.group, op.seq))
            if wrong is not None:
                self.graph.wait(node, Node("mismatch", wrong))
            elif op.missing or op.skipped:
                absent = [*op.missing, *op.skipped]
                if self.proofs.is_gloo(op.group) and self.proofs.may_be_in_p2p(absent):
                    self.waits.ambiguous.append((op, absent))
                else:
                    self._wait(node, (Node("rank", rank) for rank in absent))
            elif op.unknown:
                self._wait(node, map(self._without_dump, op.unknown))
            else:
                self._connect_entered(node, op)
        self._connect_pairs()
        for rank, nodes in self.inside.items():
            if self.proofs.doing(rank) is not Doing.OWN_CODE:
                self.waits.blocked[rank] = nodes
        self._connect_hidden()
        for rank, nodes in self.waits.blocked.items():
            self._wait(Node("rank", rank), nodes)

    def _wait(self, node: Node, targets: Iterable[Node]) -> None:
        for target in targets:
            self.graph.wait(node, target)

    def _nodes_by_rank(self) -> dict[int, list[Node]]:
        inside: dict[int, list[Node]] = {}
        for number, op in enumerate(self.open.ops):
            for rank in op.rows:
                inside.setdefault(rank, []).append(Node("op", number))
        for number, pair in enumerate(self.open.pairs):
            inside.setdefault(pair.rank, []).append(Node("pair", number))
        return inside

    def _without_dump(self, rank: int) -> Node:
        """Return the node of a rank without a usable dump: its stack may still show what it does."""
        return Node("rank" if rank in self.proofs.activity else "lost", rank)

    def _mismatch_before(self, op: OpenOp) -> int | None:
        """Return the disagreement that an operation comes after, where that one is still open itself.

        A rank that takes part in another operation than the others goes on alone, and they never meet again.
        """
        number = self.first_open.get(op.group)
        return number if number is not None and op.seq > self.open.mismatches[number].seq else None

    def _connect_entered(self, node: Node, op: OpenOp) -> None:
        group = self.trace.groups[op.group]
        if not group.known:
            candidates = self.proofs.unseen(op.group)
            shown = len(candidates) == 1 and candidates[0] in self.proofs.activity
            if shown or (group.unseen and len(candidates) == group.unseen):
                usable = self.proofs.usable
                self._wait(
                    node, (Node("rank", rank) if rank in usable else self._without_dump(rank) for rank in candidates)
                )
                return
            if candidates:
                self.waits.ambiguous.append((op, candidates))
        self._behind(node, op.rows)

    def _connect_pairs(self) -> None:
        for number, pair in enumerate(self.open.pairs):
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
                self._behind(node, ends)

    def _behind(self, node: Node, rows: dict[int, int]) -> None:
        """Let an entered operation wait for what its members have launched before it, and not finished."""
        for rank, row in rows.items():
            for other in self.inside.get(rank, ()):
                if other == node:
                    continue
                other_row = self.waits.rows_of(other)[rank]
                same_dump = self.trace.dump[other_row] == self.trace.dump[row]
                apart = not self._independent(node, other) and not self._in_one_batch(row, other_row)
                if same_dump and other_row < row and apart:
                    self.graph.wait(node, other)
                    self.waits.order.setdefault((node, other), set()).add(rank)

    def _in_one_batch(self, row: int, other: int) -> bool:
        """Whether two rows of a rank are members of one batch, which is launched at once."""
        trace = self.trace
        both = bool(trace.member[row] and trace.member[other] and trace.p2p[row] == trace.p2p[other])
        return both and trace.group[row] == trace.group[other] and trace.seq[row] == trace.seq[other]

    def _independent(self, one: Node, other: Node) -> bool:
        """Whether two operations run side by side: gloo has threads of its own for each group."""
        first, second = self.waits.group_of(one), self.waits.group_of(other)
        return first != second and self.proofs.is_gloo(first)

    def _connect_hidden(self) -> None:
        """Add the operations that only stacks show."""
        activities, moved, blocked = self.proofs.activity, self.proofs.moved, self.waits.blocked
        hidden: dict[str, list[int]] = {}
        recorded = {rank for op in (*self.open.passing, *self.open.in_flight) for rank in op.rows}
        for rank, activity in activities.items():
            shown = rank in self.inside or rank in recorded
            if activity.doing is Doing.COLLECTIVE and not shown and rank not in moved:
                hidden.setdefault(_P2P_CALL if activity.is_p2p else activity.call, []).append(rank)
        if not hidden:
            return
        idle = [
            rank
            for rank, activity in activities.items()
            if activity.outside and rank not in blocked and rank not in moved
        ]
        lost = [rank for rank in self.proofs.evidence.failed if rank not in activities]
        for call, ranks in hidden.items():
            node = Node("hidden", name=call)
            self.graph.add(node)
            blocked.update({rank: [node] for rank in ranks})
            self._wait(node, (Node("rank", rank) for rank in idle) if idle else (Node("lost", rank) for rank in lost))
