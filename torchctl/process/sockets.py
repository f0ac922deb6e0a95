"""The sockets that a process has open."""

from __future__ import annotations

import contextlib
import os


def socket_inodes(pid: int) -> set[str]:
    """Return the inodes of a process's open sockets, as /proc/net lists them; none if that may not be read."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                target = os.readlink(f"/proc/{pid}/fd/{name}")
                if target.startswith("socket:["):
                    found.add(target[len("socket:[") : -1])
    return found
