"""What the evidence from a job proves: whose dump can show an absence, what certainly hangs, what threads are in.

A dump proves that its rank has not entered something only if it is as new as the others' and has entries. In one look a
moving job and a stuck one look the same, so an open operation is proven to hang by its watchdog, or by its age compared
with its rank's newest event.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.waits.activity import Activity, Doing
from torchctl.diagnosis.waits.ages import LONG_NS, Ages
from torchctl.diagnosis.waits.entered import Windows
from torchctl.diagnosis.waits.waiting import OpenOp
from torchctl.flightrec.table.trace import State, Trace

_TIMED_OUT, _LATE = int(State.TIMED_OUT), int(State.LATE)  # used for every open row: an enum's lookup is slow


@dataclass(frozen=True, slots=True)
class Proofs:
    """What the evidence proves, and what it cannot.

    Attributes:
        activity: what each rank with stacks is doing.
        from_outside: what each rank whose sentinel answers was doing when its stacks were read.
        moved: ranks whose recorder advanced between two looks; empty after only one look.
        windows: the sequence ids of each group that each rank's ring shows.
        stale: ranks whose dump is older than others'.
        empty: ranks whose dump has no entries although they took part.
        wrapped: ranks whose ring may have lost its oldest entries.
        usable: ranks whose dump can show that they have not entered something.
        ages: how long something has been open.
        failed: operations that are marked done but failed, with the ranks that never entered them.
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
        """Whether there were two looks, so that it is known which ranks moved."""
        return self.evidence.moved is not None

    def hard(self, rows: Sequence[int]) -> bool:
        """Whether a rank is proven to hang in an operation: a watchdog gave up on it, or a rank has long been in it."""
        return self.given_up(rows) or self.ages.long(rows)

    def young(self, rows: Sequence[int]) -> bool:
        """Whether there was one look, and the operation is too young for ranks that are not in it to be late."""
        return not self.compared and self.ages.young(rows) and not self.hard(rows)

    def fresh(self, ranks: Iterable[int]) -> bool:
        """Whether what ranks are in without an entry is young, in one look: each has just been in something else."""
        rested = [self.ages.rested_ns(rank) for rank in ranks] if not self.compared else []
        known = [one for one in rested if one is not None]
        return bool(known) and max(known) < LONG_NS

    def ageless(self, ranks: Iterable[int]) -> bool:
        """Whether nothing in a folder of `collect` shows for how long ranks have been in what they are in."""
        once = self.evidence.live and not self.compared
        return once and all(self.ages.rested_ns(rank) is None for rank in ranks)

    def given_up(self, rows: Sequence[int]) -> bool:
        """Whether a watchdog gave up on one of these rows."""
        states = self.trace.state[rows]
        return bool(((states == _TIMED_OUT) | (states == _LATE)).any())

    def is_gloo(self, group: int) -> bool:
        return self.trace.groups[group].backend == "gloo"

    def doing(self, rank: int) -> Doing | None:
        """Return what a rank's thread is in; None if no stack shows it."""
        activity = self.activity.get(rank)
        return None if activity is None else activity.doing

    def source_of(self, op: OpenOp) -> int | None:
        """Return the rank from which all in an operation receive, by their calls: a broadcast's or scatter's root."""
        name, roots = self.trace.groups[op.group].name, set()
        for rank in op.rows:
            activity = self.activity.get(rank)
            calling = None if activity is None else activity.calling
            if calling is not None and calling.call in ("broadcast", "scatter") and calling.group == name:
                roots.add(calling.root)
        return roots.pop() if len(roots) == 1 else None

    def without_data(self) -> list[int]:
        """Return the ranks of the job of which there is neither a stack nor a dump."""
        everybody = {*range(self.evidence.size() or 0), *self.evidence.failed}
        return sorted(everybody.difference(self.evidence.ranks()))

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
        """Return the ranks that may belong to a group of unknown members without having entered anything in it."""
        group = self.trace.groups[number]
        if group.size is not None and not group.unseen:
            return []
        busy = {rank for rank, activity in self.activity.items() if activity.doing is Doing.COLLECTIVE}
        size = self.evidence.size() or (max([*self.trace.ranks, 0]) + 1)
        candidates = {*self.evidence.ranks(), *range(size)} - set(group.members) - busy
        return sorted(candidates - self._in_something)

    def may_be_in_p2p(self, missing: Sequence[int]) -> bool:
        """Whether one of several missing ranks may wait for another in a send or recv that gloo does not record."""
        if len(missing) < 2 or all(rank in self.activity for rank in missing):
            return False
        return any(dump.gaps for dump in self.trace.dumps)
