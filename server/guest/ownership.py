"""Descriptors that are ours only as long as the trainer lets them be.

How this works: a program that closes what it has not opened (``os.closerange(3, 256)``) takes our descriptors away, and
what it opens next gets their numbers. To write to, shut down or close such a number would hurt the trainer's own
socket or file. So it is noted which file each descriptor was, and one that has become another is given up untouched.
Where standard input, output or error are closed, /dev/null is put in their places first: a socket of ours there would
get what C code prints.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

_STANDARD = (0, 1, 2)
_LOST = "the descriptor is no longer ours"
_SO_COOKIE = 57  # include/uapi/asm-generic/socket.h; since Linux 4.12
_COOKIE_BYTES = 8
_BUFFER_BYTES = 8192
# Plain numbers: the members of `socket` are enums, whose `|` takes longer than the call.
_DONTWAIT = int(socket.MSG_DONTWAIT)
_SEND_FLAGS = int(socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
_QUESTION = (int(socket.SOL_SOCKET),), (_SO_COOKIE,), (_COOKIE_BYTES,)


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

    One that is lost before it can be looked at raises OSError. So do `receive`, `send` and `shut_down`, which do not
    wait, for one that is lost later; `close` leaves that one alone.

    How this works: before each use the kernel is asked for the socket's cookie. Linux has no call that asks and acts in
    one, so both calls are made without letting go of the interpreter lock: no Python code of the trainer can open a
    file in between. `getsockopt` keeps the lock anyway; the other calls are libc's own through `ctypes.PyDLL`, since
    `socket` lets go of the lock just before the system call, which wakes who waits for it: on two busy cores one
    `os.closerange` in ten was overtaken so. And the interpreter may hand the lock on after a call, but not while a
    `for` takes the next item: hence `map` in `_call`.

    What is left is C code of the trainer's that opens files without the lock. Where there is no `ctypes`, or no cookie
    (kernels before 4.12, where `fstat` has to do), the lock is free between question and call.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._libc = _libc()
        self._buffer: Any = None  # and where it is; made when something is to be read
        self._address = 0
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

    def receive(self, size: int, flags: int = 0) -> bytes:
        """Return what has come; empty when the other side has sent all.

        Raises:
            BlockingIOError: nothing has come.
        """
        if self._libc is None:
            return self._there().recv(size, flags)
        if self._buffer is None:
            self._buffer, self._address = self._libc.new_buffer()
        count = self._call(self._libc.recv, self._address, min(size, _BUFFER_BYTES), flags | _DONTWAIT)
        data: bytes = self._buffer[:count]
        return data

    def send(self, data: bytes) -> int:
        """Send some of it and return how much; no SIGPIPE comes of it.

        Raises:
            BlockingIOError: there is no room.
        """
        if self._libc is None:
            return self._there().send(data, socket.MSG_NOSIGNAL)
        return self._call(self._libc.send, data, len(data), _SEND_FLAGS)

    def shut_down(self, how: int) -> None:
        """Shut down one direction, or both."""
        if self._libc is None:
            self._there().shutdown(how)
        else:
            self._call(self._libc.shutdown, how)

    def close(self) -> None:
        """Close it, if it is still ours."""
        if self._libc is None:
            if self.is_there():
                self.sock.close()
            return
        with contextlib.suppress(OSError):
            self._call(self._libc.close)
        self.sock.detach()

    def _there(self) -> socket.socket:
        if not self.is_there():
            raise ConnectionAbortedError(_LOST)
        return self.sock

    def _call(self, function: Callable[..., int], *arguments: object) -> int:
        """Call libc with our number, if it is still ours."""
        assert self._libc is not None
        sock = self.sock
        number = sock.fileno()
        if not self._cookie:
            self._there()
            return self._libc.checked(function(number, *arguments))
        for cookie in map(sock.getsockopt, *_QUESTION):
            if cookie == self._cookie:
                result = function(number, *arguments)
                return result if result >= 0 else self._libc.checked(result)
        sock.detach()
        raise ConnectionAbortedError(_LOST)


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
        return sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _COOKIE_BYTES)
    except OSError as error:
        if error.errno in (errno.EBADF, errno.ENOTSOCK):
            raise
        return b""


class _Libc:
    """The calls that do not let go of the interpreter lock."""

    def __init__(self) -> None:
        import ctypes  # late: it costs memory, and fails where Python was built without it

        calls = ctypes.PyDLL(None, use_errno=True)
        self._get_errno = ctypes.get_errno
        self._ctypes = ctypes
        number, pointer, size = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
        self.recv, self.send, self.shutdown, self.close = calls.recv, calls.send, calls.shutdown, calls.close
        for call in (self.recv, self.send):
            call.argtypes, call.restype = [number, pointer, size, number], ctypes.c_ssize_t
        self.shutdown.argtypes = [number, number]
        self.close.argtypes = [number]

    def new_buffer(self) -> tuple[Any, int]:
        """Return memory to read into, and its address."""
        buffer = self._ctypes.create_string_buffer(_BUFFER_BYTES)
        return buffer, self._ctypes.addressof(buffer)

    def checked(self, result: int) -> int:
        """Return what a call has returned, or raise its error."""
        if result < 0:
            code = self._get_errno()
            raise OSError(code, os.strerror(code))
        return result


@lru_cache(maxsize=1)
def _libc() -> _Libc | None:
    try:
        return _Libc()
    except (ImportError, OSError, AttributeError):
        return None


def keep_for_ever(thing: object) -> None:
    """Never let an object end, not even with the interpreter."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def fill_standard() -> None:
    """Put /dev/null where standard input, output or error are closed."""
    while not all(_is_open(number) for number in _STANDARD):
        descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
        if descriptor not in _STANDARD:
            os.close(descriptor)  # someone else has filled the place just now
            return


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
