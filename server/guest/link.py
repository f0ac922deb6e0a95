"""The private socket between a server and the sentinel: the door where it connects, and the link that results.

How this works: both are ours only as long as the trainer leaves them alone (see `ownership`). When `is_there` finds
that the trainer has closed one, we give it up, and it has no descriptor from then on.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

from torchctl.process.peer import peer_of
from torchctl.server.guest import ownership
from torchctl.server.sentinel import handover

_GOODBYE_S = 0.3
_PROBE_BYTES = 64


class Door:
    """Listens at an abstract name that the kernel chooses.

    Attributes:
        name: without the NUL that marks it as abstract.

    Raises:
        OSError: out of descriptors.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.bind("")
            self._socket.listen(1)
            self._socket.setblocking(False)
            self._own = ownership.Sockets(self._socket)
            self.name = str(self._socket.getsockname()[1:].decode("ascii"))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return its number, -1 once it is closed or lost."""
        return self._socket.fileno()

    def is_there(self) -> bool:
        """Whether it is still ours."""
        return self._own.give_up_lost()

    def open(self) -> Link | None:
        """Accept a connection; return None for another user's process that guessed the name: ours may still come.

        Raises:
            OSError: the other side has left (BlockingIOError, ConnectionAbortedError), or we are out of descriptors.
        """
        connection, _ = self._socket.accept()
        pid, uid = peer_of(connection)
        if uid != os.geteuid():
            connection.close()
            return None
        return Link(connection, pid)

    def close(self) -> None:
        """Close it."""
        self._socket.close()


class Link:
    """A connection to the sentinel; both sides notice when it closes.

    Attributes:
        pid: the sentinel's.
    """

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self._socket = connection
        self._own = ownership.Sockets(connection)

    def fileno(self) -> int:
        """Return its number, -1 once it is closed or lost."""
        return self._socket.fileno()

    def is_there(self) -> bool:
        """Whether it is still ours."""
        return self._own.give_up_lost()

    def hand_over(self, description: handover.Handover, descriptors: list[int]) -> None:
        """Hand over what the sentinel needs to serve; from then on the link never blocks.

        Raises:
            OSError: the sentinel is gone.
        """
        handover.send(self._socket, description, descriptors)
        self._socket.setblocking(False)

    def receive(self) -> bytes | None:
        """Return a probe, empty if the link has closed, or None if nothing has arrived."""
        try:
            return self._socket.recv(_PROBE_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def send(self, data: bytes) -> None:
        """Send a probe back, so that the sentinel hands back at once."""
        with contextlib.suppress(OSError):
            self._socket.send(data, socket.MSG_NOSIGNAL)

    def invite(self, door: str) -> bool:
        """Send the sentinel the name of another server's door; return False if that fails."""
        if not self.is_there():
            return False
        try:
            self._socket.send(handover.JOIN + door.encode("ascii"), socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def say_goodbye(self, *, wait: bool) -> None:
        """End the link; with `wait`, once the sentinel has released the sockets or a moment has passed."""
        with contextlib.suppress(OSError):
            self._socket.send(handover.GOODBYE, socket.MSG_NOSIGNAL)
            if wait:
                self._socket.settimeout(_GOODBYE_S)
                while self._socket.recv(256):
                    pass  # probes; when the link closes, the sentinel has ended
        self._own.give_up_lost()
        self._socket.close()

    def close(self) -> None:
        """Close it without a goodbye."""
        self._socket.close()

    def collect(self) -> None:
        """Reap the sentinel if orphans become our children (process 1 of a container)."""
        deadline = time.monotonic() + _GOODBYE_S
        with contextlib.suppress(OSError):
            while os.waitpid(self.pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
                time.sleep(0.005)
