"""Roots of the wait-for graph to findings: whom to name, of what, how surely, and who waits for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from torchctl.diagnosis.activity import Doing
from torchctl.diagnosis.circles import circle
from torchctl.diagnosis.mismatch import Mismatch
from torchctl.diagnosis.model import Collective, Confidence, Finding, GroupName, Kind, Location
from torchctl.diagnosis.waiting import Node, Waits
from torchctl.diagnosis.words import call_words, group_words, ranks_of, verb
from torchctl.flightrec.trace import NO_SEQ, NO_TIME, State
from torchctl.flightrec.userframe import user_frame

_WORDS = {"op_mismatch": "another operation", "shape_mismatch": "other sizes", "dtype_mismatch": "another type"}


def accuse(waits: Waits) -> tuple[list[Finding], list[str]]:
    """Return the findings of all roots, and what could not be told."""
    made = Accuser(waits)
    return made.findings(), made.unknown


class Accuser:
    """The roots of one graph, and what findings about them need.

    Attributes:
        unknown: what could not be told, in words.
    """

    def __init__(self, waits: Waits) -> None:
        self.waits = waits
        self.trace = waits.trace
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
                found += self._stuck(node)
            elif node.kind == "pair":
                self.unknown.append("a send and its recv are both there and not done; they may be in flight")
            elif node.kind == "hidden":
                found += self._nobody_left(node)
        for (kind, operation), nodes in by_operation.items():
            found += self._absent(kind, operation, [node.number for node in nodes])
        for number, mismatch in enumerate(self.waits.mismatches):
            found.append(self._mismatch(Node("mismatch", number), mismatch))
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
        direct = [node for node in self.waits.graph.back[root] if self._someone_waits(node)]
        return min(direct, key=self.entered_first, default=None)

    def _someone_waits(self, node: Node) -> bool:
        return any(node in nodes for nodes in self.waits.blocked.values())

    def entered_first(self, node: Node) -> tuple[int, int, int]:
        rows = self.waits.rows_of(node)
        times = [int(self.trace.created_ns[row]) for row in rows.values() if self.trace.created_ns[row] != NO_TIME]
        return min(times, default=1 << 62), -len(rows), node.number

    def _absent(self, kind: str, operation: Node, ranks: list[int]) -> list[Finding]:
        """Ranks for which an operation waits, and which wait for nothing themselves."""
        ranks = sorted(ranks)
        roots = [Node("lost" if kind == "lost" else "rank", rank) for rank in ranks]
        waiting = self.waiting(roots, ranks)
        collective, group = self.collective(operation)
        is_p2p = collective is not None and collective.is_p2p
        what = call_words(collective, group)
        evidence: list[str] = []
        if kind == "lost":
            return self._lost(ranks, waiting, collective, group, what)
        confidence = self._confidence(operation, ranks)
        if operation.kind == "hidden":
            clear = all(
                self.waits.activity[rank].doing is Doing.OWN_CODE for rank in ranks if rank in self.waits.activity
            )
            if is_p2p and len(ranks) > 1 and not clear:
                self.unknown.append(
                    f"{ranks_of(waiting)} {verb(waiting, 'waits', 'wait')} in send or recv, which leaves no entry;"
                    f" {ranks_of(ranks)} {verb(ranks, 'is', 'are')} in none, and which of them they wait for is not"
                    " known"
                )
                return []
            evidence.append(
                f"the stacks of {ranks_of(waiting)} are inside torch.distributed's {what}, which leaves no entry"
            )
        for rank in ranks[:8]:
            evidence += self._of_absent(rank, operation)
        made: Kind = "p2p_mismatch" if is_p2p else "not_entered"
        says = "has not come to its end of" if is_p2p else "never entered"
        says = says if len(ranks) == 1 else says.replace("has", "have").replace("its", "their")
        summary = f"{ranks_of(ranks)} {says} {what}"
        if waiting:
            summary += f"; {ranks_of(waiting)} {verb(waiting, 'waits', 'wait')} for {verb(ranks, 'it', 'them')}"
        location = self.location(ranks)
        return [Finding(made, confidence, summary, tuple(ranks), waiting, group, collective, location, evidence)]

    def _lost(
        self,
        ranks: list[int],
        waiting: tuple[int, ...],
        collective: Collective | None,
        group: GroupName | None,
        what: str,
    ) -> list[Finding]:
        failed = self.waits.evidence.failed
        not_found = [rank for rank in ranks if rank not in failed]
        size = len(group.ranks if group is not None else ranks)
        # Half of a group that no worker answers for is more likely on a host that nobody has asked.
        too_many = len(not_found) * 2 > size or (self.waits.evidence.live and len(not_found) * 2 == size)
        if too_many and len(not_found) > 1:
            self.unknown.append(f"there is nothing from {ranks_of(not_found)}, and others wait in {what}: ask them too")
            return []
        evidence = [f"rank {rank}: {self.reason(rank)}" for rank in ranks[:8]]
        summary = (
            f"{ranks_of(ranks)} {verb(ranks, 'is', 'are')} lost: {self.reason(ranks[0])};"
            f" {ranks_of(waiting)} {verb(waiting, 'waits', 'wait')} in {what}"
        )
        confidence: Confidence = "likely" if len(ranks) == 1 or not not_found else "possible"
        return [Finding("rank_lost", confidence, summary, tuple(ranks), waiting, group, collective, None, evidence)]

    def reason(self, rank: int) -> str:
        """Return why there is nothing usable from a rank."""
        if rank in self.waits.evidence.failed:
            return self.waits.evidence.failed[rank]
        if rank in self.waits.empty:
            return "its dump holds no entry, although it has worked with the others"
        if rank in self.waits.stale:
            return "its dump is older than the others'"
        return "no worker answers for it" if self.waits.evidence.live else "there is no dump of it"

    def _of_absent(self, rank: int, operation: Node) -> list[str]:
        facts = []
        if operation.kind == "op":
            op = self.waits.ops[operation.number]
            window = self.waits.windows.of(op.group, rank)
            where = group_words(self.trace.groups[op.group])
            if rank in op.skipped:
                facts.append(f"rank {rank} went past sequence id {op.seq} of {where} without entering it")
            elif window is None:
                facts.append(f"rank {rank} shows no operation of {where}")
            else:
                facts.append(f"rank {rank}: the last sequence id of {where} is {window[1]}, the others are in {op.seq}")
        elif operation.kind == "pair":
            pair = self.waits.pairs[operation.number]
            end = "recv" if pair.is_send else "send"
            facts.append(f"rank {rank} shows no {end} for what rank {pair.rank} has open")
        activity = self.waits.activity.get(rank)
        if activity is not None and activity.location is not None:
            at = activity.location
            facts.append(f"rank {rank} is in {at.function}, {at.file}:{at.line}")
        if activity is None:
            facts += self._last_seen(rank)
        for op in self.waits.passing:
            if rank in op.rows:
                facts.append(
                    f"rank {rank} is still inside sequence id {op.seq} of {group_words(self.trace.groups[op.group])},"
                    f" which {ranks_of(sorted(op.done))} {verb(sorted(op.done), 'has', 'have')} finished"
                )
        return facts

    def _last_seen(self, rank: int) -> list[str]:
        """Return where the last entry of a rank was launched: it has gone on from there."""
        rows = [dump.first_row + dump.rows - 1 for dump in self.trace.dumps if dump.rank == rank and dump.rows]
        if not rows:
            return []
        row = max(rows, key=lambda at: int(self.trace.created_ns[at]))
        frame = user_frame(self.trace.stack_of(row))
        if frame is None:
            return []
        name = self.trace.call_of(row).name
        return [f"rank {rank} was last seen launching {name} at {frame.filename}:{frame.line} ({frame.name})"]

    def _confidence(self, operation: Node, ranks: Sequence[int]) -> Confidence:
        stacks = all(rank in self.waits.activity for rank in ranks)
        still = self.waits.evidence.moved is not None
        if operation.kind == "op":
            op = self.waits.ops[operation.number]
            known = self.trace.groups[op.group].known or self.trace.groups[op.group].desc == "default_pg"
            shown = all(self.waits.windows.of(op.group, rank) is not None for rank in ranks)
            if not shown and any(dump.wrapped for dump in self.trace.dumps if dump.rank in ranks):
                return "possible"
            hard = self.waits.hard(list(op.rows.values()))
            return "certain" if known and shown and (hard or (stacks and still)) else "likely"
        return "likely"

    def _stuck(self, node: Node) -> list[Finding]:
        op = self.waits.ops[node.number]
        collective, group = self.collective(node)
        if any(one is op for one, _ in self.waits.ambiguous):
            candidates = next(ranks for one, ranks in self.waits.ambiguous if one is op)
            if op.missing or op.skipped:
                self.unknown.append(
                    f"{ranks_of(candidates)} have not entered {call_words(collective, group)}, and gloo does not record"
                    " the sends and receives in which one of them may wait for another: their stacks would tell"
                )
            else:
                self.unknown.append(
                    f"the members of {group_words(group)} are not known, and {ranks_of(candidates)} may be among them"
                )
            return []
        inside = sorted(op.rows)
        hard = self.waits.hard(list(op.rows.values()))
        confidence: Confidence = "likely" if hard or self.waits.evidence.moved is not None else "possible"
        places = self.waits.evidence.places
        hosts = sorted({place.host for rank in inside if (place := places.get(rank)) is not None and place.host})
        evidence = [f"all {len(inside) + len(op.done)} members have entered, and nobody has finished"]
        if any(self.trace.state[row] == State.STARTED for row in op.rows.values()):
            evidence.append("the operation has started on the device")
        if hosts:
            evidence.append(f"the group runs on {', '.join(hosts)}")
        summary = (
            f"all members of {group_words(group)} are in {call_words(collective, group)} and it does not end:"
            " look at the network, the devices and the communication library, not at a rank's code"
        )
        waiting = self.waiting([node], ())
        return [Finding("stuck_running", confidence, summary, (), waiting, group, collective, None, evidence)]

    def _nobody_left(self, node: Node) -> list[Finding]:
        waiting = self.waiting([node], ())
        self.unknown.append(
            f"{ranks_of(waiting)} {verb(waiting, 'is', 'are')} inside torch.distributed's {node.name}, which leaves"
            " no entry, and no rank is in code of its own"
        )
        return []

    def _mismatch(self, node: Node, mismatch: Mismatch) -> Finding:
        majority = mismatch.rows[mismatch.sides[0][0]]
        collective, group = self.collective_of_row(majority, list(mismatch.rows.values()))
        evidence = []
        for side in mismatch.sides[:8]:
            call = self.trace.call_of(mismatch.rows[side[0]])
            evidence.append(
                f"{ranks_of(side)}: {call.name}, {[list(sizes) for sizes in call.input_sizes]} ->"
                f" {[list(sizes) for sizes in call.output_sizes]}, {call.dtype or 'no type'}"
            )
        is_open = node in self.waits.graph.edges
        waiting = self.waiting([node], mismatch.minority) if is_open else ()
        if mismatch.minority:
            few = mismatch.minority
            summary = f"{ranks_of(few)} {verb(few, 'has', 'have')} {_WORDS[mismatch.what]} than the others in"
        else:
            sides = " against ".join(ranks_of(side) for side in mismatch.sides[:4])
            summary = f"a tie, {sides}: they disagree ({_WORDS[mismatch.what]}) in"
        summary += f" {call_words(collective, group)}"
        if waiting:
            summary += f"; {ranks_of(waiting)} {verb(waiting, 'waits', 'wait')}"
        location = None
        if mismatch.minority:
            rows = {rank: mismatch.rows[rank] for rank in mismatch.minority}
            frame = user_frame(self.trace.stack_of(rows[mismatch.minority[0]]))
            if frame is not None:
                location = Location(mismatch.minority[0], frame.filename, frame.line, frame.name)
        confidence: Confidence = "certain" if mismatch.minority else "likely"
        return Finding(
            mismatch.what, confidence, summary, mismatch.minority, waiting, group, collective, location, evidence
        )
