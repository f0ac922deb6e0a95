"""All entries of a job as one table of columns, and the process groups they belong to.

How this works. Every entry of every rank is one row; the rows of one dump are contiguous, oldest first. A
column is a NumPy array over all rows; text, sizes and stacks are indices into tables that hold each of them once.
Ranks are joined on (group, sequence id) only: a group is its name together with its member set, and the
recorder's own counters (record_id, op_id, pg_id) are never compared between ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from torchctl.flightrec.table.operations import Operation, Signature

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from torchctl.flightrec.decoding.dump import Dump, Frame, ProcessGroup, ReportedStatus
    from torchctl.flightrec.decoding.raw import Failure

    Ints = npt.NDArray[np.int64]
    SmallInts = npt.NDArray[np.int32]
    Floats = npt.NDArray[np.float32]
    Flags = npt.NDArray[np.bool_]
    Bytes = npt.NDArray[np.int8]

NO_TIME = -(2**63)
NO_SEQ = -(2**63)
NO_RANK = -1


class State(IntEnum):
    """How far an operation has got on one rank, whatever words the recorder uses."""

    SCHEDULED = 0
    STARTED = 1
    TIMED_OUT = 2  # given up by the watchdog
    LATE = 3  # completed after its own timeout, or with one that was: an abort makes stuck operations look so
    DONE = 4
    UNKNOWN = 5

    @property
    def open(self) -> bool:
        """Whether it has not ended by itself."""
        return self in (State.SCHEDULED, State.STARTED, State.TIMED_OUT, State.LATE)


@dataclass(frozen=True, slots=True)
class DumpInfo:
    """One dump of the job.

    Attributes:
        rank: global rank; NO_RANK if it is not known, which only `load(..., every=True)` gives.
        first_row, rows: its part of the table.
        wrapped: its ring may have lost its oldest entries, or it is a digest, which leaves some out.
        gaps: its counter of all operations is ahead of that of collectives: gloo has sends and receives that it
            does not record.
        groups, reported: its `pg_config` and `pg_status`.
        answered_ns: when a live worker sent it, by our clock; None for a file.
        written_ns: when the file was last written.
        taken_ns: when the dump was taken, by the clock of its host; None if it does not tell.
        comm_lib_version, unknown_keys: as in `Dump`.
    """

    source: str
    rank: int
    version: str
    first_row: int
    rows: int
    wrapped: bool
    gaps: bool = False
    groups: tuple[ProcessGroup, ...] = ()
    reported: tuple[ReportedStatus, ...] = ()
    answered_ns: int | None = None
    written_ns: int | None = None
    taken_ns: int | None = None
    comm_lib_version: str = ""
    unknown_keys: tuple[str, ...] = ()


@dataclass(slots=True)
class Group:
    """One process group: its name and its members.

    Attributes:
        members: global ranks in order; the group's local rank is the index.
        known: the dumps state the members; else they are those seen in it.
        size: how many members it has, if the sizes of its operations show it; else None.
        epoch: 0 for the newest group of this name, -1 for the one before it and so on.
    """

    name: str
    desc: str
    backend: str
    members: tuple[int, ...]
    known: bool
    size: int | None = None
    epoch: int = 0

    @property
    def default(self) -> bool:
        """Whether it is the group of all ranks, by torch's own description of it."""
        return self.desc == "default_pg" or (self.name == "0" and self.desc in ("", "default", "undefined"))

    @property
    def unseen(self) -> int:
        """How many members have not appeared anywhere."""
        return max(0, (self.size or 0) - len(self.members))


@dataclass(frozen=True, slots=True)
class Recorded:
    """What recorders wrote, including their own counters and words: the table keeps only what ranks are compared by.

    Attributes:
        dumps: as `Trace.dumps`, in that order.
    """

    dumps: list[Dump]


@dataclass(slots=True)
class Trace:
    """The entries of all ranks.

    Attributes:
        dumps: one per file or answer; a rank may have two, one of each recorder.
        groups: process groups, by the number that `group` has.
        bad: files that could not be used, and why.
        world_size: as the dumps state it, None if they do not.
        rank, dump, group: which rank, dump and group a row belongs to, [rows] int32.
        seq: sequence id, of the point-to-point counter where `p2p`; NO_SEQ if there is none.
        operation, signature, stack: numbers in `operations`, `signatures` and `stacks`.
        call: number in `calls`: recorder's own name with sizes and types, for showing.
        state: of class State.
        created_ns, started_ns, completed_ns: by the clock of the rank's host; NO_TIME if not known.
        member: the row belongs to a coalesced batch that another row closes.
        follows: the row above it is what its rank recorded just before.
        notes: dumps that were ignored, and why.
        local_ids: by rank and group, a dump and that rank's own number of the group: what `pg_status` is keyed by.
        former: ranks of which a dump of an earlier run was ignored.
        doubts: what could not be determined about the groups; open rows of those are UNKNOWN and prove nothing.
        recorded: what the recorders wrote besides; None unless loaded with `every=True`.
    """

    dumps: list[DumpInfo]
    groups: list[Group]
    bad: list[Failure]
    world_size: int | None
    rank: SmallInts
    dump: SmallInts
    group: SmallInts
    seq: Ints
    p2p: Flags
    operation: SmallInts
    signature: SmallInts
    call: SmallInts
    stack: SmallInts
    state: Bytes
    member: Flags
    follows: Flags
    created_ns: Ints
    started_ns: Ints
    completed_ns: Ints
    timeout_ms: Ints
    operations: list[Operation]
    signatures: list[Signature]
    calls: list[Call]
    stack_rows: list[tuple[int, ...]]
    frames: list[tuple[str, int, str]]
    notes: list[str] = field(default_factory=list)
    former: frozenset[int] = frozenset()
    local_ids: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    recorded: Recorded | None = None

    def __len__(self) -> int:
        return len(self.seq)

    @property
    def ranks(self) -> list[int]:
        """The ranks with a usable dump, sorted."""
        return sorted({dump.rank for dump in self.dumps} - {NO_RANK})

    def collectives(self) -> Flags:
        """Return which rows stand for a collective of their own: no send, no member of a batch."""
        chosen: Flags = ~self.p2p & ~self.member & (self.seq != NO_SEQ)
        return chosen

    def status_of(self, rank: int, group: int) -> ReportedStatus | None:
        """Return what a rank's own counters say of a group; None if no dump has them. On gloo they count otherwise."""
        at, pg_id = self.local_ids.get((rank, group), (0, None))
        return next((one for one in self.dumps[at].reported if one.pg_id == pg_id), None) if pg_id is not None else None

    def stack_of(self, row: int) -> tuple[Frame, ...]:
        """Return the Python stack of one row, innermost call first; () if the dump has none."""
        from torchctl.flightrec.decoding.dump import Frame

        return tuple(Frame(*self.frames[number]) for number in self.stack_rows[int(self.stack[row])])

    def call_of(self, row: int) -> Call:
        """Return the operation of one row as it was recorded."""
        return self.calls[int(self.call[row])]


@dataclass(frozen=True, slots=True)
class Call:
    """An operation as one rank recorded it."""

    profiling_name: str
    input_sizes: tuple[tuple[int, ...], ...]
    output_sizes: tuple[tuple[int, ...], ...]
    input_dtypes: tuple[str, ...]
    output_dtypes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Without its backend: "all_reduce"."""
        return self.profiling_name.partition(":")[2] or self.profiling_name

    @property
    def dtype(self) -> str:
        """The element types, each once."""
        return ",".join(dict.fromkeys([*self.input_dtypes, *self.output_dtypes]))


def dumps_of(trace: Trace) -> list[Dump]:
    """Return every dump of a trace as it was recorded, in the order of `trace.dumps`.

    Args:
        trace: loaded with `every=True`.

    Raises:
        ValueError: it was not.
    """
    if trace.recorded is None:
        raise ValueError("the trace was not loaded with every=True")
    return list(trace.recorded.dumps)


def empty_columns() -> dict[str, Any]:
    """Return the columns of a trace without rows."""
    import numpy as np

    small = {
        name: np.zeros(0, np.int32) for name in ("rank", "dump", "group", "operation", "signature", "call", "stack")
    }
    times = {name: np.zeros(0, np.int64) for name in ("seq", "created_ns", "started_ns", "completed_ns", "timeout_ms")}
    flags = {name: np.zeros(0, np.bool_) for name in ("p2p", "member", "follows")}
    return {**small, **times, **flags, "state": np.zeros(0, np.int8)}
