"""A client's connection as bytes in and out: every wait has a deadline, and we touch no descriptor that is not ours.

How this works: a socket with a timeout would wait on its descriptor and then read from it, whatever it had become
in the meantime. So waiting and reading are two steps here, and in between we check that the descriptor is still our
socket (see `ownership`). The wait itself is harmless: the kernel keeps waiting for the file that was there when it
began. If the trainer closes a connection, it ends as if the client had hung up.

We send answers with MSG_NOSIGNAL: a client that hangs up must not kill a trainer that has restored SIGPIPE's default.
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

    Args:
        connection: as accepted.
        door: the listening socket's, see `door_of`.

    All but `hang_up` and `close` raise OSError if the client is gone or the descriptor is no longer ours, and
    TimeoutError (an OSError) at the deadline.
    """

    def __init__(self, connection: socket.socket, door: object) -> None:
        self.family = connection.family
        self._own = OwnSocket(connection)
        # The trainer may have reused the number since the accept: then this socket is not from our listener.
        try:
            came_in = door_of(connection) == door and self._own.is_there()
        except OSError:
            came_in = False
        if not came_in:
            connection.detach()
            raise ConnectionAbortedError("the descriptor is no longer ours")
        self._number = connection.fileno()
        self._poll = select.poll()
        self._poll.register(self._number, select.POLLIN)
        self._waits_for = select.POLLIN
        try:
            connection.setblocking(False)
            if self.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            self.close()
            raise

    @property
    def socket(self) -> socket.socket:
        """The socket, for one immediate call only."""
        if not self._own.is_there():
            raise ConnectionAbortedError("the descriptor is no longer ours")
        return self._own.sock

    def receive(self, size: int, deadline: float, flags: int = 0) -> bytes:
        """Return what arrives before the deadline, or empty bytes if the client has finished sending."""
        while True:
            self._wait(select.POLLIN, deadline)
            try:
                return self._own.receive(size, flags)
            except BlockingIOError:
                continue

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of it."""
        sent = 0
        while sent < len(data):
            try:
                sent += self._own.send(data[sent : sent + _CHUNK_BYTES])
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline)

    def pause(self, seconds: float) -> None:
        """Wait, but stop early if the connection is hung up to make room or to shut down."""
        with contextlib.suppress(TimeoutError):
            self._wait(0, time.monotonic() + seconds)  # POLLHUP is always reported
            raise ConnectionResetError("hung up")

    def finish_sending(self) -> None:
        """Signal that we will send nothing more."""
        self._own.shut_down(socket.SHUT_WR)

    def drain(self, timeout_s: float) -> None:
        """Read and discard what still arrives, for at most `timeout_s`: unread data would reset the connection."""
        deadline = time.monotonic() + timeout_s
        while self.receive(_CHUNK_BYTES, deadline):
            if time.monotonic() >= deadline:
                return

    def hang_up(self) -> None:
        """Wake the connection's thread with an end of file; the thread closes the socket itself."""
        with contextlib.suppress(OSError):
            self._own.shut_down(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the descriptor, if it is ours."""
        self._own.close()

    def _wait(self, events: int, deadline: float) -> None:
        if events != self._waits_for:
            self._poll.modify(self._number, events)
            self._waits_for = events
        if not self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError


def door_of(sock: socket.socket) -> object:
    """Return what a listening socket shares with the connections that it accepts and with no other socket.

    Raises:
        OSError: the descriptor is closed, or not a socket.
    """
    name = sock.getsockname()
    return name[1] if isinstance(name, tuple) else name  # a port, or a path
