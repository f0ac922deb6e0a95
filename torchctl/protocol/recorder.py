"""Decides when a flight-recorder entry has ended: a worker's digest may omit it, and the reader treats it as done.

Recorders use the same words for different things. NCCL's recorder moves an entry from scheduled (to started, if timing
is on) to completed, and retires it when the watchdog releases it: retired but not completed means that the operation
timed out. Gloo's entries stay scheduled forever, and retired means that they finished, perhaps with an error. Members
of a coalesced batch are never updated: the entry that closes the batch carries their state.

Source: torch/csrc/distributed/c10d/FlightRecorder.hpp and ProcessGroupGloo.cpp (torch 2.13).
"""

from __future__ import annotations

COMPLETED = "completed"  # the recorder's own word

_GLOO = "gloo:"
_BATCH_END = "coalesced"


def has_ended(state: object, completed_ns: int | None, retired: bool | None, profiling_name: str) -> bool:
    """Whether an entry's operation has finished; one that a watchdog gave up on has not.

    Args:
        state: the recorder's word.
        completed_ns: when completion was seen; if unset, None in pickle and 0 in JSON.
    """
    return state == COMPLETED or bool(completed_ns) or (bool(retired) and profiling_name.startswith(_GLOO))


def closes_batch(name: str) -> bool:
    """Whether an operation's name, with or without its backend, marks the entry that closes a coalesced batch."""
    return name.endswith(_BATCH_END)
