"""Descriptors that are ours only as long as the trainer lets them be.

How this works: a program that closes what it has not opened (``os.closerange(3, 256)``) takes our descriptors away, and
what it opens next gets their numbers. To write to, shut down or close such a number would hurt the trainer's own
socket or file. So it is noted which file each descriptor was, and one that has become another is given up untouched.
Where standard input, output or error are closed, /dev/null is put in their places first: a socket of ours there would
get what C code prints.
"""

from __future__ import annotations

import os
import socket
from typing import NamedTuple

_STANDARD = (0, 1, 2)


class Mark(NamedTuple):
    """Which file a descriptor was: sockets have inodes too, and no two live ones the same."""

    device: int
    inode: int


def mark(descriptor: int) -> Mark:
    """Note which file a descriptor is.

    Raises:
        OSError: it is none.
    """
    status = os.fstat(descriptor)
    return Mark(status.st_dev, status.st_ino)


def is_still(descriptor: int, marked: Mark | None) -> bool:
    """Whether a descriptor is the file that it was."""
    try:
        return descriptor >= 0 and mark(descriptor) == marked
    except OSError:
        return False


def close(descriptor: int, marked: Mark | None) -> None:
    """Close a descriptor if it is the file that it was."""
    if is_still(descriptor, marked):
        os.close(descriptor)


class Sockets:
    """Sockets of ours, each with the mark of its beginning."""

    def __init__(self, *sockets: socket.socket) -> None:
        self._marks = [(one, mark(one.fileno())) for one in sockets]

    def give_up_lost(self) -> bool:
        """Let go, untouched, of descriptors that are another file now; return whether all are there."""
        for one, marked in self._marks:
            if one.fileno() >= 0 and not is_still(one.fileno(), marked):
                one.detach()
        return all(one.fileno() >= 0 for one, _ in self._marks)


def keep_for_ever(thing: object) -> None:
    """Never let an object end, not even with the interpreter."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def fill_standard() -> None:
    """Put /dev/null where standard input, output or error are closed."""
    while not all(_is_open(number) for number in _STANDARD):
        descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
        if descriptor not in _STANDARD:
            os.close(descriptor)  # somebody else has filled the place just now
            return


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
