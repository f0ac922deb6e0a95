"""What every finding needs to know about a job's waits: who waits, in which operation, since when, and where in the
code.

The modules beside this one each answer one question (who is absent, what is stuck, which ranks wait in a circle, who
disagrees). They take the court and the nodes of a case, and return a finding, or why there is none; they know nothing
about each other. `accuse` sorts the roots into cases and collects the answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torchctl.diagnosis.model import Collective, Confidence, GroupName, Location
from torchctl.diagnosis.waits.activity import Doing
from torchctl.diagnosis.waits.proofs import Proofs
from torchctl.diagnosis.waits.waiting import Node, Waits
from torchctl.flightrec.decoding.dump import Frame
from torchctl.flightrec.table.trace import NO_SEQ, NO_TIME, Group, Trace
from torchctl.flightrec.view.userframe import nearest_frame

_NO_ENTRY = ("send or recv", "monitored_barrier", "init_process_group", "new_group")  # as activities name them


@dataclass(frozen=True, slots=True)
class Unclear:
    """Why no rank can be named in a case, in words."""

    why: str


@dataclass(frozen=True)
class Court:
    """The waits of one job, and the facts that findings about them need.

    Attributes:
        proofs: what the evidence proves.
        waits: who waits in what.
        searches: whether `waiting` searches the graph; see `without_search`.
    """

    proofs: Proofs
    waits: Waits
    searches: bool = True
    _entered: dict[Node, tuple[int, int, int]] = field(default_factory=dict, repr=False)

    @property
    def trace(self) -> Trace:
        return self.proofs.trace

    def without_search(self) -> Court:
        """Return a court that does not search for who waits, so that thousands of cases can be compared."""
        return replace(self, searches=False)

    def surely_stuck(self, rows: Sequence[int]) -> Confidence:
        """Return how sure it is that an operation which all have entered is stuck."""
        proofs = self.proofs
        hard = proofs.compared or proofs.hard(rows) or proofs.ages.timed_out(rows)
        return "likely" if hard else "possible"

    def waiting(self, roots: Iterable[Node], culprits: Iterable[int]) -> tuple[int, ...]:
        """Return the ranks that wait for `roots`, directly or through others; empty without search."""
        if not self.searches:
            return ()
        reached = self.waits.graph.waiting_for(roots)
        ranks = {node.number for node in reached if node.kind == "rank" and node.number in self.waits.blocked}
        ranks |= {rank for rank, nodes in self.waits.aside.items() if not reached.isdisjoint(nodes)}
        return tuple(sorted(ranks - set(culprits)))

    def undecided(self, node: Node) -> bool:
        """Whether a send or recv that seems unmatched may be done, with its partner's end already completed.

        If a ring has lost its oldest entries, the ends are paired by what is open, and an end that the watchdog has not
        marked done yet looks like one whose partner never came. A second look settles it, or proof that it hangs, or
        stacks that show one rank inside and the other in its own code.
        """
        proofs = self.proofs
        if node.kind != "pair" or proofs.compared:
            return False
        pair = self.waits.open.pairs[node.number]
        if pair.counted and (
            not pair.alone or not proofs.wrapped & {pair.rank, pair.partner} or proofs.hard([pair.row])
        ):
            return False
        inside = proofs.activity.get(pair.rank)
        shown = inside is not None and inside.is_p2p and proofs.doing(pair.partner) is Doing.OWN_CODE
        return not shown

    def last_row(self, rank: int) -> int | None:
        """Return the row that a rank launched last; None if its dumps hold none."""
        return self._last_rows.get(rank)

    @cached_property
    def _last_rows(self) -> dict[int, int]:
        last: dict[int, int] = {}
        created = self.trace.created_ns
        for dump in self.trace.dumps:
            row, other = dump.first_row + dump.rows - 1, last.get(dump.rank)
            if dump.rows and (other is None or created[row] > created[other]):
                last[dump.rank] = row
        return last

    def collective(self, node: Node) -> tuple[Collective | None, GroupName | None]:
        """Return the operation of a node and its group, each None if the node has none."""
        if node.kind == "hidden":
            return Collective(node.name, None, node.name.startswith("send"), (), (), ""), None
        rows = self.waits.rows_of(node)
        if not rows:
            return None, None
        return self.collective_of_row(min(rows.values()), list(rows.values()))

    def collective_of_row(self, row: int, rows: Sequence[int]) -> tuple[Collective, GroupName]:
        """Return the operation of `row` and its group; `rows` are those of all ranks in it."""
        times = [int(self.trace.created_ns[at]) for at in rows if self.trace.created_ns[at] != NO_TIME]
        group = self.trace.groups[int(self.trace.group[row])]
        return collective_at(self.trace, row, min(times, default=None)), name_of(group)

    def frame(self, row: int) -> Frame | None:
        """Return where in the user's code, or else a library's, a row was launched; None if its dump has no stack."""
        return nearest_frame(self.trace.stack_of(row))

    def location(self, ranks: Sequence[int], rows: dict[int, int] | None = None) -> Location | None:
        """Return where the first of `ranks` is according to its stack, or else where it launched its row."""
        for rank in ranks:
            activity = self.proofs.activity.get(rank)
            if activity is not None and activity.location is not None:
                return activity.location
        for rank in ranks:
            row = (rows or {}).get(rank)
            frame = self.frame(row) if row is not None else None
            if frame is not None:
                return Location(rank, frame.filename, frame.line, frame.name)
        return None

    def entered_first(self, node: Node) -> tuple[int, int, int]:
        """Return a key that sorts operations by their first entry; cached, because a thousand roots may need it."""
        found = self._entered.get(node)
        if found is None:
            rows = self.waits.rows_of(node)
            times = self.trace.created_ns[list(rows.values())]
            times = times[times != NO_TIME]
            first = int(times.min()) if len(times) else 1 << 62
            found = self._entered[node] = (first, -len(rows), node.number)
        return found


def unrecorded(court: Court, ranks: Iterable[int], call: str) -> str:
    """Return why no dump shows the operation that ranks' stacks are in; completes a sentence after the call."""
    if not any(rank in court.trace.ranks for rank in ranks):
        return "and there is no dump from them"
    return "which leaves no entry" if call in _NO_ENTRY else "which their dumps do not show"


def name_of(group: Group) -> GroupName:
    """Return a group of the trace as findings show it."""
    return GroupName(group.name, group.desc, group.members, group.known)


def collective_at(trace: Trace, row: int, since_ns: int | None = None) -> Collective:
    """Return the operation of a row as findings show it."""
    call, seq = trace.call_of(row), int(trace.seq[row])
    return Collective(
        call.name,
        None if seq == NO_SEQ else seq,
        bool(trace.p2p[row]),
        call.input_sizes,
        call.output_sizes,
        call.dtype,
        since_ns,
    )
