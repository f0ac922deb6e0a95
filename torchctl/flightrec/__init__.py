"""Flight-recorder dumps: decode untrusted files and replies, and show what they contain.

    from torchctl.flightrec import read_dump
    dump = read_dump("/tmp/nccl_trace_rank_3")
    for entry in dump.entries:
        print(entry.group, entry.collective_seq_id, entry.operation, entry.state)

A whole job is one table (this needs NumPy, the extra `analysis`):

    from torchctl.flightrec import State, load
    trace = load(["/shared/dumps"])
    stuck = trace.rank[trace.state == State.STARTED]  # ranks of the operations that started but did not finish
    for failure in trace.bad:
        print(failure.source, failure.error)

`load(paths, every=True)` keeps every dump and everything that the recorders wrote; `dumps_of(trace)` returns it
rank by rank.

Names are loaded on first use, because the decoding child imports this package too and needs none of them.
"""

from __future__ import annotations

# Importing `typing` would cost the decoding child 4 ms; type checkers treat this name as the real one.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from torchctl.flightrec.decoding.decode import decode_dump, describe_pickle, read_dump
    from torchctl.flightrec.decoding.dump import Dump, Entry, Frame, ProcessGroup, ReportedStatus
    from torchctl.flightrec.decoding.guard import Guard, Limits
    from torchctl.flightrec.table.loading import load
    from torchctl.flightrec.table.trace import Call, DumpInfo, Group, Recorded, State, Trace, dumps_of

_HOMES = {
    "Call": "table.trace",
    "Dump": "decoding.dump",
    "DumpInfo": "table.trace",
    "Entry": "decoding.dump",
    "Frame": "decoding.dump",
    "Group": "table.trace",
    "Guard": "decoding.guard",
    "Limits": "decoding.guard",
    "ProcessGroup": "decoding.dump",
    "Recorded": "table.trace",
    "ReportedStatus": "decoding.dump",
    "State": "table.trace",
    "Trace": "table.trace",
    "decode_dump": "decoding.decode",
    "describe_pickle": "decoding.decode",
    "dumps_of": "table.trace",
    "load": "table.loading",
    "read_dump": "decoding.decode",
}

__all__ = [
    "Call",
    "Dump",
    "DumpInfo",
    "Entry",
    "Frame",
    "Group",
    "Guard",
    "Limits",
    "ProcessGroup",
    "Recorded",
    "ReportedStatus",
    "State",
    "Trace",
    "decode_dump",
    "describe_pickle",
    "dumps_of",
    "load",
    "read_dump",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
