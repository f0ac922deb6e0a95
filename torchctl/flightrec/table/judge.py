"""What the state of an entry means to the operator; see `protocol.recorder` for what recorders write."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from torchctl.flightrec.decoding.dump import Entry
from torchctl.protocol.recorder import COMPLETED, closes_batch, has_ended

_ACTIVE_WORDS = ("scheduled", "started", "timed out", "unknown")


class Stage(Enum):
    """The progress of an operation on this rank; the value is what the operator reads."""

    SCHEDULED = "scheduled"
    STARTED = "started"
    COMPLETED = "completed"
    RETIRED = "retired"  # gloo: finished, possibly with an error
    COMPLETED_LATE = "completed late"  # after its own timeout; an abort makes stuck operations look completed
    TIMED_OUT = "timed out"  # the watchdog gave up on it
    UNKNOWN = "unknown"

    def __init__(self, word: str) -> None:
        # Whether the operation has not finished, even if the watchdog gave up. Cached: read several times per entry.
        self.active = word in _ACTIVE_WORDS


_BatchKey = tuple[int | None, str, bool, int | None]


def judge(entries: Sequence[Entry]) -> list[Stage]:
    """Return the stage of each entry, in their order."""
    closers: dict[_BatchKey, Stage] = {}
    judged = []
    for entry in entries:
        progress = judge_alone(entry)
        judged.append(progress)
        if closes_batch(entry.profiling_name):
            closers[_batch_key(entry)] = progress
    if closers:
        for at, entry in enumerate(entries):
            if judged[at] is Stage.SCHEDULED and not closes_batch(entry.profiling_name):
                judged[at] = closers.get(_batch_key(entry), judged[at])
    return judged


def judge_alone(entry: Entry) -> Stage:
    """Return the stage of an entry judged only by its own fields."""
    completed_ns = entry.time_discovered_completed_ns
    if has_ended(entry.state, completed_ns, entry.retired, entry.profiling_name):
        if entry.state != COMPLETED and completed_ns is None:
            return Stage.RETIRED
        return Stage.COMPLETED_LATE if _over_timeout(entry) else Stage.COMPLETED
    if entry.retired:
        return Stage.TIMED_OUT
    if tells_start(entry):
        return Stage.STARTED
    return Stage.SCHEDULED if entry.state == "scheduled" else Stage.UNKNOWN


def _over_timeout(entry: Entry) -> bool:
    created, completed, timeout = entry.time_created_ns, entry.time_discovered_completed_ns, entry.timeout_ms
    if created is None or completed is None or not timeout or timeout < 0:
        return False
    return completed - created > timeout * 1_000_000


def tells_start(entry: Entry) -> bool:
    """Return whether the recorder saw the operation start on the device; many recorders never do."""
    return entry.state == "started" or entry.time_discovered_started_ns is not None


def _batch_key(entry: Entry) -> _BatchKey:
    return entry.pg_id, entry.group, entry.is_p2p, entry.seq_id
