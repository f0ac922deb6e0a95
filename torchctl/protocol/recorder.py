"""When an entry of a flight recorder has ended: what a worker's digest may leave out, and the reader takes for done.

Recorders write the same words for different things. NCCL's recorder moves an entry from scheduled (to started, with
timing on) to completed, and retires it when the watchdog lets go of it: retired but not completed is an operation that
timed out. Gloo's entries stay scheduled forever, and retired says that they are done, or done with an error. Members
of a coalesced batch are never updated: the entry that closes the batch carries their state.

Source: torch/csrc/distributed/c10d/FlightRecorder.hpp and ProcessGroupGloo.cpp (torch 2.13).
"""

from __future__ import annotations

COMPLETED = "completed"  # the recorder's own word

_GLOO = "gloo:"
_BATCH_END = "coalesced"


def has_ended(state: object, completed_ns: int | None, retired: bool | None, profiling_name: str) -> bool:
    """Whether an entry's operation has finished; what a watchdog has given up has not.

    Args:
        state: the recorder's word.
        completed_ns: when the completion was seen; unset is None in pickle and 0 in JSON.
    """
    return state == COMPLETED or bool(completed_ns) or (bool(retired) and profiling_name.startswith(_GLOO))


def closes_batch(name: str) -> bool:
    """Whether an operation, with or without its backend, ends a coalesced batch and speaks for its members."""
    return name.endswith(_BATCH_END)
