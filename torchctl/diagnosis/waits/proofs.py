"""What the evidence of a job proves: whose dump can show an absence, what hangs for certain, what threads are in.

A dump proves that its rank has not entered something only where it is as new as the others' and holds entries at all.
One look shows a moving job and a stuck one alike, so an open operation is proven to hang by its watchdog, or by its age
against the job's own newest entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.waits.activity import Activity, Doing
from torchctl.diagnosis.waits.ages import Ages
from torchctl.diagnosis.waits.entered import Windows
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

    def never_sent(self, rank: int) -> bool:
        """Whether a rank has neither sent nor received anything, as gloo's own count of its operations shows."""
        stacks = self.evidence.stacks.get(rank)
        if stacks is None or stacks.calls is None:
            return False
        numbers = {group.name: number for number, group in enumerate(self.trace.groups) if not group.epoch}
        for group in stacks.calls.groups:
            window = self.windows.of(numbers[group.name], rank) if group.name in numbers else None
            recorded = 0 if window is None else window[1]
            if "gloo" not in group.backend or group.sequence is None or group.sequence > recorded:
                return False
        return True

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
