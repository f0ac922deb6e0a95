"""The wait-for graph of a job: operations wait for the ranks that have not entered them, ranks for operations.

How this works. An open operation points to each member that has not entered it; a rank points to its own open
operations. An operation that all members have entered points to what its members launched before it and have not
finished. Stacks correct this: a rank that is in its own code waits for no operation, whatever it has launched; a rank
inside torch.distributed without an open entry is in something that the recorder does not show (gloo's send and recv,
monitored_barrier), and that points to the ranks that are in no operation at all. A rank that waits at the job's store
waits for those that must come there, or set its keys.
"""

from __future__ import annotations

from collections.abc import Iterable

from torchctl.diagnosis.waits.activity import Activity, Doing
from torchctl.diagnosis.waits.graph import Graph
from torchctl.diagnosis.waits.openops import open_operations
from torchctl.diagnosis.waits.proofs import Proofs
from torchctl.diagnosis.waits.stores import waits_at_stores
from torchctl.diagnosis.waits.waiting import Hidden, Node, OpenOp, Waits
from torchctl.flightrec.table.trace import State

_P2P_CALL = "send or recv"
# These wait for a worker that need not call anything.
_REMOTE = frozenset({"rpc_sync", "rpc_async", "remote", "to_here", "local_value"})
_OF_ALL = ("new_group", "init_process_group")  # every rank of the job must call these, even outside of the group


def waits_of(proofs: Proofs) -> Waits:
    """Return everything that waits in a job."""
    waits = Waits(open_operations(proofs), Graph(), {}, {}, [])
    _Connecting(proofs, waits).connect()
    return waits


class _Connecting:
    """Fills in the graph of a job's waits.

    Attributes:
        inside: the open operations that each rank is in by its dump.
        first_open: the number of the open disagreement, by group.
    """

    def __init__(self, proofs: Proofs, waits: Waits) -> None:
        self.proofs, self.waits, self.open, self.trace = proofs, waits, waits.open, proofs.trace
        self.graph = waits.graph
        self.inside = self._nodes_by_rank()
        self.first_open = {
            one.group: number  # at most one per group
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
            elif (source := self.proofs.source_of(op)) in (*op.missing, *op.skipped, *op.unknown):
                # Who receives waits for the one that sends: whether the others come decides nothing.
                self._wait(node, map(self._with_or_without_dump, () if source is None else (source,)))
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
        self._connect_stores()
        for rank, nodes in self.waits.blocked.items():
            self._wait(Node("rank", rank), nodes)
        self._let_go_of_side_threads()

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
        """Return the open disagreement that an operation comes after; None if there is none.

        A rank that enters a different operation than the others goes on alone, and they never meet again.
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
        """Make an entered operation wait for what its members launched before it and have not finished."""
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
        """Whether two operations run in parallel: gloo has separate threads for each group."""
        first, second = self.waits.group_of(one), self.waits.group_of(other)
        return first != second and self.proofs.is_gloo(first)

    def _connect_hidden(self) -> None:
        """Add the operations that only stacks show."""
        activities, moved, blocked = self.proofs.activity, self.proofs.moved, self.waits.blocked
        hidden: dict[tuple[object, ...], Hidden] = {}
        known = (*self.open.passing, *self.open.in_flight, *self.open.young)
        recorded = {rank for op in known for rank in op.rows}
        for rank, activity in activities.items():
            shown = rank in self.inside or rank in recorded
            if activity.doing is Doing.COLLECTIVE and not shown and rank not in moved:
                made = _hidden(rank, activity)
                key = (made.call, made.members, made.remote, *((rank, made.peer) if made.peer is not None else ()))
                hidden.setdefault(key, made).ranks.append(rank)
        self.waits.fresh.extend(made for made in hidden.values() if self._may_be_young(made))
        hidden = {key: made for key, made in hidden.items() if made not in self.waits.fresh}
        if not hidden:
            return
        idle = [
            rank
            for rank, activity in activities.items()
            if activity.outside and rank not in blocked and rank not in moved
        ]
        lost = [rank for rank in self.proofs.evidence.failed if rank not in activities]
        for made in hidden.values():
            node = Node("hidden", len(self.waits.hidden), made.call)
            self.waits.hidden.append(made)
            self.graph.add(node)
            blocked.update({rank: [node] for rank in made.ranks})
            self._wait(node, self._awaited(made, idle, lost))

    def _may_be_young(self, made: Hidden) -> bool:
        """Whether an operation without an entry is young in one look, or is a send of which nothing shows the age."""
        inner = made.text.partition("(")[0]
        passing = (
            made.is_p2p or "send" in inner or "recv" in inner or (made.members is None and made.call not in _OF_ALL)
        )
        return self.proofs.fresh(made.ranks) or (passing and self.proofs.ageless(made.ranks))

    def _connect_stores(self) -> None:
        """Add what ranks wait for at the store.

        Ranks whose keys no rank is seen to set wait for that if others may do so; if no rank is left that may, they are
        the end of the chain themselves.
        """
        blocked, moved = self.waits.blocked, self.proofs.moved
        idle = {
            rank
            for rank, activity in self.proofs.activity.items()
            if activity.outside and rank not in blocked and rank not in moved
        }
        idle.update(rank for rank in self.proofs.evidence.failed if rank not in self.proofs.activity)
        found = waits_at_stores(self.proofs)
        self.waits.fresh.extend(one.made for one in found if self.proofs.fresh(one.made.ranks))
        found = [one for one in found if one.made not in self.waits.fresh]
        idle.difference_update(rank for one in found for rank in one.made.ranks)
        for one in found:
            node = Node("hidden", len(self.waits.hidden), one.made.call)
            self.waits.hidden.append(one.made)
            self.graph.add(node)
            if one.lacks is not None or idle:
                blocked.update({rank: [node] for rank in one.made.ranks})
            self._wait(node, map(self._with_or_without_dump, one.lacks or ()))

    def _with_or_without_dump(self, rank: int) -> Node:
        return Node("rank", rank) if rank in self.proofs.usable else self._without_dump(rank)

    def _awaited(self, made: Hidden, idle: list[int], lost: list[int]) -> Iterable[Node]:
        """Return what a hidden operation waits for: its other end, its absent members, or the idle ranks."""
        if made.remote:
            return ()
        if made.call in _OF_ALL and not idle and not lost:
            others = [rank for rank in self.proofs.activity if rank not in {*made.ranks, *self.proofs.moved}]
            return (Node("rank", rank) for rank in others)
        if made.peer is not None:
            wanted: Iterable[int] = (made.peer,)
        elif made.members is not None and not made.is_p2p:
            wanted = [rank for rank in made.members if rank not in made.ranks]
        elif made.is_p2p and idle and self.proofs.without_data():
            return ()
        else:
            return (Node("rank", rank) for rank in idle) if idle else (Node("lost", rank) for rank in lost)
        return map(self._with_or_without_dump, wanted)

    def _let_go_of_side_threads(self) -> None:
        """Remove the waits of side threads that lead back to their own rank: others need the rank's own thread.

        A rank whose side thread waits for others may wait for that thread, or go on beside it: nothing shows which. In
        a circle, either way, what the others' operation lacks is this rank's own thread.
        """
        aside = [rank for rank, activity in self.proofs.activity.items() if activity.aside]
        for component in self.graph.components() if aside else ():
            for node in component if len(component) > 1 else ():
                if node.kind == "rank" and node.number in aside:
                    self.waits.aside[node.number] = self.waits.blocked.pop(node.number, [])
                    self.graph.free(node)


def _hidden(rank: int, activity: Activity) -> Hidden:
    """Return the operation that a rank's stack shows."""
    call = _P2P_CALL if activity.is_p2p else activity.call
    calling = activity.calling
    if calling is None:
        return Hidden(call, remote=call in _REMOTE)
    sends = "send" in calling.call
    members = None if activity.call in _OF_ALL else calling.members
    return Hidden(call, [], calling.text, calling.peer, members, calling.remote, calling.tag, sends)
