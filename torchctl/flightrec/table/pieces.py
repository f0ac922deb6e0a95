"""Reduce a decoded dump to what the table of all ranks needs, so that its bytes can be freed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from torchctl.flightrec.decoding import wire
from torchctl.flightrec.decoding.dump import Dump, ProcessGroup, ReportedStatus
from torchctl.flightrec.decoding.entries import EntryColumns
from torchctl.flightrec.decoding.raw import RawDump
from torchctl.flightrec.table.trace import NO_RANK

if TYPE_CHECKING:
    from torchctl.flightrec.table.trace import Flags, Ints, SmallInts

# Numbers for the recorders' states in a piece.
WORDS = {"scheduled": 0, "started": 1, "completed": 2}
OTHER_WORD = 3


@dataclass(slots=True)
class Piece:
    """A dump's entries as columns of local numbers, and the tables that those numbers index."""

    raw: RawDump
    rank: int
    version: str
    comm_lib_version: str
    unknown_keys: tuple[str, ...]
    groups: tuple[ProcessGroup, ...]
    reported: tuple[ReportedStatus, ...]
    wrapped: bool
    gaps: bool
    taken_ns: int | None
    texts: Sequence[str]
    shapes: Sequence[tuple[tuple[int, ...], ...]]
    dtypes: Sequence[tuple[str, ...]]
    stacks: Sequence[tuple[int, ...]]
    frames: Sequence[tuple[str, int, str]]
    columns: dict[str, Any]

    def __len__(self) -> int:
        return len(self.columns["created_ns"])

    @property
    def ended(self) -> int:
        """Return how many operations have finished."""
        return int(self.finished.sum())

    @property
    def finished(self) -> Flags:
        """Return which operations have finished, members of batches apart, which are never marked."""
        finished: Flags = (self.columns["word"] == WORDS["completed"]) | self.columns["retired"]
        return finished


Shared = dict[tuple[Any, ...], tuple[Any, ...]]


def piece_of(raw: RawDump, dump: Dump, shared: Shared | None = None) -> Piece:
    """Return the part of a dump that is kept.

    Args:
        shared: tables of other dumps. Ranks that run the same code have equal tables, which are stored
            and read only once.
    """
    if shared is None:
        shared = {}
    entries = dump.entries
    assert isinstance(entries, EntryColumns)
    source = entries.columns
    words = np.array([WORDS.get(text, OTHER_WORD) for text in entries.strings] or [0], np.int8)
    completed = _column(source, "time_discovered_completed_ns")
    columns: dict[str, Any] = {
        "pg_id": _narrow(_column(source, "pg_id")),
        "collective_seq_id": _column(source, "collective_seq_id"),
        "p2p_seq_id": _column(source, "p2p_seq_id"),
        "p2p": _column(source, "is_p2p") == 1,
        "retired": _column(source, "retired") == 1,
        "word": words[_column(source, "state")],
        "created_ns": _column(source, "time_created_ns"),
        "started_ns": _column(source, "time_discovered_started_ns"),
        "completed_ns": completed,
        "timeout_ms": _column(source, "timeout_ms"),
    }
    for name in ("group", "group_desc", "profiling_name", *wire.ENTRY_SHAPES, *wire.ENTRY_DTYPES, "frames"):
        columns[name] = _column(source, name).astype(np.int32)
    records = _column(source, "record_id")
    columns = {name: np.array(values) for name, values in columns.items()}  # copies, so that the payload can be freed
    columns["follows"] = np.append(False, records[1:] - records[:-1] == 1)[: len(records)]
    if len(records) and int(records.max()) == wire.NONE:  # no entry has a record id: assume a complete ring
        columns["follows"][1:] = True
    operation_ids = _column(source, "op_id")
    tables: list[tuple[Any, ...]] = [tuple(table) for table in entries.tables()]
    shapes, dtypes, stacks, frames = (shared.setdefault(table, table) for table in tables)
    return Piece(
        raw,
        NO_RANK if raw.rank is None else raw.rank,
        dump.version,
        dump.comm_lib_version,
        dump.unknown_keys,
        dump.groups,
        dump.reported,
        # A digest omits entries in the middle: a missing entry proves as little as one that fell out of the ring.
        bool(len(records)) and (int(records.min()) > 0 or int(records.max()) >= len(records)),
        # Gloo counts sends and receives here, but does not record them.
        bool((operation_ids > columns["collective_seq_id"])[columns["collective_seq_id"] >= 0].any()),
        _taken(columns, _column(source, "retired")),
        entries.strings,
        shapes,
        dtypes,
        stacks,
        frames,
        columns,
    )


def _taken(columns: Mapping[str, Any], retired: Ints) -> int | None:
    """Return when a dump was taken, or None if unknown: dumping completes entries that no watchdog has checked yet.

    Source: `FlightRecorder::dump_entries` (2.13), which updates the state of all entries before it writes them.
    """
    found = columns["completed_ns"][(columns["word"] == WORDS["completed"]) & (retired == 0)]
    return int(found.max()) if len(found) and found.max() > 0 else None


def _column(source: Mapping[str, memoryview[Any]], name: str) -> Ints:
    return np.asarray(source[name], dtype=np.int64)


def _narrow(values: Ints) -> SmallInts:
    """Return local group numbers as 32 bits, renumbered if they are out of range."""
    if len(values) and (int(values.min()) < -1 or int(values.max()) >= 1 << 20):
        return np.unique(values, return_inverse=True)[1].astype(np.int32)
    return values.astype(np.int32)
