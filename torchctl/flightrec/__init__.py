"""Flight-recorder dumps: decode untrusted files and replies, and tell what they hold.

    from torchctl.flightrec import read_dump
    dump = read_dump("/tmp/nccl_trace_rank_3")
    for entry in dump.entries:
        print(entry.group, entry.collective_seq_id, entry.operation, entry.state)

Names are loaded on first use: the decoding child imports this package too and needs none of them.
"""

from __future__ import annotations

# `typing` would cost the decoding child 4 ms; type checkers take this name for the real one.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from torchctl.flightrec.decode import decode_dump, describe_pickle, read_dump
    from torchctl.flightrec.dump import Dump, Entry, Frame, ProcessGroup, ReportedStatus
    from torchctl.flightrec.guard import Guard, Limits

_HOMES = {
    "Dump": "dump",
    "Entry": "dump",
    "Frame": "dump",
    "Guard": "guard",
    "Limits": "guard",
    "ProcessGroup": "dump",
    "ReportedStatus": "dump",
    "decode_dump": "decode",
    "describe_pickle": "decode",
    "read_dump": "decode",
}

__all__ = [
    "Dump",
    "Entry",
    "Frame",
    "Guard",
    "Limits",
    "ProcessGroup",
    "ReportedStatus",
    "decode_dump",
    "describe_pickle",
    "read_dump",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
