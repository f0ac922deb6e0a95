"""All entries of a job as one table of columns, and the process groups they belong to.

How this works. Every entry of every rank is one row; the rows of one dump are contiguous, oldest first. A
column is a NumPy array over all rows; text, sizes and stacks are indices into tables that hold each value once.
Ranks are joined only on (group, sequence id): a group is its name together with its member set, and the
recorder's local counters (record_id, op_id, pg_id) are never compared between ranks.
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
    """The progress of an operation on one rank, whatever words the recorder uses."""

    SCHEDULED = 0
    STARTED = 1
    TIMED_OUT = 2  # the watchdog gave up on it
    LATE = 3  # completed after its timeout, or along with one that was; an abort makes stuck operations look completed
    DONE = 4
    UNKNOWN = 5

    @property
    def open(self) -> bool:
        """Return whether the operation has not finished by itself."""
        return self in (State.SCHEDULED, State.STARTED, State.TIMED_OUT, State.LATE)


@dataclass(frozen=True, slots=True)
class DumpInfo:
    """One dump of the job.

    Attributes:
        rank: global rank; NO_RANK if it is not known, which happens only with `load(..., every=True)`.
        first_row, rows: its part of the table.
        wrapped: its ring may have lost its oldest entries, or it is a digest, which omits some.
        gaps: its counter of all operations is ahead of its counter of collectives: gloo counts sends and receives
            but does not record them.
        groups, reported: its `pg_config` and `pg_status`.
        answered_ns: when a live worker sent it, by our clock; None for a file.
        written_ns: when the file was last written.
        taken_ns: when the dump was taken, by its host's clock; None if unknown.
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
        members: global ranks in order; the index is the group-local rank.
        known: whether the dumps list the members; if not, they are the ranks seen in it.
        size: how many members it has, if the sizes of its operations show it; else None.
        epoch: 0 for the newest group with this name, -1 for the one before it, and so on.
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
        """Return whether torch describes it as the default group, the group of all ranks."""
        return self.desc == "default_pg" or (self.name == "0" and self.desc in ("", "default", "undefined"))

    @property
    def unseen(self) -> int:
        """Return how many members have not appeared anywhere."""
        return max(0, (self.size or 0) - len(self.members))


@dataclass(frozen=True, slots=True)
class Recorded:
    """Everything that the recorders wrote, including local counters; the table keeps only what ranks are compared by.

    Attributes:
        dumps: parallel to `Trace.dumps`.
    """

    dumps: list[Dump]


@dataclass(slots=True)
class Trace:
    """The entries of all ranks.

    Attributes:
        dumps: one per file or answer; a rank may have two, one from each recorder.
        groups: process groups, indexed by `group`.
        bad: files that could not be used, and why.
        world_size: according to the dumps; None if they do not have it.
        rank, dump, group: which rank, dump and group a row belongs to, [rows] int32.
        seq: sequence id (the point-to-point counter if `p2p`); NO_SEQ if there is none.
        operation, signature, stack: indices into `operations`, `signatures` and `stacks`.
        call: index into `calls`: the recorder's own name with sizes and types, for display.
        state: a `State`.
        created_ns, started_ns, completed_ns: by the clock of the rank's host; NO_TIME if not known.
        member: the row belongs to a coalesced batch that another row closes.
        follows: the rank recorded the row above it just before this one.
        notes: dumps that were ignored, and why.
        local_ids: (dump, the rank's local number of the group) by rank and group; `pg_status` is keyed by that number.
        former: ranks for which a dump from an earlier run was ignored.
        moved: ranks that moved between two sets of dumps; None if there is only one set.
        doubts: what could not be determined about the groups; their open rows are UNKNOWN and prove nothing.
        recorded: everything else that the recorders wrote; None unless loaded with `every=True`.
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
    moved: frozenset[int] | None = None
    local_ids: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    recorded: Recorded | None = None

    def __len__(self) -> int:
        return len(self.seq)

    @property
    def ranks(self) -> list[int]:
        """Return the ranks that have a usable dump, sorted."""
        return sorted({dump.rank for dump in self.dumps} - {NO_RANK})

    def collectives(self) -> Flags:
        """Return which rows are collectives in their own right, of groups with a name: no sends or members of a batch.

        Under TORCH_DISTRIBUTED_DEBUG=DETAIL gloo records its groups, and helper groups of theirs, without a name: what
        two ranks recorded so need not be of one group.
        """
        chosen: Flags = ~self.p2p & ~self.member & (self.seq != NO_SEQ)
        for number, group in enumerate(self.groups):
            if group.backend == "gloo" and not group.name:
                chosen &= self.group != number
        return chosen

    def status_of(self, rank: int, group: int) -> ReportedStatus | None:
        """Return a rank's own counters for a group, or None if no dump has them. Gloo counts differently."""
        at, pg_id = self.local_ids.get((rank, group), (0, None))
        return next((one for one in self.dumps[at].reported if one.pg_id == pg_id), None) if pg_id is not None else None

    def stack_of(self, row: int) -> tuple[Frame, ...]:
        """Return the Python stack of one row, innermost call first, or () if the dump has none."""
        from torchctl.flightrec.decoding.dump import Frame

        return tuple(Frame(*self.frames[number]) for number in self.stack_rows[int(self.stack[row])])

    def call_of(self, row: int) -> Call:
        """Return the operation of one row as the rank recorded it."""
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
        """Return the name without its backend, such as "all_reduce"."""
        return self.profiling_name.partition(":")[2] or self.profiling_name

    @property
    def dtype(self) -> str:
        """Return the distinct element types."""
        return ",".join(dict.fromkeys([*self.input_dtypes, *self.output_dtypes]))


def dumps_of(trace: Trace) -> list[Dump]:
    """Return every dump of a trace as it was recorded, in the order of `trace.dumps`.

    Args:
        trace: loaded with `every=True`.

    Raises:
        ValueError: the trace was loaded without `every=True`.
    """
    if trace.recorded is None:
        raise ValueError("the trace was not loaded with every=True")
    return list(trace.recorded.dumps)


def empty_columns() -> dict[str, Any]:
    """Return the columns of an empty trace."""
    import numpy as np

    small = {
        name: np.zeros(0, np.int32) for name in ("rank", "dump", "group", "operation", "signature", "call", "stack")
    }
    times = {name: np.zeros(0, np.int64) for name in ("seq", "created_ns", "started_ns", "completed_ns", "timeout_ms")}
    flags = {name: np.zeros(0, np.bool_) for name in ("p2p", "member", "follows")}
    return {**small, **times, **flags, "state": np.zeros(0, np.int8)}
