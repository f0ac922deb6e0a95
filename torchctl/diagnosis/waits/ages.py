"""How long an operation has been open, by the clock of the rank that has it open.

How this works. Hosts' clocks differ, by minutes if they are not synchronized, so times of two ranks are never compared.
Later events in a dump show an operation's minimum age. The time when the dump was taken shows its age: an operation
that the dump found completed before any watchdog saw it gives that time, or else the file's time does. Copying a file
makes its time later, never earlier, so a young operation is certainly young. An old one is not certainly old, unless it
is as old as its timeout, after which torch itself writes the dumps. Times that only a copy explains count for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from torchctl.flightrec.table.copies import copied_in_order
from torchctl.flightrec.table.trace import NO_TIME, State, Trace

if TYPE_CHECKING:
    from torchctl.flightrec.table.trace import DumpInfo, Ints

LONG_NS = 30_000_000_000  # an operation open for longer than this was not in flight by chance
_MOVING_NS = 1_000_000_000  # a rank whose newest event is younger than this when dumped is moving
_EARLY_NS = 1_000_000_000  # a file's time comes from the kernel's tick or a file server, and may be this early
_COPY_NS = 10_000_000_000  # a dump's file is written well within this time after the dump was taken
_COPIED_NS = 24 * 3600 * 1_000_000_000  # a file this long after the last event is a copy, or the job ended long ago
_AFTER_TIMEOUT_NS = 120_000_000_000  # a watchdog's polling, and the dumps of all ranks, take no longer


class Ages:
    """The times of all dumps, each by its rank's clock.

    Attributes:
        newest: each dump's newest event, [dumps] int64; NO_TIME if it has none.
        moved: each dump's newest launch or completion, [dumps] int64; starts do not count, because they are found when
            the dump is taken and show its time, not the rank's.
        taken: the latest time when each dump can have been taken, [dumps] int64; NO_TIME if unknown.
        lively: a dump found a completed operation that no watchdog had seen yet, as only a moving job's dump does.
        lost: the files' times are those of a copy made within a day, so ages are unknown, and the job may be moving.

    Args:
        collected: torchctl wrote the files itself, one right after the other.
    """

    def __init__(self, trace: Trace, *, collected: bool = False) -> None:
        self._trace = trace
        self.moved = _newest(trace, trace.created_ns, trace.completed_ns)
        self.newest = np.maximum(self.moved, _newest(trace, trace.started_ns))
        self.taken = np.array([_taken(dump.taken_ns, dump.written_ns, int(newest)) for dump, newest in
                               zip(trace.dumps, self.newest, strict=True)] or [NO_TIME], np.int64)  # fmt: skip
        self.lively = any(dump.taken_ns is not None for dump in trace.dumps)
        self.lost = any(_is_copied(dump) for dump in trace.dumps) or _are_copies(trace, self.moved, collected)
        if self.lost:  # one copied file means that the others are copies, too
            self.taken[[dump.taken_ns is None for dump in trace.dumps]] = NO_TIME

    def least_ns(self, row: int) -> int:
        """Return the minimum age of a row, by its rank's own events."""
        created, newest = int(self._trace.created_ns[row]), int(self.newest[self._trace.dump[row]])
        return 0 if NO_TIME in (created, newest) else newest - created

    def most_ns(self, row: int) -> int | None:
        """Return the maximum age of a row when it was dumped; None if unknown."""
        created, taken = int(self._trace.created_ns[row]), int(self.taken[self._trace.dump[row]])
        return None if NO_TIME in (created, taken) else taken - created

    def waited_ns(self, rows: Iterable[int]) -> int | None:
        """Return how long the first rank in an operation can have waited in it; None if unknown."""
        return max((age for row in rows if (age := self.most_ns(row)) is not None), default=None)

    def young(self, rows: Iterable[int]) -> bool:
        """Whether an operation is too young to be stuck; if its age is unknown, whether the job is lively."""
        waited = self.waited_ns(rows)
        return self.lively if waited is None else waited < LONG_NS

    def long(self, rows: Iterable[int]) -> bool:
        """Whether any rank has long been in an operation, by its own later events."""
        return any(self.least_ns(row) > LONG_NS for row in rows)

    def long_for_all(self, rows: Iterable[int]) -> bool:
        """Whether every rank has long been in an operation, by its own later events."""
        ages = [self.least_ns(row) for row in rows]
        return bool(ages) and min(ages) > LONG_NS

    def standing_ns(self, rows: Iterable[int]) -> int | None:
        """Return how long all ranks of an operation have been still, by their files' times; None if unknown.

        A rank whose thread ran ahead launched it long ago, and its device may have reached it only now.
        """
        stood = []
        for row in rows:
            age, dump = self.most_ns(row), self._trace.dump[row]
            if age is not None:
                stood.append(min(age, int(self.taken[dump]) - int(self.moved[dump])))
        return min(stood, default=None)

    def timed_out(self, rows: Iterable[int]) -> bool:
        """Whether the dumps were taken just after an operation's timeout, when torch itself takes them."""
        for row in rows:
            age, timeout_ns = self.most_ns(row), int(self._trace.timeout_ms[row]) * 1_000_000
            if age is not None and 0 < timeout_ns <= age <= timeout_ns + _AFTER_TIMEOUT_NS:
                return True
        return False

    def rested_ns(self, rank: int) -> int | None:
        """Return how long nothing had happened on a rank when it was dumped; None if that is not known."""
        rested = [
            int(self.taken[number]) - int(self.moved[number])
            for number, dump in enumerate(self._trace.dumps)
            if dump.rank == rank and NO_TIME not in (int(self.taken[number]), int(self.moved[number]))
        ]
        return min(rested, default=None)

    def moving(self) -> bool:
        """Whether every dump was taken just after something happened on its rank."""
        return bool(len(self.moved) and (self.taken != NO_TIME).all() and (self.taken - self.moved < _MOVING_NS).all())


def _is_copied(dump: DumpInfo) -> bool:
    """Whether a dump itself shows that its file was written again later."""
    taken_ns, written_ns = dump.taken_ns, dump.written_ns
    return taken_ns is not None and written_ns is not None and written_ns - taken_ns > _COPY_NS


def _are_copies(trace: Trace, moved: Ints, collected: bool) -> bool:
    """Whether the times of all files are those of a copy, by what the dumps could not look like at those times."""
    times = [(dump.written_ns, int(newest)) for dump, newest in zip(trace.dumps, moved, strict=True)]
    ages = [written_ns - newest for written_ns, newest in times if written_ns is not None and newest != NO_TIME]
    if not ages or any(written_ns is None for written_ns, _ in times):
        return False
    if min(ages) < -_EARLY_NS:
        return True  # by another clock, at best
    if min(ages) < LONG_NS or min(ages) > _COPIED_NS:
        return False  # no one keeps a healthy job's dumps for days: their times are unknown, and that is all
    written = np.array([written_ns for written_ns, _ in times], np.int64)
    files = [(dump.rank, dump.source, dump.written_ns or 0) for dump in trace.dumps]
    if not collected and copied_in_order(files):
        return True
    return _outlived(trace, written)


def _outlived(trace: Trace, written: Ints) -> bool:
    """Whether an operation would have been open for long after its timeout, and no watchdog had given it up."""
    rows = np.flatnonzero((trace.state == State.SCHEDULED) | (trace.state == State.STARTED))
    rows = rows[(trace.timeout_ms[rows] > 0) & (trace.created_ns[rows] != NO_TIME)]
    ages = written[trace.dump[rows]] - trace.created_ns[rows]
    return bool((ages > trace.timeout_ms[rows] * 1_000_000 + _AFTER_TIMEOUT_NS).any())


def _newest(trace: Trace, *columns: Ints) -> Ints:
    newest = np.full(len(trace.dumps), NO_TIME)
    for column in columns:
        np.maximum.at(newest, trace.dump, column)
    return newest


def _taken(found_ns: int | None, written_ns: int | None, newest_ns: int) -> int:
    if newest_ns == NO_TIME:
        return NO_TIME
    if found_ns is not None:
        return max(found_ns, newest_ns)
    if written_ns is None or not newest_ns - _EARLY_NS <= written_ns <= newest_ns + _COPIED_NS:
        return NO_TIME
    return max(written_ns, newest_ns)
