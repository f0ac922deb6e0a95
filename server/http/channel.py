"""A client's connection as bytes in and out: every wait has a deadline, and no number that is not ours is touched.

How this works: a socket with a timeout would wait on its number and then read from that number, whatever it has become
meanwhile. So the waiting and the reading are two steps here, and between them we look whether the descriptor is still
our socket (see `ownership`). The wait itself harms nobody: the kernel goes on waiting for the file that was there when
it began. A connection that the trainer has taken away ends as if the client had hung up.

An answer is sent with MSG_NOSIGNAL: a trainer that has restored SIGPIPE's default must not die of a client that hangs
up.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import Protocol

from torchctl.server.guest.ownership import OwnSocket

_CHUNK_BYTES = 65536


class Stream(Protocol):
    """What requests are read from and answers are written to: a channel, or TLS over one."""

    def receive(self, size: int, deadline: float) -> bytes: ...

    def send(self, data: bytes, deadline: float) -> None: ...


class Channel:
    """The plain bytes of one connection; deadlines are in `time.monotonic` seconds.

    All but `hang_up` and `close` raise OSError when the client has gone or the descriptor is no longer ours, and
    TimeoutError, which is one, at the deadline.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.family = connection.family
        self._own = OwnSocket(connection)
        try:
            connection.setblocking(False)
            if self.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            self.close()
            raise

    @property
    def socket(self) -> socket.socket:
        """The socket, for the one call that is made right now."""
        if not self._own.is_there():
            raise ConnectionAbortedError("the descriptor is no longer ours")
        return self._own.sock

    def receive(self, size: int, deadline: float, flags: int = 0) -> bytes:
        """Return what has come, or comes before the deadline; empty when the client has sent all."""
        while True:
            try:
                return self.socket.recv(size, flags)
            except BlockingIOError:
                self._wait(select.POLLIN, deadline)

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of it."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.socket.send(rest, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline)

    def pause(self, seconds: float) -> None:
        """Wait, and end early when the connection is hung up, to make room or to shut down."""
        with contextlib.suppress(TimeoutError):
            self._wait(0, time.monotonic() + seconds)  # POLLHUP is always told
            raise ConnectionResetError("hung up")

    def finish_sending(self) -> None:
        """Say that no more comes from us."""
        self.socket.shutdown(socket.SHUT_WR)

    def drain(self, timeout_s: float) -> None:
        """Read and drop what still comes, for at most `timeout_s`: an unread rest would reset the answer."""
        deadline = time.monotonic() + timeout_s
        while self.receive(_CHUNK_BYTES, deadline):
            if time.monotonic() >= deadline:
                return

    def hang_up(self) -> None:
        """Wake the connection's thread with an end of file; the thread closes the socket itself."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the descriptor, if it is ours."""
        self._own.close()

    def _wait(self, events: int, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        poll = select.poll()
        poll.register(self.socket, events)
        if not poll.poll(left * 1000):
            raise TimeoutError
