"""What recorders write beside the columns of the table, and a rank's rows of it as the dump that they were.

How this works. The table keeps what ranks are compared by, in the engine's terms: one sequence id, one state, one
group of the job. A recorder's own counters and words are of use on one rank's screen alone, so they are kept apart and
only where they are asked for; together with the table's times, sizes and stacks they are the dump again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from torchctl.flightrec.decoding import wire
from torchctl.flightrec.decoding.dump import Dump, Entry, Frame

if TYPE_CHECKING:
    from torchctl.flightrec.table.trace import Trace

# Of a dump's columns: those that the table is made of too, those kept for this alone, and numbers of texts.
SHARED_COLUMNS = ("collective_seq_id", "p2p_seq_id", "p2p")
OWN_COLUMNS = ("record_id", "op_id", "own_pg_id", "own_retired", "duration_ms")
TEXT_COLUMNS = ("state", "thread_id", "thread_name")


@dataclass(slots=True)
class Recorded:
    """Columns over all rows of a trace, [rows]; the recorder's own words are numbers of `texts`.

    Attributes:
        columns: int64, wire.NONE where the dump does not say: collective_seq_id, p2p_seq_id, record_id, op_id,
            own_pg_id. Of texts, int32: state, thread_id, thread_name, group, group_desc. And p2p (bool), own_retired
            (int8, -1 where the dump does not say), duration_ms (float64, NaN).
    """

    texts: list[str]
    columns: dict[str, Any]


def recorded_columns(source: Mapping[str, memoryview[Any]]) -> dict[str, Any]:
    """Return what of a decoded dump's columns `Recorded` needs beside the table's."""
    retired = np.asarray(source["retired"], dtype=np.int64)
    return {
        "record_id": np.asarray(source["record_id"], dtype=np.int64),
        "op_id": np.asarray(source["op_id"], dtype=np.int64),
        "own_pg_id": np.asarray(source["pg_id"], dtype=np.int64),
        "own_retired": np.where(retired == wire.NONE, -1, retired).astype(np.int8),
        "duration_ms": np.asarray(source["duration_ms"], dtype=np.float64),
        **{name: np.asarray(source[name], dtype=np.int32) for name in TEXT_COLUMNS},
    }


def dumps_of(trace: Trace) -> list[Dump]:
    """Return every dump of a trace as it was recorded, in the order of `trace.dumps`.

    Args:
        trace: loaded with `every=True`.

    Raises:
        ValueError: it was not.
    """
    if trace.recorded is None:
        raise ValueError("the trace was not loaded with every=True")
    frames = [Frame(*frame) for frame in trace.frames]
    stacks = [tuple(map(frames.__getitem__, row)) for row in trace.stack_rows]
    return [
        Dump(
            info.source,
            info.version,
            info.comm_lib_version,
            info.unknown_keys,
            info.groups,
            info.reported,
            _entries(trace, trace.recorded, stacks, slice(info.first_row, info.first_row + info.rows)),
        )
        for info in trace.dumps
    ]


def _entries(trace: Trace, recorded: Recorded, stacks: list[tuple[Frame, ...]], rows: slice) -> list[Entry]:
    if rows.start == rows.stop:
        return []
    own = recorded.columns

    def told(column: Any) -> list[int | None]:
        return [None if value == wire.NONE else value for value in column[rows].tolist()]

    def texts(name: str) -> list[str]:
        return [recorded.texts[number] for number in own[name][rows].tolist()]

    calls = [trace.calls[number] for number in trace.call[rows].tolist()]
    columns: dict[str, list[Any]] = {
        "record_id": told(own["record_id"]),
        "pg_id": told(own["own_pg_id"]),
        "group": texts("group"),
        "group_desc": texts("group_desc"),
        "collective_seq_id": told(own["collective_seq_id"]),
        "p2p_seq_id": told(own["p2p_seq_id"]),
        "op_id": told(own["op_id"]),
        "profiling_name": [call.profiling_name for call in calls],
        "state": texts("state"),
        "retired": [None if value < 0 else value == 1 for value in own["own_retired"][rows].tolist()],
        "is_p2p": own["p2p"][rows].tolist(),
        "time_created_ns": told(trace.created_ns),
        "time_discovered_started_ns": told(trace.started_ns),
        "time_discovered_completed_ns": told(trace.completed_ns),
        "duration_ms": [None if value != value else value for value in own["duration_ms"][rows].tolist()],
        "timeout_ms": told(trace.timeout_ms),
        "input_sizes": [call.input_sizes for call in calls],
        "input_dtypes": [call.input_dtypes for call in calls],
        "output_sizes": [call.output_sizes for call in calls],
        "output_dtypes": [call.output_dtypes for call in calls],
        "thread_id": texts("thread_id"),
        "thread_name": texts("thread_name"),
        "frames": [stacks[number] for number in trace.stack[rows].tolist()],
    }
    return list(map(Entry, *(columns[name] for name in Entry.__slots__)))
