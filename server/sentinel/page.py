"""A page of memory that worker and sentinel share: what the sentinel must know when the worker cannot answer.

How this works: the worker writes, the sentinel reads; each field is one aligned word, written whole, so no lock
is needed. A write makes no system call and does not release the interpreter lock: `report_step` stays as cheap as a
store, and a worker whose 200 threads compete for the lock can answer a probe in a single turn.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import NamedTuple

_SIZE = 4096
_WORD = struct.Struct("=q")
_REAL = struct.Struct("=d")
_STEP, _STEP_TIME, _THREAD, _ANSWERED, _RANK, _WORLD_SIZE = range(0, 48, 8)
_UNKNOWN = -1


class Page:
    """The page, over a memfd.

    Args:
        descriptor: the memfd's; it may be closed afterwards.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _SIZE)

    def report(self, step: int, when: float) -> None:
        """Record a training step; ignore anything that is not a 64-bit integer."""
        if type(step) is not int:
            return  # a tensor's value would have to be fetched from its device
        try:
            _WORD.pack_into(self._memory, _STEP, step)
            _REAL.pack_into(self._memory, _STEP_TIME, when)
        except (struct.error, ValueError, TypeError):
            pass  # too large a number, or the page was unmapped in a forked child

    def set_thread(self, tid: int) -> None:
        """Record the kernel's id of the thread that answers."""
        _WORD.pack_into(self._memory, _THREAD, tid)

    def answer(self, probe: int) -> None:
        """Record that the worker has seen a probe."""
        _WORD.pack_into(self._memory, _ANSWERED, probe)

    def set_place(self, rank: int | None, world_size: int | None) -> None:
        """Record the worker's rank and world size."""
        _WORD.pack_into(self._memory, _RANK, _UNKNOWN if rank is None else rank)
        _WORD.pack_into(self._memory, _WORLD_SIZE, _UNKNOWN if world_size is None else world_size)

    def read(self) -> Words:
        """Return the current words."""
        when = _REAL.unpack_from(self._memory, _STEP_TIME)[0]
        return Words(
            _WORD.unpack_from(self._memory, _STEP)[0] if when else None,
            when or None,
            _WORD.unpack_from(self._memory, _THREAD)[0],
            _WORD.unpack_from(self._memory, _ANSWERED)[0],
            _known(_WORD.unpack_from(self._memory, _RANK)[0]),
            _known(_WORD.unpack_from(self._memory, _WORLD_SIZE)[0]),
        )

    def close(self) -> None:
        """Unmap it."""
        self._memory.close()


class Words(NamedTuple):
    """The page's words; None means unknown."""

    step: int | None
    step_time: float | None
    thread: int
    answered: int
    rank: int | None
    world_size: int | None


def make() -> int:
    """Return the descriptor of a new page."""
    descriptor = os.memfd_create("torchctl-page", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, _SIZE)
    os.pwrite(descriptor, _WORD.pack(_UNKNOWN) * 2, _RANK)
    return descriptor


def _known(value: int) -> int | None:
    return None if value < 0 else value
