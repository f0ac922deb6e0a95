"""Descriptors that stay ours only as long as the trainer leaves them alone.

How this works: a program that closes descriptors it did not open (``os.closerange(3, 256)``) closes ours too, and the
next files it opens get their numbers. Writing to, shutting down or closing such a number would hurt the trainer's
socket or file. So we record which file each descriptor was, and give up, untouched, any that has become another file.
If standard input, output or error is closed, we first open /dev/null in its place: otherwise one of our sockets could
take that number and receive what C code prints.
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
# Plain numbers: the constants of `socket` are enums, whose `|` takes longer than the call.
_DONTWAIT = int(socket.MSG_DONTWAIT)
_SEND_FLAGS = int(socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
_QUESTION = (int(socket.SOL_SOCKET),), (_SO_COOKIE,), (_COOKIE_BYTES,)


class Mark(NamedTuple):
    """Which file a descriptor was: sockets have inodes too, and no two live sockets share one."""

    device: int
    inode: int


def mark(descriptor: int) -> Mark:
    """Return which file a descriptor is.

    Raises:
        OSError: it is not open.
    """
    status = os.fstat(descriptor)
    return Mark(status.st_dev, status.st_ino)


def is_still(descriptor: int, marked: Mark | None) -> bool:
    """Return whether a descriptor is still the file it was."""
    try:
        return descriptor >= 0 and mark(descriptor) == marked
    except OSError:
        return False


def close(descriptor: int, marked: Mark | None) -> None:
    """Close a descriptor if it is still the file it was."""
    if is_still(descriptor, marked):
        os.close(descriptor)


class OwnSocket:
    """One of our sockets, as long as its descriptor is still that socket.

    Raises OSError if it is lost before it can be examined. `receive`, `send` and `shut_down` do not block; they raise
    OSError if the socket is lost later, and `close` then does nothing.

    How this works: before each use we ask the kernel for the socket's cookie. Linux has no call that checks and acts in
    one step, so we make both calls without releasing the interpreter lock: no Python code in the trainer can open a
    file in between. `getsockopt` keeps the lock anyway; the other calls go to libc through `ctypes.PyDLL`, since
    `socket` releases the lock just before the system call, which wakes a thread that waits for it: on two busy cores
    one `os.closerange` in ten got in between. The interpreter may also hand over the lock after a call, but not while a
    `for` takes the next item: hence `map` in `_call`.

    What remains is C code in the trainer that opens files without the lock. Without `ctypes`, or without cookies
    (kernels before 4.12, where we fall back to `fstat`), the lock is free between the check and the call.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._libc = _libc()
        self._buffer: Any = None  # allocated on the first read, as is its address
        self._address = 0
        try:
            self._cookie = _cookie(sock)
            self._mark = None if self._cookie else mark(sock.fileno())
        except OSError:
            sock.detach()
            raise

    def is_there(self) -> bool:
        """Return whether it may be used; if its descriptor has become another file, give it up, untouched."""
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
        """Return what has arrived, or empty bytes if the other side has finished sending.

        Raises:
            BlockingIOError: nothing has arrived.
        """
        if self._libc is None:
            return self._there().recv(size, flags)
        if self._buffer is None:
            self._buffer, self._address = self._libc.new_buffer()
        count = self._call(self._libc.recv, self._address, min(size, _BUFFER_BYTES), flags | _DONTWAIT)
        data: bytes = self._buffer[:count]
        return data

    def send(self, data: bytes) -> int:
        """Send some of the data and return how many bytes; never raises SIGPIPE.

        Raises:
            BlockingIOError: the send buffer is full.
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
        """Call libc with our descriptor, if it is still ours."""
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
    """Some of our sockets that are useful only together."""

    def __init__(self, *sockets: socket.socket) -> None:
        self._sockets = [OwnSocket(one) for one in sockets]

    def give_up_lost(self) -> bool:
        """Give up, untouched, the descriptors that are now another file; return whether all are still ours."""
        there = [one.is_there() for one in self._sockets]
        return all(there)


def _cookie(sock: socket.socket) -> bytes:
    """Return the socket's cookie, unique within the kernel, or empty bytes if the kernel has no cookies.

    Raises:
        OSError: the descriptor is closed, or not a socket.
    """
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _COOKIE_BYTES)
    except OSError as error:
        if error.errno in (errno.EBADF, errno.ENOTSOCK):
            raise
        return b""


class _Libc:
    """libc calls that do not release the interpreter lock."""

    def __init__(self) -> None:
        import ctypes  # late: it costs memory, and fails if Python was built without it

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
        """Return what a call returned, or raise its error."""
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
    """Never let an object be freed, not even when the interpreter exits."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def fill_standard() -> None:
    """Open /dev/null in place of standard input, output or error if they are closed."""
    while not all(_is_open(number) for number in _STANDARD):
        descriptor = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
        if descriptor not in _STANDARD:
            os.close(descriptor)  # another thread has just taken the number
            return


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
