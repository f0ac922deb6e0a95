"""A rank that slows down a moving job: it is regularly the last to enter, by a significant time.

How this works. Hosts' clocks differ, so each rank's clock is first corrected by the completion times of collectives
that its whole group finished, which are the same moment. A watchdog sees that moment when it next polls, up to 100 ms
later, with about the same delay each time on one rank, so the correction is no better than that. A rank's lateness in
an operation is how long after the second to last rank it entered. A rank that could not enter sooner, because it was
held in another group, is not a straggler: only operations before which it was free as early as the others count. For a
rank that uses gloo's send and recv, which leave no entry, that is never known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from torchctl.diagnosis.waits.entered import collectives, keys_of
from torchctl.flightrec.table.trace import NO_TIME, State, Trace

if TYPE_CHECKING:
    from torchctl.flightrec.table.trace import Floats, Ints

_LEAST = 8  # operations of one group before anything is called regular
_SHARE = 0.75  # of the operations, in which the same rank was last
_LEAST_MS = 2.0  # below this it is noise from clocks and schedulers
_LOOK_MS = 100.0  # between two polls of NCCL's watchdog; clocks corrected by it are no better
_PART = 0.1  # of the time from one operation to the next
_MAX_INSTANCES = 2000  # of one group; the newest


@dataclass(frozen=True, slots=True)
class Straggler:
    """One rank that is regularly late in one group; times in milliseconds."""

    rank: int
    group: int
    row: int
    count: int
    of: int
    median_ms: float
    p99_ms: float


def find_straggler(trace: Trace, one_clock: bool) -> Straggler | None:
    """Return the rank that costs the job the most time, or None if none is regularly late.

    Args:
        one_clock: all ranks are known to run on one host, so their clocks need no correction.
    """
    if not len(trace):
        return None
    rows = np.flatnonzero(collectives(trace) & (trace.state == State.DONE) & (trace.created_ns != NO_TIME))
    if not len(rows):
        return None
    best: Straggler | None = None
    order = rows[np.argsort(trace.group[rows], kind="stable")]
    groups = trace.group[order]
    bounds = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
    free = _free_since(trace)
    unseen = {dump.rank for dump in trace.dumps if dump.gaps}
    for start, end in zip(bounds, np.append(bounds[1:], len(order)), strict=True):
        found = _of_group(trace, order[start:end], one_clock, free)
        if found is None or (found.rank in unseen and trace.groups[found.group].backend == "gloo"):
            continue
        if best is None or found.median_ms * found.count > best.median_ms * best.count:
            best = found
    return best


def _free_since(trace: Trace) -> Ints:
    """Return when the rank's row before each row was done, or, if unknown, when the last rank entered that one."""
    free = np.full(len(trace), NO_TIME)
    known = trace.completed_ns.copy()
    rows = np.flatnonzero(collectives(trace) & (known == NO_TIME))
    if len(rows):
        _, instance = np.unique(keys_of(trace, rows), return_inverse=True)
        came = np.full(int(instance.max()) + 1, NO_TIME)
        np.maximum.at(came, instance, trace.created_ns[rows])
        known[rows] = came[instance]
    free[1:] = known[:-1]
    free[~trace.follows] = NO_TIME
    return free


def _of_group(trace: Trace, rows: Ints, one_clock: bool, free: Ints) -> Straggler | None:
    members = len(trace.groups[int(trace.group[rows[0]])].members)
    if members < 2:
        return None
    keys = keys_of(trace, rows)
    order = np.argsort(keys, kind="stable")
    rows, keys = rows[order], keys[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    counts = np.diff(np.append(starts, len(rows)))
    whole = starts[counts == members][-_MAX_INSTANCES:]
    if len(whole) < _LEAST:
        return None
    table = rows[whole[:, None] + np.arange(members)]  # [operations, members]; a dump's rows are in rank order
    ranks = trace.rank[table]
    if not (ranks == ranks[0]).all() or len(set(ranks[0].tolist())) != members:
        return None
    shift = _clock_shift(trace, table, one_clock)
    if shift is None:
        return None
    created = (trace.created_ns[table] - trace.created_ns[table].min()) / 1e6 - shift
    last = created.argmax(axis=1)
    ordered = np.sort(created, axis=1)
    late = ordered[:, -1] - ordered[:, -2]
    rank_at = int(np.bincount(last, minlength=members).argmax())
    mine = last == rank_at
    # Cheap checks first: they rule out nearly every group.
    least_ms = _LEAST_MS if one_clock else _LOOK_MS
    if mine.sum() < max(_LEAST, _SHARE * len(whole)) or float(np.median(late[mine])) < least_ms:
        return None
    # How long the last rank had been free, compared with the others: a rank held up elsewhere is not slow.
    since = free[table]
    held = np.where(since != NO_TIME, (trace.created_ns[table] - since) / 1e6, np.nan)
    own = held[:, rank_at]
    others = np.delete(held, rank_at, axis=1)
    told = ~np.isnan(own) & ~np.isnan(others).all(axis=1)
    free_longer = np.zeros(len(own), np.bool_)
    free_longer[told] = own[told] - np.nanmedian(others[told], axis=1) >= late[told] * 0.5
    counted = mine & free_longer
    share = counted.sum() / len(whole)
    if share < _SHARE or counted.sum() < _LEAST:
        return None
    lateness = late[counted]
    median = float(np.median(lateness))
    step = float(np.median(np.diff(created.min(axis=1)))) if len(whole) > 1 else 0.0
    if median < least_ms or median < _PART * step:
        return None
    row = int(table[-1, rank_at])
    p99 = float(np.percentile(lateness, 99))
    return Straggler(int(ranks[0, rank_at]), int(trace.group[row]), row, int(counted.sum()), len(whole), median, p99)


def _clock_shift(trace: Trace, table: Ints, one_clock: bool) -> Floats | None:
    """Return how far each rank's clock is ahead, in milliseconds; None if that cannot be determined."""
    if one_clock:
        return np.zeros(table.shape[1], np.float32)
    completed = trace.completed_ns[table]
    symmetric = np.array([operation.symmetric for operation in trace.operations])
    good = (completed != NO_TIME).all(axis=1) & symmetric[trace.operation[table]].all(axis=1)
    if int(good.sum()) < _LEAST:
        return None
    times = (completed[good] - completed[good].min()) / 1e6
    shift: Floats = np.median(times - np.median(times, axis=1, keepdims=True), axis=0)
    return shift
