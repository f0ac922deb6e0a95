"""What the evidence of a job proves: whose dump can show an absence, what hangs for certain, what threads are in.

A dump proves that its rank has not entered something only where it is as new as the others' and holds entries at all.
One look shows a moving job and a stuck one alike, so an open operation is proven to hang by its watchdog, or by its age
against the job's own newest entry.

A dump is older where it lacks what others have done with its rank. No one finishes an all_reduce before every member
has entered it: when one rank has finished an operation that another rank's dump does not show, that dump was taken
before, while the job was moving. So was a dump that does not show a send which has been received.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.waits.activity import Activity, Doing, activities_of
from torchctl.diagnosis.waits.ages import Ages
from torchctl.diagnosis.waits.entered import Windows
from torchctl.diagnosis.waits.failed import failed_operations
from torchctl.diagnosis.waits.pairs import outrun_senders
from torchctl.diagnosis.waits.waiting import OpenOp
from torchctl.flightrec.table.trace import State, Trace

_TIMED_OUT, _LATE = int(State.TIMED_OUT), int(State.LATE)  # asked for every open row: an enum's look-up is slow


@dataclass(frozen=True, slots=True)
class Proofs:
    """What the evidence proves, and what it cannot.

    Attributes:
        activity: what each rank with stacks is doing.
        from_outside: what each rank whose sentinel answers was doing when its stacks were read.
        moved: ranks whose recorder went on between two looks; empty after one look alone.
        windows: what each rank's ring shows of each group.
        stale: ranks whose dump is older than others'.
        empty: ranks whose dump holds nothing although they have taken part.
        wrapped: ranks whose ring may have lost its oldest entries.
        usable: ranks whose dump can show that they have not entered something.
        ages: how long something has been open.
        failed: operations that are marked done and have failed, with the ranks that never entered them.
    """

    evidence: Evidence
    activity: dict[int, Activity]
    from_outside: dict[int, Activity]
    moved: frozenset[int]
    windows: Windows
    stale: frozenset[int]
    empty: frozenset[int]
    wrapped: frozenset[int]
    usable: frozenset[int]
    ages: Ages
    failed: list[OpenOp]
    _in_something: frozenset[int]

    @property
    def trace(self) -> Trace:
        return self.evidence.trace

    @property
    def compared(self) -> bool:
        """Whether there were two looks, so that it is known who has moved."""
        return self.evidence.moved is not None

    def hard(self, rows: Sequence[int]) -> bool:
        """Whether a rank is proven to hang in an operation: a watchdog gave it up, or a rank has long been in it."""
        return self.given_up(rows) or self.ages.long(rows)

    def young(self, rows: Sequence[int]) -> bool:
        """Whether an operation is too young, in one look, for those who are not in it to be late."""
        return not self.compared and self.ages.young(rows) and not self.hard(rows)

    def given_up(self, rows: Sequence[int]) -> bool:
        """Whether a watchdog has given up one of these rows."""
        states = self.trace.state[rows]
        return bool(((states == _TIMED_OUT) | (states == _LATE)).any())

    def is_gloo(self, group: int) -> bool:
        return self.trace.groups[group].backend == "gloo"

    def doing(self, rank: int) -> Doing | None:
        """Return what a rank's thread is in; None without a stack that shows it."""
        activity = self.activity.get(rank)
        return None if activity is None else activity.doing

    def unseen(self, number: int) -> list[int]:
        """Return the ranks that may be members which never entered anything in a group of unknown members."""
        group = self.trace.groups[number]
        if group.size is not None and not group.unseen:
            return []
        busy = {rank for rank, activity in self.activity.items() if activity.doing is Doing.COLLECTIVE}
        size = self.evidence.size() or (max([*self.trace.ranks, 0]) + 1)
        candidates = {*self.evidence.ranks(), *range(size)} - set(group.members) - busy
        return sorted(candidates - self._in_something)

    def may_be_in_p2p(self, missing: Sequence[int]) -> bool:
        """Whether of several missing ranks one may wait for another in a send or recv that gloo does not record."""
        if len(missing) < 2 or all(rank in self.activity for rank in missing):
            return False
        return any(dump.gaps for dump in self.trace.dumps)


def proofs_of(evidence: Evidence) -> Proofs:
    """Return what the evidence proves."""
    trace = evidence.trace
    windows = Windows(trace)
    without = _without_rows(trace)
    empty = without & _met(trace, windows) if without else without
    ages = Ages(trace)
    failed = failed_operations(trace, windows.of, ages.taken, evidence.moved)
    absent = frozenset(rank for op in failed for rank in op.missing)
    stale = frozenset(_stale(trace, windows) if evidence.moved is None else ()) - without - absent
    return Proofs(
        evidence=evidence,
        activity=activities_of(evidence.stacks),
        from_outside=activities_of(
            {rank: one.stacks for rank, one in evidence.degraded.items() if one.stacks is not None}
        ),
        moved=evidence.moved or frozenset(),
        windows=windows,
        stale=stale,
        empty=empty,
        wrapped=frozenset(dump.rank for dump in trace.dumps if dump.wrapped),
        usable=frozenset(trace.ranks) - stale - empty,
        ages=ages,
        failed=failed,
        _in_something=frozenset(trace.rank[trace.state <= State.LATE].tolist()),
    )


def _stale(trace: Trace, windows: Windows) -> set[int]:
    """Return the ranks whose dump is older than what others have finished with them."""
    stale = outrun_senders(trace)
    seen = set(trace.ranks)
    wrapped = {dump.rank for dump in trace.dumps if dump.wrapped}
    for number, seq in windows.proven_entered().items():
        group = trace.groups[number]
        for rank in group.members:
            window = windows.of(number, rank)
            silent = window is None and rank in seen and rank not in wrapped and windows.shows(number, rank)
            never = silent and group.known
            behind = never or (window is not None and window[1] < seq)
            if behind:
                stale.add(rank)
    return stale


def _without_rows(trace: Trace) -> frozenset[int]:
    """Return the ranks whose dumps hold no row, where others' do."""
    rows: dict[int, int] = {}
    for dump in trace.dumps:
        rows[dump.rank] = rows.get(dump.rank, 0) + dump.rows
    return frozenset(rank for rank, count in rows.items() if not count and len(trace))


def _met(trace: Trace, windows: Windows) -> set[int]:
    """Return the ranks with which someone has finished an operation."""
    return {rank for number in windows.proven_entered() for rank in trace.groups[number].members}
