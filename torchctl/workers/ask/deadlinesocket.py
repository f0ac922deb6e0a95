"""A socket whose every wait ends at one deadline, whatever the HTTP library sets."""

from __future__ import annotations

import socket
import time
from typing import Any


class DeadlineSocket(socket.socket):
    """A socket with one deadline for all reads and writes; the TLS version adds `ssl.SSLSocket` as a second base.

    Attributes:
        deadline: `time.monotonic` seconds.

    Raises:
        TimeoutError: from any operation, once the deadline has passed.
    """

    deadline = float("inf")

    def limit(self) -> None:
        """Let the next wait last until the deadline."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        super().settimeout(left)

    def settimeout(self, value: float | None) -> None:
        """Ignore the timeouts that http.client and urllib3 set, because the deadline decides."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.limit()
        return super().recv_into(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        self.limit()
        return super().send(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.limit()
        super().sendall(*args, **kwargs)
