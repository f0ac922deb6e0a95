"""What is open in a job: the operations that somebody is in, parted into those that count and those that prove nothing.

How this works. One look shows a moving job and a stuck one alike, so an open operation counts only where something is
amiss with it: a member that has not entered it, a member without a dump, launches in different orders, or proof that
it does not end (a watchdog gave it up, it is old by the job's own times, two looks show it unchanged). What others have
finished already is about to be done here, too, and what all have entered may just be running.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.waits.activity import Activity, Doing
from torchctl.diagnosis.waits.entered import OpenOp, Windows, find_open
from torchctl.diagnosis.waits.graph import Graph
from torchctl.diagnosis.waits.mismatch import Mismatch, find_mismatches
from torchctl.diagnosis.waits.pairs import OpenPair, find_open_pairs
from torchctl.diagnosis.waits.staleness import stale_ranks
from torchctl.flightrec.table.trace import NO_TIME, State

_LONG_NS = 30_000_000_000  # an operation open for longer than this was not in flight by chance
_TIMED_OUT, _LATE = int(State.TIMED_OUT), int(State.LATE)  # asked for every open row: an enum's look-up is slow


class OpenOperations:
    """The open operations of a job.

    Attributes:
        stale: ranks whose dump is older than others'.
        wrapped: ranks of which a ring may have lost its oldest entries.
        empty: ranks whose dump holds nothing although they have taken part.
        usable: ranks whose dump can show that they have not entered something.
        ops: open collectives that count.
        passing: open collectives that others have finished: about to be done, or one rank is stuck in them.
        pairs: open sends and receives.
        in_flight: operations that all have entered and that may just be running.
        holding: those of them that count because they hold a rank which others wait for.
        mismatches: collectives on which ranks disagree, open or not.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.trace = evidence.trace
        self.activity: dict[int, Activity] = evidence.activities()
        self.moved = evidence.moved or frozenset()
        self.windows = Windows(self.trace)
        self.stale = stale_ranks(self.trace, self.windows) if evidence.moved is None else set()
        self.empty = self._empty_ranks()
        self.wrapped = {dump.rank for dump in self.trace.dumps if dump.wrapped}
        self.newest_ns = (
            max((int(self.trace.created_ns.max()), int(self.trace.completed_ns.max()))) if len(self.trace) else 0
        )
        self.in_something = set(self.trace.rank[self.trace.state <= State.LATE].tolist())
        self.usable = set(self.trace.ranks) - self.stale - self.empty
        self.mismatches: list[Mismatch] = find_mismatches(self.trace, self.windows)
        self.ops: list[OpenOp] = []
        self.passing: list[OpenOp] = []
        self.in_flight: list[OpenOp] = []
        self.holding: list[OpenOp] = []
        self.pairs: list[OpenPair] = []
        self._choose()

    def hard(self, rows: Sequence[int]) -> bool:
        """Whether an operation is proven to hang: given up by a watchdog, or open for long by the job's own times."""
        if self._given_up(rows):
            return True
        entered_ns = int(self.trace.created_ns[rows].max()) if rows else NO_TIME
        return entered_ns != NO_TIME and self.newest_ns - entered_ns > _LONG_NS

    def _given_up(self, rows: Sequence[int]) -> bool:
        states = self.trace.state[rows]
        return bool(((states == _TIMED_OUT) | (states == _LATE)).any())

    def is_gloo(self, group: int) -> bool:
        return self.trace.groups[group].backend == "gloo"

    def _empty_ranks(self) -> set[int]:
        """Return ranks whose dump holds no row although others have worked with them."""
        rows: dict[int, int] = {}
        for dump in self.trace.dumps:
            rows[dump.rank] = rows.get(dump.rank, 0) + dump.rows
        without = {rank for rank, count in rows.items() if not count}
        if not without or not len(self.trace):
            return set()
        met = {rank for number in self.windows.proven_entered() for rank in self.trace.groups[number].members}
        self.stale -= without
        return without & met

    def _choose(self) -> None:
        """Sort the open operations into those that count and those that prove nothing."""
        skewed = bool(self.stale)
        disagreed = {(one.group, one.seq) for one in self.mismatches}
        for op in find_open(self.trace, self.windows, self.usable, self.moved):
            hard = self.hard(list(op.rows.values()))
            if (op.group, op.seq) in disagreed:
                self.ops.append(op)
            elif self._finished(op):
                self.passing.append(op)
            elif op.missing or op.skipped:
                if hard or not skewed:
                    self.ops.append(op)
            elif op.unknown:
                if hard or not (skewed and set(op.unknown) & self.stale):
                    self.ops.append(op)
            elif op.done:
                self.passing.append(op)
            elif self._stuck(op, hard) or (self.trace.groups[op.group].known is False and self.unseen(op)):
                self.ops.append(op)
            else:
                self.in_flight.append(op)
        self._promote_circles()
        for pair in find_open_pairs(self.trace, self.usable, self.moved):
            done = pair.other is not None and self.trace.state[pair.other] == State.DONE
            if not done and (self.hard([pair.row]) or not skewed):
                self.pairs.append(pair)
        self._take_holding()

    def _take_holding(self) -> None:
        """Take operations in flight that hold somebody whom others wait for: he cannot come before they end."""
        awaited = {rank for op in self.ops for rank in (*op.missing, *op.skipped)}
        awaited |= {pair.partner for pair in self.pairs if pair.alone}
        holding = [op for op in self.in_flight if not self.is_gloo(op.group)]
        while taken := [op for op in holding if awaited & op.rows.keys()]:
            self.ops += taken
            self.holding += taken
            holding = [op for op in holding if not awaited & op.rows.keys()]
            awaited = {rank for op in taken for rank in op.rows}  # who may be held in another one

    def _finished(self, op: OpenOp) -> bool:
        """Whether somebody has finished an operation that nobody can finish alone: all have been in it."""
        if not op.done or self.is_gloo(op.group):
            return False  # gloo retires what has failed, too
        rows = list(op.rows.values())
        operations = set(self.trace.operation[rows].tolist())
        return not self._given_up(rows) and all(self.trace.operations[number].symmetric for number in operations)

    def _promote_circles(self) -> None:
        """Take operations that all have entered, but in different orders: those may never end."""
        launched: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for number, op in enumerate(self.in_flight):
            if not self.is_gloo(op.group):  # which has threads of its own for each group
                for rank, row in op.rows.items():
                    launched[rank, int(self.trace.dump[row])].append((row, number))
        order: Graph[int] = Graph()
        for rows in launched.values():
            rows.sort()
            for (_, earlier), (_, later) in pairwise(rows):
                order.wait(later, earlier)
        circles = {number for component in order.components() if len(component) > 1 for number in component}
        self.ops += [op for number, op in enumerate(self.in_flight) if number in circles]
        self.in_flight = [op for number, op in enumerate(self.in_flight) if number not in circles]

    def _stuck(self, op: OpenOp, hard: bool) -> bool:
        """Whether an operation that all have entered is known to be stuck rather than in flight."""
        states = set(self.trace.state[list(op.rows.values())].tolist())
        if self.is_gloo(op.group):
            # Gloo marks operations done some time after they are; a thread inside of one is proof.
            inside = [rank for rank in op.rows if self.doing(rank) is Doing.COLLECTIVE]
            return bool(inside) and (self.evidence.moved is not None or hard)
        if hard or (self.evidence.moved is not None and not self.moved & set(op.rows)):
            return True
        return int(State.STARTED) in states and not self.stale

    def unseen(self, op: OpenOp) -> list[int]:
        """Return the ranks that may be members which never entered anything in a group of unknown members."""
        group = self.trace.groups[op.group]
        if group.size is not None and not group.unseen:
            return []
        busy = {rank for rank, activity in self.activity.items() if activity.doing is Doing.COLLECTIVE}
        size = self.evidence.size() or (max([*self.trace.ranks, 0]) + 1)
        candidates = {*self.evidence.ranks(), *range(size)} - set(group.members) - busy
        return sorted(candidates - self.in_something)

    def doing(self, rank: int) -> Doing | None:
        activity = self.activity.get(rank)
        return None if activity is None else activity.doing
