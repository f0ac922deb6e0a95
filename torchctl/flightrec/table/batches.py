"""Coalesced batches: the closing row carries the state of its members, whose own state never changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from torchctl.flightrec.table.trace import State

if TYPE_CHECKING:
    from torchctl.flightrec.table.trace import Bytes, Flags, Ints, SmallInts


def close_batches(
    local: SmallInts, collective: Ints, point: Ints, p2p: Flags, ends: Flags, state: Bytes, member: Flags
) -> None:
    """Mark the members of every batch, and give them the state of the row that closes it.

    A batch is a run of rows in one group on one rank that share a sequence id (the point-to-point one for
    sends and receives), up to a closing row. The closing row of a batch of sends and receives becomes a
    point-to-point row, because it does not advance the collective counter.

    Args:
        local: each row's group number, local to its rank.
        collective, point: the two sequence ids.
        p2p, state, member: changed in place.
    """
    order = np.argsort(local, kind="stable")
    groups, closes = local[order], ends[order]
    point_to_point = p2p[order]
    before = np.zeros(len(order), np.bool_)
    before[1:] = (groups[1:] == groups[:-1]) & point_to_point[:-1] & ~closes[:-1]
    of_sends = closes & before & (point[order] == np.roll(point[order], 1))
    point_to_point |= of_sends
    seq = np.where(point_to_point, point[order], collective[order])
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = (
        (groups[1:] != groups[:-1])
        | (seq[1:] != seq[:-1])
        | (point_to_point[1:] != point_to_point[:-1])
        | closes[:-1]  # the row after a closing one starts a new run
    )
    starts = np.flatnonzero(fresh)
    run = np.cumsum(fresh) - 1
    last = np.append(starts[1:], len(order)) - 1
    closed = closes[last][run] & ~closes
    closers = last[run]
    p2p[order] = point_to_point
    member[order] = closed
    states = state[order]
    waiting = closed & ((states == State.SCHEDULED) | (states == State.STARTED))
    states[waiting] = states[closers[waiting]]
    state[order] = states
