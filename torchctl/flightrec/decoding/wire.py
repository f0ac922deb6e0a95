"""The format between the decoding child and its parent: strings and columns of 64-bit numbers.

Neither side builds an object that the other side names. A reply is one table of strings and a fixed list
of flat columns, so reading it can neither call anything nor recurse, and a column can become a NumPy
array without a copy (every column starts at a multiple of 8 bytes, in native byte order).

    request  kind (1 byte) | size (8) | data
    reply    kind (1 byte) | size (8) | payload
    payload  string count | character length of each | size of the text | UTF-8 text, padded to 8
             then for each of COLUMNS: value count | values
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping, Sequence

# Importing `typing` would cost the decoding child 4 ms; type checkers treat this name as the real one.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEADER = struct.Struct("<cQ")
DECODE_DUMP = b"D"
DECODE_FOR_TABLE = b"T"  # without the fields that only the screen of a single dump shows
DESCRIBE_PICKLE = b"P"
DONE = b"K"
REFUSED = b"E"

NONE = -(2**63)  # "not in the dump" in a column of integers; a column of floats uses NaN

# Columns with one value per entry. The names are torch's keys.
ENTRY_INTS = ("record_id", "pg_id", "collective_seq_id", "p2p_seq_id", "op_id", "timeout_ms")
ENTRY_TIMES = ("time_created_ns", "time_discovered_started_ns", "time_discovered_completed_ns")
ENTRY_FLAGS = ("retired", "is_p2p")
ENTRY_TEXTS = ("group", "group_desc", "profiling_name", "state", "thread_id", "thread_name")
ENTRY_SHAPES = ("input_sizes", "output_sizes")
ENTRY_DTYPES = ("input_dtypes", "output_dtypes")
ENTRY_COLUMNS = (
    *ENTRY_INTS,
    *ENTRY_TIMES,
    *ENTRY_FLAGS,
    "duration_ms",
    *ENTRY_TEXTS,  # string numbers
    *ENTRY_SHAPES,  # rows of the shape table
    *ENTRY_DTYPES,  # rows of the table of dtype lists
    "frames",  # rows of the stack table
)
NOT_IN_TABLE = ("duration_ms", "thread_id", "thread_name")  # a tenth of the decoding time
# Tables that entries point into. Row i of a table is values[offsets[i]:offsets[i + 1]].
TABLE_COLUMNS = (
    "shape_offsets",
    "shape_values",  # per tensor: number of dimensions, then each dimension
    "dtype_offsets",
    "dtype_values",  # string numbers
    "stack_offsets",
    "stack_values",  # rows of the frame table
    "frame_filename",
    "frame_line",
    "frame_name",
)
HEAD_COLUMNS = (
    "head",  # string numbers of version, comm_lib_version and the unknown keys
    "config_name",
    "config_desc",
    "config_rank_offsets",
    "config_ranks",
    "status_pg_id",
    "status_enqueued",
    "status_started",
    "status_completed",
)
COLUMNS = (*HEAD_COLUMNS, *ENTRY_COLUMNS, *TABLE_COLUMNS)
FLOAT_COLUMNS = frozenset({"duration_ms"})


class WireError(ValueError):
    """A payload that `pack` did not make."""


def pack(strings: Sequence[str], columns: Mapping[str, array[int] | array[float]]) -> bytes:
    """Return the payload of one reply; `columns` must have every name in COLUMNS."""
    text = "".join(strings).encode("utf-8", "surrogatepass")
    lengths = array("q", map(len, strings))
    parts = [_count(len(lengths)), lengths.tobytes(), _count(len(text)), text, b"\0" * (-len(text) % 8)]
    for name in COLUMNS:
        column = columns[name]
        parts.append(_count(len(column)))
        parts.append(column.tobytes())
    return b"".join(parts)


def unpack(payload: bytes) -> tuple[list[str], dict[str, memoryview[Any]]]:
    """Return the strings and the columns of a payload; the columns are views into it, "q" or "d".

    Raises:
        WireError: the payload is truncated, or longer than its counts say.
    """
    reader = _Reader(memoryview(payload))
    lengths = reader.column("q", reader.count())
    text_size = reader.count()
    text = bytes(reader.take(text_size)).decode("utf-8", "surrogatepass")
    reader.take(-text_size % 8)
    strings, start = [], 0
    for length in lengths:
        strings.append(text[start : start + length])
        start += length
    columns = {}
    for name in COLUMNS:
        columns[name] = reader.column("d" if name in FLOAT_COLUMNS else "q", reader.count())
    if reader.left():
        raise WireError("bytes are left over")
    return strings, columns


class _Reader:
    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def left(self) -> int:
        return len(self._view) - self._at

    def take(self, size: int) -> memoryview:
        if size < 0 or size > self.left():
            raise WireError("cut short")
        self._at += size
        return self._view[self._at - size : self._at]

    def count(self) -> int:
        return int(self.take(8).cast("q")[0])

    def column(self, code: str, count: int) -> memoryview[Any]:
        view = self.take(count * 8)
        return view.cast("d") if code == "d" else view.cast("q")


def _count(number: int) -> bytes:
    return number.to_bytes(8, "little") if _LITTLE else number.to_bytes(8, "big")


_LITTLE = array("q", [1]).tobytes()[0] == 1
