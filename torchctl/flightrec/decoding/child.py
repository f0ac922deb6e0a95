"""The decoding child: reads requests on stdin and answers on stdout, under limits that it cannot raise.

It is started as `python -I -S`, never forked, because the parent may have threads. It imports what it needs before
the limits apply, decodes one request at a time, and exits when stdin closes. It also exits after anything but a
clean decode: a hostile request may leave garbage behind that would count against the next one.
"""

from __future__ import annotations

import gc
import resource
import sys

from torchctl.flightrec.decoding import wire
from torchctl.flightrec.decoding.columns import columns_of
from torchctl.flightrec.decoding.tables import MemberTexts
from torchctl.flightrec.decoding.unpickler import Refused, load


def main() -> None:
    """Serve requests until stdin closes. Arguments: memory limit in bytes, CPU seconds per request."""
    memory_bytes, cpu_s = int(sys.argv[-2]), int(sys.argv[-1])
    # Honest dumps contain no cycles, and the collector would walk every object again and again.
    gc.disable()
    gc.freeze()
    close_limits(memory_bytes)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    members = MemberTexts()
    while True:
        header = source.read(wire.HEADER.size)
        if len(header) < wire.HEADER.size:
            return
        kind, size = wire.HEADER.unpack(header)
        limit_cpu(cpu_s)
        data = None
        try:
            data = source.read(size)
            answer, payload = wire.DONE, serve(kind, data, members)
        except Refused as refusal:
            answer, payload = wire.REFUSED, str(refusal).encode("utf-8", "backslashreplace")
        except RecursionError:
            answer, payload = wire.REFUSED, b"is nested too deeply"
        except MemoryError:
            answer = wire.REFUSED
            payload = f"needs more than {memory_bytes >> 20} MiB of memory to decode".encode()
        del data
        sink.write(wire.HEADER.pack(answer, len(payload)))
        sink.write(payload)
        sink.flush()
        if answer != wire.DONE:
            return
        del payload
        gc.collect()


def serve(kind: bytes, data: bytes, members: MemberTexts) -> bytes:
    """Return the payload that answers one request; only `members` is kept between requests.

    Raises:
        Refused, MemoryError: as `unpickler.load` and `columns.columns_of`.
    """
    if kind == wire.DESCRIBE_PICKLE:
        from torchctl.flightrec.decoding.describe import describe

        return describe(data).encode("utf-8", "backslashreplace")
    return columns_of(load(data), whole=kind == wire.DECODE_DUMP, members=members)


def close_limits(memory_bytes: int) -> None:
    """Limit the address space and disable core files."""
    _lower(resource.RLIMIT_AS, memory_bytes)
    _lower(resource.RLIMIT_CORE, 0)


def limit_cpu(cpu_s: int) -> None:
    """Allow the next request `cpu_s` more CPU seconds; after that the kernel kills the process (SIGXCPU)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + cpu_s + 1, hard=False)


def _lower(which: int, limit: int, *, hard: bool = True) -> None:
    old_hard = resource.getrlimit(which)[1]
    if old_hard != resource.RLIM_INFINITY:
        limit = min(limit, old_hard)
    resource.setrlimit(which, (limit, limit if hard else old_hard))
