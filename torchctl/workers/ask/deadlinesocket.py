"""A socket whose every wait ends at one deadline, whatever the HTTP library sets."""

from __future__ import annotations

import socket
import time
from typing import Any


class DeadlineSocket(socket.socket):
    """A socket with a deadline over all that is read and written; TLS's own class comes behind it as a second base.

    Attributes:
        deadline: `time.monotonic` seconds.

    Raises:
        TimeoutError: from each operation, when the deadline is over.
    """

    deadline = float("inf")

    def limit(self) -> None:
        """Let the next wait last until the deadline."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        super().settimeout(left)

    def settimeout(self, value: float | None) -> None:
        """Ignore what http.client and urllib3 would set: the deadline rules."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.limit()
        return super().recv_into(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        self.limit()
        return super().send(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.limit()
        super().sendall(*args, **kwargs)
