"""Operations that have failed: gloo marks them done, though a member never entered them.

How this works. No rank finishes an all_reduce before every member has entered it. So if others show one as done that
a rank's dump does not show, either that dump is older than theirs, or the operation failed on them: a peer died, or
a timeout passed. It failed if two looks show that none of them has moved since, or that those without it have not moved
while the others are several operations further; or if the dump without it was written so long after the others entered
it that clock skew cannot explain it. NCCL marks a failed operation as late, so this
concerns gloo alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from torchctl.diagnosis.waits.waiting import OpenOp
from torchctl.flightrec.table.trace import NO_TIME, State, Trace

if TYPE_CHECKING:
    from torchctl.flightrec.table.trace import Ints

Window = Callable[[int, int], tuple[int, int] | None]  # from a group's number and a rank
_LEAD = 3  # operations: a rank that has just come to life does not pass so many between two answers
_APART_NS = 180_000_000_000  # synchronized clocks of two hosts differ by less


def failed_operations(trace: Trace, window: Window, taken_ns: Ints, moved: frozenset[int] | None) -> list[OpenOp]:
    """Return the failed operations, each with the ranks on which it failed in `rows` and those absent in `missing`.

    Args:
        window: returns the first and last sequence id of a group that a rank shows.
        taken_ns: when each dump was taken, [dumps]; NO_TIME if unknown.
        moved: ranks that have moved between two looks; None after only one look.
    """
    return [op for number in range(len(trace.groups)) for op in _of_group(trace, window, taken_ns, moved, number)]


def _of_group(
    trace: Trace, window: Window, taken_ns: Ints, moved: frozenset[int] | None, number: int
) -> Iterator[OpenOp]:
    group = trace.groups[number]
    if group.backend != "gloo":
        return
    last = _last(trace, window, number)
    for seq, absent, rows in _lacking(trace, last, number):
        ranks = {*rows, *absent}
        if moved is not None:
            leads = max(last.values()) - (seq - 1) >= _LEAD
            proven = ranks.isdisjoint(moved) or (leads and moved.isdisjoint(absent))
        else:
            proven = all(_written_later(trace, taken_ns, rank, list(rows.values())) for rank in absent)
        if proven:
            yield OpenOp(number, seq, rows, missing=absent)


def left_behind(trace: Trace, window: Window, moved: frozenset[int]) -> list[int]:
    """Return the ranks that have not moved and have not entered what others of a group have finished."""
    groups = [number for number, group in enumerate(trace.groups) if group.backend == "gloo"]
    found = (absent for number in groups for _, absent, _ in _lacking(trace, _last(trace, window, number), number))
    return sorted({rank for ranks in found for rank in ranks} - moved)


def _last(trace: Trace, window: Window, number: int) -> dict[int, int]:
    """Return the last sequence id of a group that each member shows."""
    members = trace.groups[number].members
    return {rank: bounds[1] for rank in members if (bounds := window(number, rank)) is not None}


def _lacking(trace: Trace, last: dict[int, int], number: int) -> Iterator[tuple[int, list[int], dict[int, int]]]:
    """Yield each sequence id that some ranks' dumps end before, those ranks, and the rows of others that are done."""
    for seq in sorted({end + 1 for end in last.values() if end < max(last.values())}):
        if rows := _done_rows(trace, number, seq):
            yield seq, [rank for rank, end in last.items() if end == seq - 1], rows


def _done_rows(trace: Trace, group: int, seq: int) -> dict[int, int]:
    """Return the row of each rank that shows a symmetric operation as done."""
    rows = np.flatnonzero((trace.group == group) & (trace.seq == seq) & trace.collectives())
    rows = rows[trace.state[rows] == State.DONE]
    if not all(trace.operations[number].symmetric for number in trace.operation[rows].tolist()):
        return {}
    return dict(zip(trace.rank[rows].tolist(), rows.tolist(), strict=True))


def _written_later(trace: Trace, taken_ns: Ints, rank: int, rows: list[int]) -> bool:
    """Whether all dumps of a rank were taken long after others entered an operation."""
    entered = trace.created_ns[rows]
    dumps = [number for number, dump in enumerate(trace.dumps) if dump.rank == rank]
    if not len(entered) or not dumps or (entered == NO_TIME).any():
        return False
    return all(taken_ns[number] != NO_TIME and taken_ns[number] - entered.max() > _APART_NS for number in dumps)
