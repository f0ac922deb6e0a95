"""The read side of a client connection: one deadline per request."""

from __future__ import annotations

import io
import socket
import time

from torchctl import protocol


class DeadlineReader(io.RawIOBase):
    """The read side of a socket, with one deadline per request instead of one per byte.

    The first request has REQUEST_TIMEOUT_S from the accept. A later one has IDLE_TIMEOUT_S to begin, then
    REQUEST_TIMEOUT_S from its first byte.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + protocol.REQUEST_TIMEOUT_S
        self.silent = True  # no byte of the current request has come

    def left_s(self) -> float:
        """Return the seconds until the deadline; 0.001 when it is over, since 0 would mean not to wait."""
        return max(0.001, self._deadline - time.monotonic())

    def read_through(self, connection: socket.socket) -> None:
        """Read from another socket object of the same connection, with the same deadline."""
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        now = time.monotonic()
        if now >= self._deadline:
            raise TimeoutError
        self._connection.settimeout(self._deadline - now)
        count = self._connection.recv_into(buffer)
        if self.silent and count:
            self.silent = False
            self._deadline = time.monotonic() + protocol.REQUEST_TIMEOUT_S
        return count

    def next_request(self) -> None:
        """Allow the idle time for the next request to begin."""
        self.silent = True
        self._deadline = time.monotonic() + protocol.IDLE_TIMEOUT_S

    def drain(self, timeout_s: float) -> None:
        """Read and drop what still comes, for at most `timeout_s`: an unread rest would reset the answer."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            self._connection.settimeout(left)
            if not self._connection.recv(65536):
                return
