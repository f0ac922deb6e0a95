"""Who has entered which operation: the trace as windows of sequence ids, and the operations that are open.

How this works. A ring keeps the newest entries, so for each group a rank's dump shows a window of sequence ids.
Anything before it was entered long ago; anything after it had not been entered when the dump was taken. Only
operations that some rank has open are examined one by one; any job has few of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from torchctl.diagnosis.waits.waiting import OpenOp
from torchctl.flightrec.table.trace import State, Trace

if TYPE_CHECKING:
    from torchctl.flightrec.table.trace import Flags, Ints

MAX_OPEN = 16  # open operations to examine for one rank in one group; launches run far ahead
_SEQ_BITS = 40
_LEAST_SEQ = -(2**63)
OpKey = tuple[int, int]  # group, sequence id


class Windows:
    """First and last sequence id of every rank in every group, and what every member must have entered."""

    def __init__(self, trace: Trace) -> None:
        rows = np.flatnonzero(collectives(trace))
        seqs = trace.seq[rows]
        self.ranks = max([*trace.ranks, 0]) + 1
        # Only pairs that occur: all groups times all ranks is 30 million in a job of 16,384 ranks.
        found, self._pair = np.unique(trace.group[rows].astype(np.int64) * self.ranks + trace.rank[rows], False, True)
        self._first, self._last = _extremes(seqs, self._pair, len(found))
        self._groups = found // self.ranks
        self._places = dict(zip(found.tolist(), range(len(found)), strict=True))
        self._bounds = list(zip(self._first.tolist(), self._last.tolist(), strict=True))
        self._rows, self._trace = rows, trace
        self._recorders = _recorders(trace)
        self._whole = {dump.rank for dump in trace.dumps} - {dump.rank for dump in trace.dumps if dump.wrapped}

    def of(self, group: int, rank: int) -> tuple[int, int] | None:
        """Return the first and last sequence id of a group in a rank's ring; None if it shows none."""
        at = self._places.get(group * self.ranks + rank) if rank < self.ranks else None
        return None if at is None else self._bounds[at]

    def enqueued(self, group: int, rank: int) -> int:
        """Return the last sequence id of a group that a rank launched, by its own counters; `_LEAST_SEQ` if unknown.

        Gloo's counters are not used, because they also count sends and receives.
        """
        status = None if self._trace.groups[group].backend == "gloo" else self._trace.status_of(rank, group)
        if status is None or status.last_enqueued is None or status.last_completed is None:
            return _LEAST_SEQ
        return status.last_enqueued

    def shows(self, group: int, rank: int) -> bool:
        """Whether a rank's dumps are from the recorder of a group's operations; an empty dump may be from any."""
        recorders = self._recorders.get(rank)
        return recorders is None or self._trace.groups[group].backend in recorders

    def lost(self, group: int, rank: int, seq: int) -> bool:
        """Whether a rank may have been in an operation that its dump lost: it shows none, or only later ones."""
        window = self.of(group, rank)
        if window is None:
            return rank not in self._whole
        return window[0] > seq

    def proven_entered(self) -> dict[int, int]:
        """Return, for each group, the last sequence id that every member must have entered, because a rank finished it.

        No rank finishes an all_reduce or the like before all have entered. Gloo also retires entries that failed, so
        there the proof is that the rank went on in the group.
        """
        trace, rows = self._trace, self._rows
        symmetric = np.array([operation.symmetric for operation in trace.operations] or [False])
        done = (trace.state[rows] == State.DONE) & symmetric[trace.operation[rows]]
        if not done.any():
            return {}
        finished = _extremes(trace.seq[rows][done], self._pair[done], len(self._groups))[1]
        gloo = np.array([group.backend == "gloo" for group in trace.groups])[self._groups]
        known = finished > _LEAST_SEQ
        finished[known & gloo & (self._last <= finished)] -= 1
        known &= finished >= self._first
        proven: dict[int, int] = {}
        for group, seq in zip(self._groups[known].tolist(), finished[known].tolist(), strict=True):
            if seq > proven.get(group, _LEAST_SEQ):
                proven[group] = seq
        return proven


def _recorders(trace: Trace) -> dict[int, set[str]]:
    """Return the backends that each rank's dumps can show: backends that occur together in a dump share a recorder.

    A rank with an empty dump is left out.
    """
    of_rank: dict[int, set[str]] = {}
    of_dump: dict[int, set[str]] = {}
    if len({group.backend for group in trace.groups}) > 1:  # else every dump is from the same recorder
        pairs = np.unique(trace.dump.astype(np.int64) * len(trace.groups) + trace.group)
        for dump, group in zip(
            (pairs // len(trace.groups)).tolist(), (pairs % len(trace.groups)).tolist(), strict=True
        ):
            of_dump.setdefault(dump, set()).add(trace.groups[group].backend)
    together = {frozenset(backends) for backends in of_dump.values()}
    for dump, backends in of_dump.items():
        shown = of_rank.setdefault(trace.dumps[dump].rank, set())
        shown.update(*(others for others in together if others & backends))
    for info in trace.dumps:
        if not info.rows:
            of_rank.pop(info.rank, None)
    return of_rank


def _extremes(values: Ints, place: Ints, count: int) -> tuple[Ints, Ints]:
    """Return the smallest and the largest value for each place."""
    least, most = np.full(count, np.iinfo(np.int64).max), np.full(count, _LEAST_SEQ)
    np.minimum.at(least, place, values)
    np.maximum.at(most, place, values)
    return least, most


def collectives(trace: Trace) -> Flags:
    """Return which rows are collectives, not sends, receives or members of a batch."""
    return trace.collectives()


def open_rows(trace: Trace) -> Flags:
    """Return which rows have not completed on their own."""
    open_: Flags = trace.state <= State.LATE
    return open_


def keys_of(trace: Trace, rows: Ints | Flags) -> Ints:
    """Return one key per row, equal across ranks: its group and its sequence id."""
    key: Ints = (trace.group[rows].astype(np.int64) << _SEQ_BITS) | (trace.seq[rows] & ((1 << _SEQ_BITS) - 1))
    return key


def find_open(trace: Trace, windows: Windows, usable: frozenset[int], ignored: frozenset[int]) -> list[OpenOp]:
    """Return the collectives that any rank has open, with the ranks that entered each, oldest row first.

    Args:
        usable: ranks whose dump can show that they have not entered something.
        ignored: ranks that have moved since; what they had open is done.
    """
    whole = collectives(trace)
    rows = np.flatnonzero(whole & open_rows(trace))
    if ignored:
        rows = rows[~np.isin(trace.rank[rows], sorted(ignored))]
    counts: dict[tuple[int, int], int] = defaultdict(int)
    looked_at: set[OpKey] = set()
    triples = list(zip(trace.group[rows].tolist(), trace.seq[rows].tolist(), trace.rank[rows].tolist(), strict=True))
    for group, seq, rank in triples:
        counts[group, rank] += 1
        if counts[group, rank] <= MAX_OPEN:
            looked_at.add((group, seq))
    chosen: dict[OpKey, dict[int, int]] = {}
    for row, (group, seq, rank) in zip(rows.tolist(), triples, strict=True):
        if (group, seq) in looked_at:  # a rank that has it open is in it, however many earlier ones it has open
            chosen.setdefault((group, seq), {})[rank] = row
    ops = {key: OpenOp(*key, open_at) for key, open_at in chosen.items()}
    _add_done(trace, ops, whole, ignored)
    for op in ops.values():
        _add_missing(op, trace.groups[op.group].members, windows, usable)
    return list(ops.values())


def _add_done(trace: Trace, ops: dict[OpKey, OpenOp], whole: Flags, ignored: frozenset[int]) -> None:
    if not ops:
        return
    ended = trace.state > State.LATE
    if ignored:
        ended |= np.isin(trace.rank, sorted(ignored))
    wanted = np.array(sorted((group << _SEQ_BITS) | (seq & ((1 << _SEQ_BITS) - 1)) for group, seq in ops))
    rows = np.flatnonzero(whole & ended)
    keys = keys_of(trace, rows)
    at = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    for row in rows[wanted[at] == keys].tolist():
        op = ops.get((int(trace.group[row]), int(trace.seq[row])))
        if op is not None and int(trace.rank[row]) not in op.rows:
            op.done.add(int(trace.rank[row]))


def _add_missing(op: OpenOp, members: Sequence[int], windows: Windows, usable: frozenset[int]) -> None:
    for rank in members:
        if rank in op.rows or rank in op.done:
            continue
        if rank not in usable or not windows.shows(op.group, rank):
            op.unknown.append(rank)
            continue
        window = windows.of(op.group, rank)
        if window is None or window[1] < op.seq:
            if windows.enqueued(op.group, rank) < op.seq:  # else it launched it while the dump was taken
                op.missing.append(rank)
        elif window[0] > op.seq:
            op.done.add(rank)
        else:
            op.skipped.append(rank)
