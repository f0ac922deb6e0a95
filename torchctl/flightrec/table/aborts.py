"""Operations that an abort has ended on every rank, of which only some ran into their own timeout.

How this works. The rank that came first to an operation waits longest, so its entry alone may be over the timeout when
the job aborts all of them; the others' entries look completed within theirs. An operation that one rank has given up
was finished by none, unless it was quick there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from torchctl.flightrec.table.trace import NO_TIME, State

if TYPE_CHECKING:
    from torchctl.flightrec.table.trace import Trace

_ABORT_NS = 1_000_000  # an abort ends everything that is in flight within about this time


def spread_aborts(trace: Trace) -> None:
    """Mark rows as LATE that were ended with one that timed out: on other ranks, and beside it on each rank."""
    given_up = (trace.state == State.LATE) | (trace.state == State.TIMED_OUT)
    if not given_up.any():
        return
    keys = (trace.group.astype(np.int64) << 40 | (trace.seq & ((1 << 40) - 1))) * 2 + trace.p2p
    same = np.isin(keys, np.unique(keys[given_up]))
    timed = (trace.created_ns != NO_TIME) & (trace.completed_ns != NO_TIME)
    timed &= (trace.timeout_ms > 0) & (trace.timeout_ms < 1 << 40)
    rows = np.flatnonzero(same & timed & (trace.state == State.DONE))
    slow = trace.completed_ns[rows] - trace.created_ns[rows] > trace.timeout_ms[rows] * 500_000  # half of it
    trace.state[rows[slow]] = State.LATE
    late = np.flatnonzero(trace.state == State.LATE)
    if not len(late):
        return
    moment = np.full(len(trace.dumps), np.iinfo(np.int64).max)
    np.minimum.at(moment, trace.dump[late], trace.completed_ns[late])
    at = moment[trace.dump]
    beside = timed & (trace.state == State.DONE) & (trace.created_ns < at) & (trace.completed_ns >= at - _ABORT_NS)
    trace.state[beside] = State.LATE
