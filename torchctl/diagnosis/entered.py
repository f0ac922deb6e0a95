"""Who has entered which operation: the trace as windows of sequence ids, and the operations that are open.

How this works. A ring keeps the newest entries, so for each group a rank's dump shows a window of sequence ids.
What lies before it has been entered long ago, what lies after it has not been entered when the dump was taken.
Only operations that some rank has open are looked at one by one; there are few of them in any job.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from torchctl.flightrec.trace import NO_SEQ, State, Trace

if TYPE_CHECKING:
    from torchctl.flightrec.trace import Flags, Ints

MAX_OPEN = 16  # open operations of one rank in one group that are looked at; launches may run far ahead
_SEQ_BITS = 40
OpKey = tuple[int, int]  # group, sequence id


@dataclass(slots=True)
class OpenOp:
    """One collective that some rank has open.

    Attributes:
        rows: row of each rank that has it open.
        done: ranks that have finished it.
        missing: members whose dump shows that they had not entered it.
        skipped: members who went past it without entering it.
        unknown: members without a usable dump.
    """

    group: int
    seq: int
    rows: dict[int, int]
    done: set[int] = field(default_factory=set)
    missing: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)


class Windows:
    """First and last sequence id of every rank in every group."""

    def __init__(self, trace: Trace) -> None:
        rows = collectives(trace)
        self.ranks = max([*trace.ranks, 0]) + 1
        pair = trace.group[rows].astype(np.int64) * self.ranks + trace.rank[rows]
        found, inverse = np.unique(pair, return_inverse=True)
        first = np.full(len(found), np.iinfo(np.int64).max)
        last = np.full(len(found), np.iinfo(np.int64).min)
        np.minimum.at(first, inverse, trace.seq[rows])
        np.maximum.at(last, inverse, trace.seq[rows])
        self._places = {int(number): at for at, number in enumerate(found)}
        self._first, self._last = first.tolist(), last.tolist()

    def of(self, group: int, rank: int) -> tuple[int, int] | None:
        """Return the first and last sequence id that a rank's ring shows of a group; None for nothing."""
        at = self._places.get(group * self.ranks + rank) if rank < self.ranks else None
        return None if at is None else (self._first[at], self._last[at])


def collectives(trace: Trace) -> Flags:
    """Return which rows stand for a collective of their own: no send, no member of a batch."""
    chosen: Flags = ~trace.p2p & ~trace.member & (trace.seq != NO_SEQ)
    return chosen


def open_rows(trace: Trace) -> Flags:
    """Return which rows have not come to an end of their own."""
    open_: Flags = trace.state <= State.LATE
    return open_


def keys_of(trace: Trace, rows: Ints | Flags) -> Ints:
    """Return one number per row that joins ranks: its group and its sequence id."""
    key: Ints = (trace.group[rows].astype(np.int64) << _SEQ_BITS) | (trace.seq[rows] & ((1 << _SEQ_BITS) - 1))
    return key


def find_open(trace: Trace, windows: Windows, usable: set[int], ignored: frozenset[int]) -> list[OpenOp]:
    """Return the collectives that are open somewhere, with who has entered each, oldest row first.

    Args:
        usable: ranks whose dump can show that they have not entered something.
        ignored: ranks that have moved since; what they had open is done.
    """
    whole = collectives(trace)
    rows = np.flatnonzero(whole & open_rows(trace))
    chosen: dict[OpKey, dict[int, int]] = {}
    counts: dict[tuple[int, int], int] = defaultdict(int)
    ranks, groups, seqs = trace.rank[rows].tolist(), trace.group[rows].tolist(), trace.seq[rows].tolist()
    for row, rank, group, seq in zip(rows.tolist(), ranks, groups, seqs, strict=True):
        counts[group, rank] += 1
        if rank not in ignored and counts[group, rank] <= MAX_OPEN:
            chosen.setdefault((group, seq), {})[rank] = row
    ops = {key: OpenOp(*key, open_at) for key, open_at in chosen.items()}
    _add_done(trace, ops, whole)
    for op in ops.values():
        _add_missing(op, trace.groups[op.group].members, windows, usable)
    return list(ops.values())


def _add_done(trace: Trace, ops: dict[OpKey, OpenOp], whole: Flags) -> None:
    if not ops:
        return
    wanted = np.array(sorted((group << _SEQ_BITS) | (seq & ((1 << _SEQ_BITS) - 1)) for group, seq in ops))
    rows = np.flatnonzero(whole & (trace.state > State.LATE))
    keys = keys_of(trace, rows)
    at = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    for row in rows[wanted[at] == keys].tolist():
        op = ops.get((int(trace.group[row]), int(trace.seq[row])))
        if op is not None and int(trace.rank[row]) not in op.rows:
            op.done.add(int(trace.rank[row]))


def _add_missing(op: OpenOp, members: Sequence[int], windows: Windows, usable: set[int]) -> None:
    for rank in members:
        if rank in op.rows or rank in op.done:
            continue
        if rank not in usable:
            op.unknown.append(rank)
            continue
        window = windows.of(op.group, rank)
        if window is None or window[1] < op.seq:
            op.missing.append(rank)
        elif window[0] > op.seq:
            op.done.add(rank)
        else:
            op.skipped.append(rank)
