"""Operations that an abort ended on every rank, although only some ranks ran into their own timeout.

How this works. The rank that entered an operation first waits longest, so only its entry may be over the timeout when
the job aborts them all; the other ranks' entries look completed in time. If one rank gave up on an operation, no rank
finished it, unless it was quick there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from torchctl.flightrec.table.trace import NO_TIME, State

if TYPE_CHECKING:
    from torchctl.flightrec.table.trace import Trace

_ABORT_NS = 1_000_000  # an abort ends everything in flight within about this time


def spread_aborts(trace: Trace) -> None:
    """Mark rows as LATE if they ended together with one that timed out, on other ranks or on the same rank."""
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
