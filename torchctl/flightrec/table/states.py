"""The state of each row in the table: the rules of `protocol.recorder` and `judge`, applied to whole columns.

A job's table has millions of rows, and calling a function for each would take seconds. A test compares both versions
of the rules on every combination of fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from torchctl.flightrec.table.pieces import OTHER_WORD, WORDS
from torchctl.flightrec.table.trace import NO_TIME, State

if TYPE_CHECKING:
    from torchctl.flightrec.table.trace import Bytes, Flags, Ints


def states_of(
    word: Bytes, retired: Flags, gloo: Flags, created_ns: Ints, started_ns: Ints, completed_ns: Ints, timeout_ms: Ints
) -> Bytes:
    """Return the `State` of each row, judged only by its own fields."""
    completed = (word == WORDS["completed"]) | (completed_ns != NO_TIME)
    timed = (created_ns > 0) & (completed_ns != NO_TIME) & (timeout_ms > 0) & (timeout_ms < 1 << 40)
    late = np.zeros(len(word), np.bool_)
    late[timed] = completed_ns[timed] - created_ns[timed] > timeout_ms[timed] * 1_000_000
    state = np.full(len(word), int(State.SCHEDULED), np.int8)
    state[word == OTHER_WORD] = State.UNKNOWN
    state[(word == WORDS["started"]) | (started_ns != NO_TIME)] = State.STARTED
    state[retired] = State.TIMED_OUT
    state[retired & gloo] = State.DONE
    state[completed] = State.DONE
    state[late] = State.LATE
    return state
