"""Descriptors that are ours only as long as the trainer lets them be.

How this works: a program that closes what it has not opened (``os.closerange(3, 256)``) takes our descriptors away, and
what it opens next gets their numbers. To write to, shut down or close such a number would hurt the trainer's own
socket or file. So it is noted which file each descriptor was, and one that has become another is given up untouched.
Where standard input, output or error are closed, /dev/null is put in their places first: a socket of ours there would
get what C code prints.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import NamedTuple

_STANDARD = (0, 1, 2)
_SO_COOKIE = 57  # include/uapi/asm-generic/socket.h; since Linux 4.12


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


class OwnSocket:
    """A socket of ours, as long as its number is still that socket.

    One that is lost before it can be looked at raises OSError.

    How this works: before each use the kernel is asked for the socket's cookie. Python makes this system call without
    letting go of the interpreter lock, so the trainer does not get a turn by our asking. What is left is a trainer that
    closes and opens files just between our question and the system call after it, a microsecond or so; Linux has no
    call that does both. On kernels before 4.12 `fstat` has to do: it lets go of the lock, so there the gap lasts until
    we have the lock again.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        try:
            self._cookie = _cookie(sock)
            self._mark = None if self._cookie else mark(sock.fileno())
        except OSError:
            sock.detach()
            raise

    def is_there(self) -> bool:
        """Whether it may be used; one whose number has become another file is given up, untouched."""
        if self.sock.fileno() < 0:
            return False
        try:
            there = _cookie(self.sock) == self._cookie and (
                self._mark is None or is_still(self.sock.fileno(), self._mark)
            )
        except OSError:
            there = False
        if not there:
            self.sock.detach()
        return there

    def close(self) -> None:
        """Close it, if it is still ours."""
        if self.is_there():
            self.sock.close()


class Sockets:
    """Sockets of ours that are of use only together."""

    def __init__(self, *sockets: socket.socket) -> None:
        self._sockets = [OwnSocket(one) for one in sockets]

    def give_up_lost(self) -> bool:
        """Let go, untouched, of descriptors that are another file now; return whether all are there."""
        there = [one.is_there() for one in self._sockets]
        return all(there)


def _cookie(sock: socket.socket) -> bytes:
    """Return the number that the kernel gives to one socket only; empty where the kernel gives none.

    Raises:
        OSError: the descriptor is closed, or no socket.
    """
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
    except OSError as error:
        if error.errno in (errno.EBADF, errno.ENOTSOCK):
            raise
        return b""


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
