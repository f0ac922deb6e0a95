"""The read side of a client connection: one deadline per request."""

from __future__ import annotations

import io
import time

from torchctl import protocol
from torchctl.server.http.channel import Stream


class DeadlineReader(io.RawIOBase):
    """The read side of a connection, with one deadline per request instead of one per byte.

    The first request has REQUEST_TIMEOUT_S from the accept. A later one has IDLE_TIMEOUT_S to begin, then
    REQUEST_TIMEOUT_S from its first byte.

    Attributes:
        deadline: of the current request, in `time.monotonic` seconds.
        silent: none of its bytes has arrived yet.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.deadline = time.monotonic() + protocol.REQUEST_TIMEOUT_S
        self.silent = True

    def read_through(self, stream: Stream) -> None:
        """Read from another stream over the same connection, with the same deadline."""
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if time.monotonic() >= self.deadline:
            raise TimeoutError
        data = self._stream.receive(len(buffer), self.deadline)
        buffer[: len(data)] = data
        if self.silent and data:
            self.silent = False
            self.deadline = time.monotonic() + protocol.REQUEST_TIMEOUT_S
        return len(data)

    def next_request(self) -> None:
        """Give the next request the idle time to begin."""
        self.silent = True
        self.deadline = time.monotonic() + protocol.IDLE_TIMEOUT_S
