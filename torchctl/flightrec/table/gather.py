"""Many dumps, from files or workers, decoded one after the other; what fails does not stop the rest."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchctl.errors import DumpError, TorchctlError
from torchctl.flightrec.decoding.decode import decode_dump, rank_from_name, read_file
from torchctl.flightrec.decoding.guard import Guard

if TYPE_CHECKING:
    from torchctl.flightrec.decoding.dump import Dump


@dataclass(frozen=True, slots=True)
class RawDump:
    """One dump before it is decoded.

    Args:
        source: the file or endpoint it came from.
        rank: the global rank, None where nothing tells it.
        data: the untrusted bytes.
        answered_ns: when a live worker gave it, wall-clock nanoseconds; None for a file.
        written_ns: when the file was last written; None for a live worker.
    """

    source: str
    rank: int | None
    data: bytes
    answered_ns: int | None = None
    written_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A dump that could not be had or read, and why."""

    source: str
    rank: int | None
    error: TorchctlError


def read_files(paths: Sequence[str]) -> Iterator[RawDump | Failure]:
    """Yield the bytes of each file, or why there are none, in the order given."""
    for path in paths:
        rank = rank_from_name(path)
        try:
            data = read_file(path)
            written_ns = os.stat(path).st_mtime_ns
        except DumpError as error:
            yield Failure(path, rank, error)
        except OSError as error:  # it went away in between
            yield Failure(path, rank, DumpError(f"{path} cannot be read: {error.strerror}"))
        else:
            yield RawDump(path, rank, data, written_ns=written_ns)


def decode_all(
    raw_dumps: Iterable[RawDump | Failure], guard: Guard
) -> tuple[list[tuple[RawDump, Dump]], list[Failure]]:
    """Return the dumps that can be decoded, and the failures, each sorted by rank and source."""
    decoded: list[tuple[RawDump, Dump]] = []
    failures: list[Failure] = []
    for raw in raw_dumps:
        if isinstance(raw, Failure):
            failures.append(raw)
            continue
        try:
            decoded.append((raw, decode_dump(raw.data, raw.source, guard=guard)))
        except DumpError as error:
            failures.append(Failure(raw.source, raw.rank, error))
    decoded.sort(key=lambda pair: order(pair[0]))
    failures.sort(key=order)
    return decoded, failures


@contextmanager
def collector_off() -> Iterator[None]:
    """Keep the garbage collector from walking dumps again and again while they are built and held."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def order(one: RawDump | Failure) -> tuple[bool, int, str]:
    """Ranks in order, those without one last."""
    return one.rank is None, one.rank or 0, one.source
