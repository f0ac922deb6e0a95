"""Many jobs' dumps as tables, without a decoding child for each: what it would do is done here, on trusted dumps."""

from __future__ import annotations

from collections.abc import Iterable

from tests.diagnosis.physics.recorder import File
from torchctl.flightrec.decoding import wire
from torchctl.flightrec.decoding.columns import columns_of
from torchctl.flightrec.decoding.entries import Members, dump_of_columns
from torchctl.flightrec.decoding.raw import RawDump
from torchctl.flightrec.decoding.tables import MemberTexts
from torchctl.flightrec.table.loading import table_of
from torchctl.flightrec.table.pieces import Shared, piece_of
from torchctl.flightrec.table.trace import Trace


def trace_of(files: Iterable[File]) -> Trace:
    """Return the table that `load_raw` makes of these dumps."""
    texts, shared = MemberTexts(), Shared()
    members: Members = {}
    pieces = []
    for file in files:
        raw = RawDump(f"nccl_trace_rank_{file.rank}", file.rank, b"", written_ns=file.written_ns)
        columns = columns_of(file.data, whole=False, members=texts)
        pieces.append(piece_of(raw, dump_of_columns(*wire.unpack(columns), raw.source, members), shared))
    return table_of(pieces)
