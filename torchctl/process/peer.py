"""Who is at the other end of a Unix socket, as recorded by the kernel.

Source: unix(7), SO_PEERCRED and struct ucred.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

_UCRED = struct.Struct("3i")  # pid, uid, gid


class Peer(NamedTuple):
    """The peer process: for a client the one that called `listen`, for a server the one that connected.

    Attributes:
        pid: 0 if the process is not visible from here (another pid namespace).
    """

    pid: int
    uid: int


def peer_of(connection: socket.socket) -> Peer:
    """Return the process at the other end of a connected Unix socket.

    Raises:
        OSError: the socket is not connected.
    """
    pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid, uid)
