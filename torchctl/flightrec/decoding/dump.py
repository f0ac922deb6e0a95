"""The contents of a flight-recorder dump: process groups, entries and their frames, as the recorder wrote them.

Nothing is interpreted here: `state` is the recorder's own word, and gloo leaves it at "scheduled" forever.
`table.judge` interprets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a Python stack; `line` is 0 if the recorder has no line number."""

    filename: str
    line: int
    name: str


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """One group in `pg_config`; its global ranks are None if the dump does not have them."""

    name: str
    desc: str
    ranks: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class ReportedStatus:
    """One row of `pg_status`: the process's own counters; -1 or None means that there is none.

    They count sequence ids on NCCL and `op_id` on gloo. `pg_id` is local to this rank.
    """

    pg_id: int
    last_enqueued: int | None
    last_started: int | None
    last_completed: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded operation; a field is None, "" or () if the dump does not have it.

    `record_id`, `op_id` and `pg_id` are local to one rank: never join ranks on them. Times are wall-clock
    nanoseconds on the worker's host. `frames` has the innermost call first, and is empty in JSON dumps.
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
        """The backend: "nccl" for "nccl:all_reduce"; "" if there is none."""
        backend, colon, _ = self.profiling_name.partition(":")
        return backend if colon else ""

    @property
    def operation(self) -> str:
        """The operation without its backend: "all_reduce", "send 0->1"."""
        backend, colon, operation = self.profiling_name.partition(":")
        return operation if colon else backend

    @property
    def seq_id(self) -> int | None:
        """The sequence id to join ranks on; point-to-point operations have their own counter."""
        return self.p2p_seq_id if self.is_p2p else self.collective_seq_id


@dataclass(frozen=True, slots=True)
class Dump:
    """One decoded dump of one rank.

    Args:
        source: the file or endpoint it came from.
        version: format version, such as "2.10" (which is later than "2.9"); "" if the dump has none.
        comm_lib_version: version of NCCL or its replacement; "" for gloo.
        unknown_keys: top-level keys that this reader does not know, such as a vendor's `hccl_comm_state`.
        groups: `pg_config`, in its order; if two groups share a name, torch keeps only the first.
        reported: `pg_status`, in its order.
        entries: oldest first; built on first access.
    """

    source: str
    version: str
    comm_lib_version: str
    unknown_keys: tuple[str, ...]
    groups: tuple[ProcessGroup, ...]
    reported: tuple[ReportedStatus, ...]
    entries: Sequence[Entry]
