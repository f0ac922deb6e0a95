"""Who waits in what: the open operations of a job, and the wait-for graph whose nodes refer to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torchctl.diagnosis.waits.entered import OpenOp
from torchctl.diagnosis.waits.graph import Graph
from torchctl.diagnosis.waits.mismatch import Mismatch
from torchctl.diagnosis.waits.pairs import OpenPair

NodeKind = Literal["rank", "lost", "op", "pair", "hidden", "mismatch"]


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the graph; `number` is a rank or an index, `name` the call of a hidden operation."""

    kind: NodeKind
    number: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class OpenOperations:
    """The open operations of a job.

    Attributes:
        ops: open collectives that count.
        pairs: open sends and receives that count.
        passing: open collectives that others have finished: about to be done, or one rank is stuck in them.
        in_flight: collectives that all have entered and that may just be running.
        holding: those of `ops` that may just be running, but hold a rank that others wait for.
        mismatches: collectives on which ranks disagree, open or not.
    """

    ops: list[OpenOp]
    pairs: list[OpenPair]
    passing: list[OpenOp]
    in_flight: list[OpenOp]
    holding: list[OpenOp]
    mismatches: list[Mismatch]


@dataclass(frozen=True, slots=True)
class Waits:
    """All that waits in a job.

    Attributes:
        open: the open operations; the number of a node is an index in its `ops`, `pairs` or `mismatches`, or a rank.
        graph: the wait-for graph.
        blocked: what each rank waits in.
        order: of each operation that waits for an earlier one, the ranks that launched them in this order.
        ambiguous: operations of groups of which members may never have shown themselves, with the ranks that may be
            them.
    """

    open: OpenOperations
    graph: Graph[Node]
    blocked: dict[int, list[Node]]
    order: dict[tuple[Node, Node], set[int]]
    ambiguous: list[tuple[OpenOp, list[int]]]

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
