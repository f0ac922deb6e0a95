"""What a flight-recorder dump holds: process groups, entries and their frames, as the recorder wrote them.

Nothing is judged here: `state` is the recorder's own word, which gloo never moves from "scheduled". What it
means is said in `table.judge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """One call of a Python stack; `line` is 0 if the recorder has none."""

    filename: str
    line: int
    name: str


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """One group of `pg_config`: its global ranks, None if the dump does not say."""

    name: str
    desc: str
    ranks: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class ReportedStatus:
    """One row of `pg_status`: the counters that the process itself reports, -1 or None for none.

    They count sequence ids on NCCL and `op_id` on gloo. `pg_id` is a number of this rank alone.
    """

    pg_id: int
    last_enqueued: int | None
    last_started: int | None
    last_completed: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded operation; None, "" or () if the dump does not say.

    `record_id`, `op_id` and `pg_id` are counters of one rank: never join ranks on them. Times are wall-clock
    nanoseconds of the worker's host. `frames` has the innermost call first, and is empty in JSON dumps.
    """

    record_id: int | None
    pg_id: int | None
    group: str
    group_desc: str
    collective_seq_id: int | None
    p2p_seq_id: int | None
    op_id: int | None
    profiling_name: str
    state: str
    retired: bool | None
    is_p2p: bool
    time_created_ns: int | None
    time_discovered_started_ns: int | None
    time_discovered_completed_ns: int | None
    duration_ms: float | None
    timeout_ms: int | None
    input_sizes: tuple[tuple[int, ...], ...]
    input_dtypes: tuple[str, ...]
    output_sizes: tuple[tuple[int, ...], ...]
    output_dtypes: tuple[str, ...]
    thread_id: str
    thread_name: str
    frames: tuple[Frame, ...]

    @property
    def backend(self) -> str:
        """The recorder's backend: "nccl" of "nccl:all_reduce"; "" when there is none."""
        backend, colon, _ = self.profiling_name.partition(":")
        return backend if colon else ""

    @property
    def operation(self) -> str:
        """The operation without its backend: "all_reduce", "send 0->1"."""
        backend, colon, operation = self.profiling_name.partition(":")
        return operation if colon else backend

    @property
    def seq_id(self) -> int | None:
        """The sequence id that joins ranks: point-to-point operations have a counter of their own."""
        return self.p2p_seq_id if self.is_p2p else self.collective_seq_id


@dataclass(frozen=True, slots=True)
class Dump:
    """One decoded dump of one rank.

    Args:
        source: the file or endpoint it came from.
        version: format version, "2.10", which is later than "2.9"; "" when the dump does not say.
        comm_lib_version: of NCCL or what replaces it; "" for gloo.
        unknown_keys: top-level keys that this reader does not know, such as a vendor's `hccl_comm_state`.
        groups: `pg_config`, in its order; of two groups with one name torch keeps the first.
        reported: `pg_status`, in its order.
        entries: oldest first; built when asked for.
    """

    source: str
    version: str
    comm_lib_version: str
    unknown_keys: tuple[str, ...]
    groups: tuple[ProcessGroup, ...]
    reported: tuple[ReportedStatus, ...]
    entries: Sequence[Entry]
