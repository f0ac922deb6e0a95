"""Who waits in what: the open operations of a job, and the wait-for graph whose nodes refer to them.

`entered`, `pairs` and `mismatch` find the operations, `openops` sorts them, and `wiring` fills in the graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torchctl.diagnosis.waits.activity import StoreWait
from torchctl.diagnosis.waits.graph import Graph

NodeKind = Literal["rank", "lost", "op", "pair", "hidden", "mismatch"]
Disagreement = Literal["op_mismatch", "shape_mismatch", "dtype_mismatch"]


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the graph; `number` is a rank or an index, `name` the call of a hidden operation."""

    kind: NodeKind
    number: int = 0
    name: str = ""


@dataclass(slots=True)
class OpenOp:
    """One collective that some rank has open.

    Attributes:
        rows: row of each rank that has it open.
        done: ranks that have finished it.
        missing: members whose dump shows that they had not entered it.
        skipped: members that went past it without entering it.
        unknown: members without a usable dump, or only with one from another recorder.
    """

    group: int
    seq: int
    rows: dict[int, int]
    done: set[int] = field(default_factory=set)
    missing: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OpenPair:
    """A send or recv that is open.

    Attributes:
        rank: the rank that is in it; `partner` is at the other end.
        alone: the partner's dump shows that it has not reached its end; None if it has no usable dump.
        row: the row of the open one.
        other: row of the partner's end, if there is one.
        counted: neither ring can have lost open ends of these two ranks, so those left can be counted.
    """

    group: int
    rank: int
    partner: int
    is_send: bool
    row: int
    alone: bool | None
    other: int | None = None
    counted: bool = True


@dataclass(slots=True)
class Hidden:
    """An operation that only stacks show.

    Attributes:
        call: the torch.distributed function, or "send or recv".
        ranks: the ranks in it.
        text: the call with its arguments, "recv(src=1, tag=7)"; "" if they are not known.
        peer: the other end of a send or recv; None if there is none, or it is not known.
        members: the members of its group; None if they are not known.
        remote: it waits for the reply to a remote call, from an unknown rank.
        tag, sends: the tag of a send or recv, and whether it is a send.
        wait: what the ranks wait for at a store; None for any other operation.
    """

    call: str
    ranks: list[int] = field(default_factory=list)
    text: str = ""
    peer: int | None = None
    members: tuple[int, ...] | None = None
    remote: bool = False
    tag: int = 0
    sends: bool = False
    wait: StoreWait | None = None

    @property
    def is_p2p(self) -> bool:
        return self.call.startswith("send")


@dataclass(frozen=True, slots=True)
class Part:
    """What one rank sends another in an all_to_all, in elements, as each of the two recorded it."""

    sender: int
    receiver: int
    sent: int
    expected: int


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One collective on which ranks disagree.

    Attributes:
        minority: the ranks that differ from the majority; empty for a tie, or if `unseen` ranks could reverse it.
        rows: one row of each rank.
        sides: ranks by what they recorded, the largest side first; one side if its own sizes contradict each other.
        unseen: members that were or may have been in it, and whose dump no longer shows it.
        parts: of an all_to_all, the parts whose two ends differ.
        totals: of an all_to_all of which only totals are recorded: what all ranks send and what all expect.
    """

    what: Disagreement
    group: int
    seq: int
    minority: tuple[int, ...]
    rows: dict[int, int]
    sides: tuple[tuple[int, ...], ...]
    unseen: tuple[int, ...] = ()
    parts: tuple[Part, ...] = ()
    totals: tuple[int, int] | None = None


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
        young: collectives that some have not entered, and that the others entered just before they were dumped.
    """

    ops: list[OpenOp]
    pairs: list[OpenPair]
    passing: list[OpenOp]
    in_flight: list[OpenOp]
    holding: list[OpenOp]
    mismatches: list[Mismatch]
    young: list[OpenOp]


@dataclass(frozen=True, slots=True)
class Waits:
    """Everything that waits in a job.

    Attributes:
        open: the open operations; the number of a node is an index in its `ops`, `pairs` or `mismatches`, or a rank.
        graph: the wait-for graph.
        blocked: what each rank waits in.
        order: for each operation that waits for an earlier one, the ranks that launched them in this order.
        ambiguous: operations of groups that may have members which no dump shows, with the ranks that may be those
            members.
        hidden: operations that only stacks show; the number of a hidden node is an index in it.
        aside: what a rank's side threads wait in while its own thread is elsewhere.
        fresh: operations that only stacks show and that are too young, in one look, for any rank to be late.
    """

    open: OpenOperations
    graph: Graph[Node]
    blocked: dict[int, list[Node]]
    order: dict[tuple[Node, Node], set[int]]
    ambiguous: list[tuple[OpenOp, list[int]]]
    hidden: list[Hidden] = field(default_factory=list)
    aside: dict[int, list[Node]] = field(default_factory=dict)
    fresh: list[Hidden] = field(default_factory=list)

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
